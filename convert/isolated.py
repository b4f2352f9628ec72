"""Python environments of their own, for tools whose packages cannot live beside the converters'.

Invariant: a tool there is a process with a deadline, whose output is kept and not shown; it gets
files and leaves files. Making one needs the network, using one does not.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import edge
from convert.cache import user_folder
from convert.errors import ConversionError
from edge.errors import ConfigError

_READY = ".ready"
_LAST = 400
"""Characters of a failed tool's output that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is installed, exactly, and the variable that may name another interpreter."""

    name: str
    why: str
    requirements: tuple[str, ...]
    variable: str


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        # The versions of onnx2tf's own metadata, less TensorFlow, torch and pytest, and with the
        # headless OpenCV. On Python 3.11 they work although that metadata asks for 3.12.
        Environment(
            name="onnx2tf",
            why="ONNX to TFLite",
            requirements=(
                *("onnx2tf==2.6.9", "numpy==2.2.6", "onnx==1.20.1", "onnxruntime==1.26.0"),
                *("onnxsim==0.6.5", "onnxoptimizer==0.4.2", "onnxscript==0.6.2"),
                *("ai-edge-litert==2.1.2", "sne4onnx==2.0.1", "sng4onnx==2.0.1"),
                *("psutil==5.9.5", "protobuf==7.35.1", "h5py==3.14.0", "ml-dtypes==0.5.4"),
                *("flatbuffers==25.12.19", "tqdm==4.67.1", "typing-extensions==4.12.2"),
                "opencv-python-headless==4.13.0.92",
            ),
            variable="EDGE_ONNX2TF_PYTHON",
        ),
        # Its extension module was built against numpy 1; wheels end with Python 3.11.
        Environment(
            name="tflite-runtime",
            why="judging on tflite-runtime",
            requirements=(
                *("tflite-runtime==2.14.0", "numpy==1.26.4", "msgspec==0.22.0"),
                "opencv-python-headless==4.11.0.86",
            ),
            variable="EDGE_TFLITE_RUNTIME_PYTHON",
        ),
    )
}


def cache() -> Path:
    """Where environments are kept: $XDG_CACHE_HOME/edgewright/envs, by default in ~/.cache."""
    return user_folder() / "envs"


def find(name: str) -> Path:
    """The interpreter of an environment. ConfigError that names the command that makes it."""
    environment = ENVIRONMENTS[name]
    named = os.environ.get(environment.variable)
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{environment.variable}: {named}: no such file")
        return Path(named)
    folder = cache() / name
    if not (folder / _READY).is_file() or _made_of(folder) != environment.requirements:
        raise ConfigError(
            f"{environment.why} needs {name} in an environment of its own, which is not here;"
            f" make it once with: edge convert-env {name}"
        )
    return folder / "bin" / "python"


def make(name: str, *, deadline_s: float = 1200) -> Path:
    """Install an environment into the cache; one that is there already stays.

    ConversionError with pip's last words when it fails; nothing is left behind then.
    """
    environment = ENVIRONMENTS[name]
    folder = cache() / name
    if (folder / _READY).is_file() and _made_of(folder) == environment.requirements:
        return folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    pip = (
        *(str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"),
        *("--no-deps", "--ignore-requires-python", "--only-binary", ":all:"),
    )
    try:
        _call([sys.executable, "-m", "venv", str(folder)], deadline_s, f"making {name}")
        _call([*pip, *environment.requirements], deadline_s, f"installing {name}")
        (folder / _READY).write_text("\n".join(environment.requirements) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def run(
    name: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    deadline_s: float,
    with_edge: bool = False,
) -> str:
    """`python ARGUMENTS` in an environment, inside `folder`; what it printed.

    `with_edge` lets it import this edge. ConversionError with its last words when it fails or
    takes longer than `deadline_s`.
    """
    paths = {"PYTHONPATH": str(Path(edge.__file__).parent.parent)} if with_edge else {}
    return _call([str(find(name)), *arguments], deadline_s, name, folder, paths)


def _call(
    command: Sequence[str],
    deadline_s: float,
    what: str,
    folder: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> str:
    # PYTHONPATH would lead the tool to the packages of this environment.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, **variables, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"{what} took longer than {deadline_s:.0f} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        last = " ".join(printed.split())[-_LAST:]
        raise ConversionError(f"{what} failed (exit code {process.returncode}): … {last}")
    return printed


def _made_of(folder: Path) -> tuple[str, ...]:
    return tuple((folder / _READY).read_text().split())
