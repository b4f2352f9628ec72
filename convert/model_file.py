"""A model file by anybody, .onnx or .tflite, opened as the device would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convert.original import Exported, Format
from edge import seams
from edge.accelerators import ONE_THREAD
from edge.errors import ConfigError, EngineError
from edge.manifest import Precision
from edge.types import Array, Layout, TensorSpec

COLOURS = (1, 3)


class ModelFile:
    """One model on edge's own engine, with one thread. It takes one input."""

    def __init__(self, path: Path) -> None:
        """ConfigError for what is no model file, EngineError for one that does not run here."""
        try:
            self.model = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        self.path = path
        self.format: Format = _format(path, self.model)
        try:
            adapter = seams.find("engines", self.format)
            self._engine: seams.Engine = adapter(self.model, settings=ONE_THREAD)
        except EngineError as error:
            raise EngineError(f"{path}: {error}") from error
        if len(self._engine.inputs) != 1:
            names = ", ".join(spec.name for spec in self._engine.inputs)
            raise ConfigError(f"{path}: takes {len(self._engine.inputs)} inputs ({names}), not one")
        self.input = _known(path, self._engine.inputs[0])
        self.outputs = self._engine.outputs
        # What a file says of its outputs' shapes need not be so.
        tried = self.run(np.zeros(self.input.shape, self.input.dtype))
        self.outputs = tuple(
            msgspec.structs.replace(spec, shape=tried[spec.name].shape) for spec in self.outputs
        )
        self.precision: Precision = (_of_onnx if self.format == "onnx" else _of_tflite)(self.model)
        self.engine = self._engine.name

    def run(self, tensor: Array) -> dict[str, Array]:
        """The input tensor -> outputs by name, those that are quantised as real numbers.

        EngineError when the runtime fails.
        """
        try:
            found = self._engine.run({self.input.name: tensor})
        except EngineError as error:
            raise EngineError(f"{self.path}: {error}") from error
        specs = {spec.name: spec for spec in self.outputs}
        return {name: _real(value, specs[name]) for name, value in found.items()}

    def exported(self) -> Exported:
        """The same for the modules that work on bytes."""
        return Exported(
            format=self.format,
            precision=self.precision,
            model=self.model,
            input=self.input,
            outputs=self.outputs,
        )

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _format(path: Path, model: bytes) -> Format:
    if model[4:8] == b"TFL3":
        return "tflite"
    if path.suffix.lower() == ".onnx":
        return "onnx"
    raise ConfigError(f"{path}: neither an .onnx nor a .tflite file")


def _known(path: Path, spec: TensorSpec) -> TensorSpec:
    """The spec with a batch of 1, and with the layout that its shape tells."""
    shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
    if any(size < 1 for size in shape):
        raise ConfigError(
            f"{path}: input {spec}: its size is open; export it with a fixed size and compare that"
        )
    layout: Layout = "other"
    if len(shape) == 4 and shape[3] in COLOURS:
        layout = "nhwc"
    elif len(shape) == 4 and shape[1] in COLOURS:
        layout = "nchw"
    return msgspec.structs.replace(spec, shape=shape, layout=layout)


def _real(value: Array, spec: TensorSpec) -> Array:
    if spec.quantization is None:
        return value
    scale, zero_point = spec.quantization.scale, spec.quantization.zero_point
    return (value.astype(np.float32) - zero_point) * np.float32(scale)


def _of_tflite(model: bytes) -> Precision:
    """int8 where activations are int8 or uint8, int8-dynamic where weights alone are."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=model)
    written = {
        int(index)
        for operation in interpreter._get_ops_details()
        for index in operation["outputs"]
        if operation["op_name"] != "DEQUANTIZE"
    }
    tensors = interpreter.get_tensor_details()
    small = [t for t in tensors if t["dtype"] in (np.int8, np.uint8) and _is_scaled(t)]
    if any(tensor["index"] in written for tensor in small):
        return "int8"
    if small:
        return "int8-dynamic"
    return "fp16" if any(tensor["dtype"] == np.float16 for tensor in tensors) else "fp32"


def _is_scaled(tensor: Any) -> bool:
    return len(tensor["quantization_parameters"]["scales"]) > 0


def _of_onnx(model: bytes) -> Precision:
    """By the operations: what quantises activations by fixed scales, or while it runs."""
    import onnx

    graph = onnx.load_from_string(model).graph
    kinds = {node.op_type for node in graph.node}
    if any(kind.startswith(("QLinear", "QuantizeLinear")) for kind in kinds):
        return "int8"
    if any("Dynamic" in kind or kind.endswith("Integer") for kind in kinds):
        return "int8-dynamic"
    if any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer):
        return "fp16"
    return "fp32"
