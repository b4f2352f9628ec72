"""Who may import whom, and whether what the tables name is really there."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest
from needs import ROOT, missing

import edge
from edge import seams
from edge.errors import ConfigError

HEAVY = {
    *("onnxruntime", "ai_edge_litert", "tflite_runtime", "cv2", "click", "paho", "rich", "amqtt"),
    "edgefirst",
    *("torch", "tensorflow", "onnx", "sklearn", "PIL", "convert", "models"),
}
TABLES = [(seam, name) for seam, table in seams._TABLES.items() for name in table]


def imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import edge",
        "import edge.agent, edge.check, edge.doctor",
        # every adapter's Config can be read without its library
        "from edge import config_schema; config_schema.json_schema()",
    ],
)
def test_importing_the_package_imports_no_adapter_library(statement: str) -> None:
    assert imported_by(statement) & HEAVY == set()


# What a start of the agent must not pay for: each costs milliseconds, and is needed by few.
NOT_AT_START = {
    *("asyncio", "email", "http", "ssl", "importlib.metadata", "zipfile", "tarfile", "subprocess"),
    *("tempfile", "difflib", "statistics", "fractions", "multiprocessing", "unittest", "xml"),
    *("edge.recognize", "edge.doctor", "edge.check", "edge.demo", "numpy.ma", "numpy.testing"),
}
AGENT = """
import sys
from edge import seams
from edge.agent import Agent
from edge.cli import run
from edge.config import load
for seam, name in (("sinks", "jsonl"), ("sources", "csv"), ("engines", "onnx")):
    seams.find(seam, name)
load({path!r})
print(*sys.modules)
"""


def test_a_start_of_the_agent_imports_nothing_that_few_need(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[[pipeline]]\nname = "wrist"\nbundle = "builtin:wrist_activity"\n'
        'source = { type = "csv", path = "a.csv" }\n[[sink]]\ntype = "jsonl"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", AGENT.format(path=str(path))],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    modules = set(done.stdout.split())
    assert modules & NOT_AT_START == set()
    assert modules & {"cv2", "paho", "rich", "onnxruntime", "ai_edge_litert"} == set()


def test_the_parent_of_an_agent_is_next_to_nothing() -> None:
    """It forks with what the interpreter has anyway, so that it starts at once and stays small."""
    found = imported_by("import edge.__main__, edge.supervisor")
    assert found & {*HEAVY, "numpy", "msgspec", "logging", "subprocess", "ctypes", "json"} == set()
    whole = subprocess.run(
        [sys.executable, "-c", "import edge.__main__, edge.supervisor, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    ours = {name for name in whole.stdout.split() if name.partition(".")[0] == "edge"}
    assert ours == {"edge", "edge.__main__", "edge.signals", "edge.supervisor"}


def test_the_package_knows_its_version_without_looking_it_up() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert edge.__version__ == project["version"]


def test_the_layers_are_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists() and shutil.which("lint-imports") is None:
        missing("lint-imports")
    done = subprocess.run(
        [program if program.exists() else "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("seam", "name"), TABLES, ids=[f"{s}-{n}" for s, n in TABLES])
def test_every_adapter_is_where_its_table_says(seam: str, name: str) -> None:
    adapter = seams.find(seam, name)
    settings = {"decoders": "Params", "engines": None}.get(seam, "Config")
    if settings is not None:
        struct = getattr(adapter, settings)
        assert issubclass(struct, msgspec.Struct) and struct.__doc__
    protocol = {
        "sources": seams.Source,
        "engines": seams.Engine,
        "sinks": seams.Sink,
        "decoders": seams.Decode,
        "rules": seams.Watcher if hasattr(adapter, "watch") else seams.Rule,
    }[seam]
    methods = [
        method
        for method, _ in inspect.getmembers(protocol, inspect.isfunction)
        if method == "__call__" or not method.startswith("_")
    ]
    assert 1 <= len(methods) <= 4, "a seam is small"
    for method in methods:
        ours = list(inspect.signature(getattr(adapter, method)).parameters)
        assert ours == list(inspect.signature(getattr(protocol, method)).parameters)


def test_an_unknown_adapter_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no sink is called 'pigeon'; there are jsonl, mqtt"):
        seams.find("sinks", "pigeon")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that the device's owner installed: a sink of a new name, and one of ours."""
    points = [
        EntryPoint("pigeon", "pathlib:PurePosixPath", "edge.sinks"),
        EntryPoint("mqtt", "pathlib:PureWindowsPath", "edge.sinks"),
    ]
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda *, group: [point for point in points if point.group == group],
    )
    seams._installed.cache_clear()
    yield
    seams._installed.cache_clear()


@pytest.mark.usefixtures("installed")
def test_an_installed_package_may_add_to_a_table_and_not_replace_in_it() -> None:
    assert seams.names("sinks") == ["jsonl", "mqtt", "pigeon"]
    assert seams.find("sinks", "pigeon").__name__ == "PurePosixPath"
    assert seams.find("sinks", "mqtt").__name__ == "Mqtt"
