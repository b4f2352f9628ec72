"""The command as a user meets it before any converter is loaded. Needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_TORCH = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "litert_torch"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
sys.argv = ["convert", sys.argv[1]]
runpy.run_module("convert", run_name="__main__")
"""


def test_without_torch_it_names_the_extra(copy_recipe: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, copy_recipe("beeps")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert "pip install 'edgewright[convert]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_itself_imports_no_converter() -> None:
    script = (
        "import sys, convert.cli, convert.compare_cli;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    ).stdout.split()
    assert "convert" in loaded
    heavy = {"torch", "onnx", "onnxruntime", "litert_torch", "sklearn", "pycocotools", "cv2"}
    assert not heavy & set(loaded)


def test_mistakes_in_the_recipe_come_before_anything_else(
    copy_recipe: Callable[[str], Path], run_convert: Callable[..., Result]
) -> None:
    folder = copy_recipe("beeps")
    (folder / "recipe.toml").write_text('name = "beeps"\ntsk = "classify"\n')
    done = run_convert(folder)
    assert done.exit_code == 2
    assert f"{folder}/recipe.toml: tsk: unknown key; did you mean task?" in done.stderr
    assert f"{folder}/recipe.toml: version: missing" in done.stderr


def test_a_destination_that_is_no_bundle_is_left_alone(
    copy_recipe: Callable[[str], Path], run_convert: Callable[..., Result]
) -> None:
    folder = copy_recipe("beeps")
    done = run_convert(folder, "-o", str(folder))
    assert done.exit_code == 2
    assert "not empty and not a bundle" in done.stderr
