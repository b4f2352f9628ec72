"""A file with a trained model -> an Original that can be run and exported; one file a framework.

Importing this package imports no framework: each is imported when a model of its kind is loaded.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from convert.errors import ConversionError
from convert.original import Original
from edge.errors import ConfigError
from edge.types import TensorSpec

Kind = Literal["torch", "program", "keras", "sklearn", "boosting", "onnx", "tflite"]

IMPORTERS: dict[Kind, str] = {
    "torch": "convert.importers.torch:load",
    "program": "convert.importers.program:load",
    "keras": "convert.importers.keras:load",
    "sklearn": "convert.importers.sklearn:load",
    "boosting": "convert.importers.boosting:load",
    "onnx": "convert.importers.onnx:load",
    "tflite": "convert.importers.tflite:load",
}
_SUFFIXES: dict[str, Kind] = {
    ".safetensors": "torch",
    ".pt": "torch",
    ".pth": "torch",
    ".pt2": "program",
    ".keras": "keras",
    ".skops": "sklearn",
    ".joblib": "sklearn",
    ".json": "boosting",
    ".ubj": "boosting",
    ".txt": "boosting",
    ".onnx": "onnx",
    ".tflite": "tflite",
}
_TORCHSCRIPT = (
    "TorchScript keeps neither the code nor a graph that today's exporters take, so it cannot be"
    " converted; from the original code save torch.export.save(torch.export.export(module,"
    " (example,)), 'model.pt2'), or export ONNX, and convert that"
)
_WAYS_OUT = {
    ".ts": _TORCHSCRIPT,
    ".torchscript": _TORCHSCRIPT,
    ".pkl": "a pickle can run any code when it is opened, so it is not; save scikit-learn with"
    " skops.io.dump, xgboost and lightgbm with save_model, torch with safetensors",
    ".ckpt": "a checkpoint is a pickle; save its state dict as .safetensors",
    ".h5": "an old Keras file; load it with the Keras that made it and save it as .keras",
    ".pb": "a TensorFlow graph; convert it to .tflite with TensorFlow and bring that",
}
_WAYS_OUT[".pickle"] = _WAYS_OUT[".pkl"]
_WAYS_OUT[".hdf5"] = _WAYS_OUT[".h5"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a trained model comes from.

    `path` is the model file, or for torch the weights. `factory` makes the torch module that they
    belong to. `unsafe_joblib` opens a .joblib, which runs whatever code its maker put in.
    """

    kind: Kind
    path: Path
    factory: Callable[[], Any] | None = None
    unsafe_joblib: bool = False


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> Original:
    """The trained model of a source.

    torch needs `input`, which cannot be read from weights; for the others it is held against the
    file, as are `outputs`, in whose order the outputs come. ConversionError when the file is
    broken or is not what was stated, ConfigError when a package is missing.
    """
    if not source.path.is_file():
        raise ConfigError(f"{source.path}: no such file")
    module, _, function = IMPORTERS[source.kind].partition(":")
    importer = getattr(importlib.import_module(module), function)
    return cast(Original, importer(source, input=input, outputs=outputs))


def kind_of(path: Path) -> Kind:
    """The kind of a model file, by its name and by what is in it.

    ConversionError with the way out for what is not taken in.
    """
    suffix = path.suffix.lower()
    if suffix in _WAYS_OUT:
        raise ConversionError(f"{path}: {_WAYS_OUT[suffix]}")
    if suffix not in _SUFFIXES:
        raise ConversionError(
            f"{path}: not a model file that is known; there are {', '.join(sorted(_SUFFIXES))}"
        )
    if suffix in (".pt", ".pth"):
        return _torch_kind(path)
    return _SUFFIXES[suffix]


def _torch_kind(path: Path) -> Kind:
    """A .pt may hold weights, TorchScript, or an exported program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return "torch"
    if "archive_format" in names:
        return "program"
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise ConversionError(f"{path}: {_TORCHSCRIPT}")
    return "torch"


def need(module: str, extra: str) -> Any:
    """A framework's module; ConfigError that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module.partition('.')[0]} is not installed here; pip install 'edgewright[{extra}]'"
        ) from error
