"""Every tensor inside of a model, for one input after another.

Memory is that of one sample's tensors, however many samples there are. Stored integers come out as
the real numbers that they stand for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from convert import graph, onnx_graph
from convert.errors import CannotConvert
from convert.original import Format
from edge.types import Array

Activations = Callable[[Array], dict[str, Array]]
"""Input tensor -> the input and all that follows from it, float32 by tensor name."""


def of(format: Format, model: bytes) -> Activations:
    """What runs the model so that nothing inside is lost. CannotConvert when it cannot be run."""
    return _onnx(model) if format == "onnx" else _tflite(model)


def _onnx(model: bytes) -> Activations:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    inside = [name for op in graph.read("onnx", model).ops for name in op.outputs]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            onnx_graph.with_outputs(model, inside), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises classes of its own making
        raise CannotConvert(f"the .onnx cannot be run: {_one_line(error)}") from error
    (source,) = [entry.name for entry in session.get_inputs()]
    names = [entry.name for entry in session.get_outputs()]

    def run(tensor: Array) -> dict[str, Array]:
        try:
            values = session.run(names, {source: tensor})
        except Exception as error:
            raise CannotConvert(f"the .onnx cannot be run: {_one_line(error)}") from error
        found = {source: tensor, **dict(zip(names, values, strict=True))}
        return {name: value for name, value in found.items() if _is_real(value)}

    return run


def _tflite(model: bytes) -> Activations:
    from ai_edge_litert.interpreter import Interpreter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that keeping all tensors takes memory
            interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError) as error:
        raise CannotConvert(f"the .tflite cannot be run: {_one_line(error)}") from error
    seen = graph.read("tflite", model)
    wanted = {*seen.inputs, *(name for op in seen.ops for name in op.outputs)}
    details = [entry for entry in interpreter.get_tensor_details() if entry["name"] in wanted]
    (source,) = interpreter.get_input_details()

    def run(tensor: Array) -> dict[str, Array]:
        try:
            interpreter.set_tensor(source["index"], _stored(tensor, source))
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise CannotConvert(f"the .tflite cannot be run: {_one_line(error)}") from error
        found = {}
        for entry in details:
            try:
                value = interpreter.get_tensor(entry["index"])
            except ValueError:
                continue  # never written: a tensor of a branch, or a state
            value = _real(value, entry)
            if _is_real(value):
                found[entry["name"]] = value
        return found

    return run


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.size > 0
        and (value.dtype.kind == "f" or value.dtype == np.uint8)
    )


def _real(stored: Array, detail: dict[str, Any]) -> Array:
    """Stored integers -> real numbers, by the tensor's own scale."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return stored
    return np.asarray(scale * (stored.astype(np.float64) - zero_point), np.float32)


def _stored(tensor: Array, detail: dict[str, Any]) -> Array:
    """Real numbers -> what the input stores, where it is quantised."""
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if scale and tensor.dtype != dtype:
        limits = np.iinfo(dtype)
        tensor = np.clip(np.round(tensor / scale) + zero_point, limits.min, limits.max)
    return np.asarray(tensor, dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
