"""TFLite: the file as it is, run by LiteRT; its precision is read from its tensors."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from convert.errors import CannotConvert, ConversionError
from convert.exporters import FIXED_BATCH
from convert.importers import ModelSource
from convert.layouts import check_input, check_outputs, guess_layout
from convert.original import Exported, ExportOptions, Format
from convert.probe import noise
from edge.engines.tflite import TfliteEngine
from edge.errors import EngineError
from edge.manifest import Precision
from edge.types import Array, TensorSpec

_IDENTIFIER = b"TFL3"
_WHOLE = {np.int8, np.uint8, np.int16}
_BETWEEN = {"QUANTIZE", "DEQUANTIZE"}
"""Operators at the border of a quantised part; they say nothing of what is computed within."""


class TfliteModel:
    """The original as a .tflite; the only variant that can come of it is itself."""

    module: Any = None

    def __init__(
        self,
        model: bytes,
        *,
        input: TensorSpec | None,
        outputs: tuple[str, ...],
        where: str,
    ) -> None:
        self._model = model
        self._where = where
        try:
            self._engine = TfliteEngine(model)
        except EngineError as error:
            raise ConversionError(f"{where}: {error}") from error
        if len(self._engine.inputs) != 1:
            taken = ", ".join(spec.name for spec in self._engine.inputs)
            raise ConversionError(
                f"{where}: takes {len(self._engine.inputs)} inputs ({taken}); it must be one"
            )
        found = self._engine.inputs[0]
        found = msgspec.structs.replace(found, layout=guess_layout(found.shape))
        self.input = check_input(found, input, where)
        names = check_outputs([spec.name for spec in self._engine.outputs], outputs, where)
        self.outputs = tuple(spec for spec in self._engine.outputs if spec.name in names)
        # The shapes in some files are those of an unfinished converter.
        self.outputs = tuple(
            msgspec.structs.replace(spec, shape=value.shape)
            for spec, value in zip(self.outputs, self.run(noise(self.input)).values(), strict=True)
        )
        self.precision = precision(model)
        self.notes = (f"a .tflite at {self.precision}, taken in as it is",)

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor in the dtype of `input` -> raw outputs by name, in the file's dtypes."""
        try:
            found = self._engine.run({self.input.name: tensor})
        except EngineError as error:
            raise ConversionError(f"{self._where}: {error}") from error
        return {spec.name: found[spec.name] for spec in self.outputs}

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """The file itself, as TFLite alone."""
        if format == "onnx":
            raise CannotConvert(
                "there is no way from a .tflite to ONNX; bring the model that it was made from"
            )
        if options.fold is not None:
            raise CannotConvert("a .tflite is taken in as it is: nothing can be folded into it")
        return Exported(
            format="tflite",
            precision=self.precision,
            model=self._model,
            input=self.input,
            outputs=self.outputs,
            notes=(FIXED_BATCH,) if options.dynamic_batch else (),
        )


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> TfliteModel:
    """The model of a .tflite. ConversionError for what LiteRT does not take."""
    model = source.path.read_bytes()
    if model[4:8] != _IDENTIFIER:
        raise ConversionError(f"{source.path}: not a .tflite file; convert or copy it again")
    return TfliteModel(model, input=input, outputs=outputs, where=str(source.path))


def precision(model: bytes) -> Precision:
    """Of the weights and of what is computed between them; `model` is one that LiteRT takes."""
    from ai_edge_litert.interpreter import Interpreter

    # Before its tensors are allocated no delegate has taken the operators together.
    interpreter = Interpreter(model_content=model)
    dtypes = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    computed = {index for operator in operators for index in operator["outputs"]}
    given = {detail["index"] for detail in interpreter.get_input_details()}
    weights: set[Any] = set()
    activations: set[Any] = set()
    for operator in operators:
        constants = set(operator["inputs"]) - computed - given
        weights |= {dtypes[index] for index in constants if index in dtypes}
        if operator["op_name"] not in _BETWEEN:
            activations |= {dtypes[index] for index in operator["outputs"] if index in dtypes}
    if activations & _WHOLE:
        return "int8"
    if weights & _WHOLE:
        return "int8-dynamic"
    return "fp16" if np.float16 in weights else "fp32"
