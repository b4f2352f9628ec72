"""The wheel, installed into an environment of its own far from the clone, has all that it needs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from needs import ROOT, missing

from .running import Ended, edge

pytestmark = pytest.mark.slow
NO_INDEX = ("NewConnectionError", "No matching distribution found", "ConnectTimeoutError")


@dataclasses.dataclass(frozen=True)
class Installed:
    wheel: Path
    home: Path

    def run(self, program: str, *arguments: str, cwd: Path) -> Ended:
        """A program of the environment, without a way back to the clone."""
        place = str(self.home / "bin" / program)
        return edge(*arguments, cwd=cwd, env={"PYTHONPATH": ""}, program=[place])


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built as the README says, and installed with what its demo needs. About half a minute."""
    folder = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    home = folder / "home"
    venv.create(home, with_pip=True)
    _pip(str(home / "bin" / "python"), "install", "--no-compile", f"{wheel}[demo]")
    return Installed(wheel, home)


def _pip(python: str, *arguments: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
        missing("a package index")
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_what_it_must_and_no_more(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    for needed in ("BUNDLE.md", "py.typed", "sources/digits.png", "cli/edge.toml"):
        assert f"edge/{needed}" in names
    assert "convert/py.typed" in names
    for model in ("meter_reader", "wrist_activity"):
        here = ROOT / "models" / model / "bundle"
        files = {file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()}
        place = f"edge/_bundles/{model}/"
        assert {n.removeprefix(place) for n in names if n.startswith(place)} == files
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"edge", "convert"}
    assert not [name for name in names if "test" in name or name.endswith((".pyc", ".safetensors"))]
    assert installed.wheel.stat().st_size < 10_000_000


def test_its_demo_runs_far_from_the_clone(installed: Installed, tmp_path: Path) -> None:
    ended = installed.run("edge", "demo", "--seconds", "4", "--headless", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["events_missing"] == 0 < summary["events_received"]
    assert all(pipeline["frames"] for pipeline in summary["pipelines"])
    assert (tmp_path / "edge-demo.jpg").stat().st_size > 0


def test_its_bundles_and_modules_are_its_own(installed: Installed, tmp_path: Path) -> None:
    program = (
        "import edge; from edge.bundle import Bundle; print(edge.__file__);"
        "print(*(Bundle.open(f'builtin:{n}').path for n in ('meter_reader', 'wrist_activity')))"
    )
    asked = installed.run("python", "-c", program, cwd=tmp_path)
    assert asked.code == 0, asked.err
    for path in asked.out.split():
        assert Path(path).is_relative_to(installed.home) and "site-packages" in path
    ended = installed.run("edge", "inspect", "builtin:meter_reader", "--run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "meter_reader" in ended.out and "onnx-int8" in ended.out


def test_its_commands_say_what_is_missing(installed: Installed, tmp_path: Path) -> None:
    """No torch here: `edge convert` names the extra; `init` finds its template."""
    assert installed.run("edge", "init", cwd=tmp_path).code == 0
    ended = installed.run("edge", "convert", str(ROOT / "models/wrist_activity"), cwd=tmp_path)
    assert ended.code == 2
    assert "edgewright[convert]" in ended.err and len(ended.complaints) == 1
