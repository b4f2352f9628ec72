"""A .pt2: an ExportedProgram of torch.export.

Invariant: nothing in the file runs. torch's loader unpickles what the archive marks as pickled,
compiles the guards and loads native libraries; an archive that holds any of that is refused before
the loader sees it, and guards are dropped.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader, load_pt2

from convert.errors import ConversionError, reason
from convert.importers import ModelSource
from convert.importers.torch import TorchModel
from convert.layouts import check_input, guess_layout
from edge.types import TensorSpec

_PLAIN = re.compile(r"(?!.*__)[\w\s+\-*/(),%<>=&|~!]*")
"""A symbolic size: torch has sympy evaluate its text."""


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> TorchModel:
    """The program as a module. Its one input's name, shape and dtype are those of the file."""
    path = source.path
    data = path.read_bytes()
    try:
        _check_plain(data)
        # Not torch.export.load: where this here fails it turns to an older format, unchecked.
        archive = load_pt2(io.BytesIO(data))
        program = archive.exported_programs["model"]
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    except Exception as error:  # a broken archive fails in many ways
        raise ConversionError(
            f"{path}: not an exported program that torch {torch.__version__} can read"
            f" ({reason(error)}); save it again with torch.export.save"
        ) from error
    program._guards_code = []
    spec = check_input(_input(program, str(path)), input, str(path))
    module = program.module(check_guards=False)
    for name in ("train", "eval"):
        # A program has no modes; torch lets these raise, and eval() of a module around it too.
        module.__dict__.pop(name, None)
    return TorchModel(module, input=spec, outputs=outputs, where=str(path))


def _check_plain(data: bytes) -> None:
    """ConversionError for an archive with anything in it that could run."""
    with PT2ArchiveReader(io.BytesIO(data)) as archive:
        names = archive.get_file_names()
        if len(set(names)) != len(names):
            raise ConversionError("holds two files of one name; it is not opened")
        for name in names:
            if name.startswith("data/aotinductor/"):
                raise ConversionError("holds compiled code for one machine; save the program alone")
            if re.fullmatch(r"data/(weights|constants)/[^/]*\.pt", name):
                raise _pickled(name)
            if name.endswith("_config.json"):
                for entry in json.loads(archive.read_string(name))["config"].values():
                    plain = entry["path_name"].startswith(("weight_", "tensor_"))
                    if entry["use_pickle"] or not plain:
                        raise _pickled(entry["path_name"])
            if name.startswith("data/sample_inputs/"):
                _check_sample(name, archive.read_bytes(name))
            if name.startswith("models/"):
                for text in _expressions(json.loads(archive.read_string(name))):
                    if not _PLAIN.fullmatch(text):
                        raise ConversionError(f"holds {text!r} for a size; it is not opened")


def _check_sample(name: str, data: bytes) -> None:
    """The loader opens the sample inputs without care when this here fails."""
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except pickle.UnpicklingError as error:
        raise _pickled(name) from error


def _pickled(name: str) -> ConversionError:
    return ConversionError(
        f"holds {name} as a pickle, which can run any code, so it is not opened; save a program of"
        " plain tensors with torch.export.save, or export ONNX"
    )


def _expressions(value: Any) -> Iterator[str]:
    """The texts of all symbolic sizes, at any depth."""
    if isinstance(value, list):
        for part in value:
            yield from _expressions(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key == "expr_str":
                yield str(part)
            yield from _expressions(part)


def _input(program: torch.export.ExportedProgram, where: str) -> TensorSpec:
    """The one tensor that the program takes."""
    wanted = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [node.meta["val"] for node in nodes if node.name in wanted]
    if len(wanted) != 1 or len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise ConversionError(f"{where}: the program takes {len(wanted)} inputs; only one can be")
    shape = [size if isinstance(size, int) else -1 for size in values[0].shape]
    return TensorSpec(
        name=wanted[0],
        shape=tuple(shape),
        dtype=str(values[0].dtype).removeprefix("torch."),
        layout=guess_layout(shape),
    )
