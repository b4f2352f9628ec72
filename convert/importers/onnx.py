"""ONNX: the file as it is, checked and cleaned, run by onnxruntime.

Invariant: cleaning changes nothing that the model says: the cleaned graph is held against the
file's own on a random input, and dropped when they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, defs, helper, numpy_helper, shape_inference, utils, version_converter

from convert.errors import CannotConvert, ConversionError, reason
from convert.exporters.strip import strip
from convert.importers import ModelSource
from convert.layouts import check_input, check_outputs, guess_layout, with_batch
from convert.original import Exported, ExportOptions, Format
from convert.probe import noise, worst_error
from edge.engines.onnx import OnnxEngine
from edge.errors import EngineError
from edge.types import Array, TensorSpec

OLDEST_OPSET = 13
"""Quantisation per channel came with it (QuantizeLinear with an axis)."""
EXACT = 1e-5
"""Folding constants rounds otherwise in the last place; relative to an output's range."""
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_RUNTIMES_OWN = ("com.microsoft",)
"""Domains whose operators onnxruntime has beside the standard's."""
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "BatchNormalization"}
"""Their constants are weights; elsewhere an infinity may be a mask."""
_NUMBERS = ("float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool")


class OnnxModel:
    """The original as an ONNX graph with a batch of 1."""

    module: Any = None

    def __init__(
        self,
        proto: onnx.ModelProto,
        *,
        input: TensorSpec | None,
        outputs: tuple[str, ...],
        where: str,
    ) -> None:
        self._where = where
        notes: list[str] = []
        found = _input(proto, where)
        proto = _with_outputs(proto, outputs, notes, where)
        self.input = check_input(found, input, where)
        if self.input.shape[:1] not in ((), (1,)):
            raise ConversionError(
                f"{where}: has a fixed batch of {self.input.shape[0]}; export it with a batch of 1"
                " or an open one"
            )
        proto = _upgraded(proto, self.input, notes)
        self._open = _with_shape(proto, with_batch(self.input, -1)) if found.shape[0] < 0 else None
        self._proto = _cleaned(_with_shape(proto, self.input), self.input, notes)
        try:
            self._engine = OnnxEngine(self._proto.SerializeToString())
            self.outputs = tuple(
                TensorSpec(name=name, shape=value.shape, dtype=value.dtype.name)
                for name, value in self.run(noise(self.input)).items()
            )
        except EngineError as error:
            raise ConversionError(f"{where}: {error}") from error
        _state_outputs(self._proto, self.outputs)
        if self._open is not None:
            _state_outputs(self._open, tuple(with_batch(spec, -1) for spec in self.outputs))
        self.notes = (f"opset {_opset(proto)}", *notes)

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor of `input` -> raw outputs by name."""
        try:
            return self._engine.run({self.input.name: tensor})
        except EngineError as error:
            raise ConversionError(f"{self._where}: {error}") from error

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """ONNX: the cleaned file. TFLite: by onnx2tf, or for a tree ensemble as a torch module."""
        if format == "onnx":
            return self._onnx(options)
        if any(node.domain == "ai.onnx.ml" for node in self._proto.graph.node):
            return self._trees(options)
        from convert.exporters import onnx2tf

        static = self._onnx(ExportOptions(fold=options.fold))
        return onnx2tf.export(static, dynamic_batch=options.dynamic_batch)

    def _trees(self, options: ExportOptions) -> Exported:
        """A tree ensemble, for which TFLite has no operator, as matrix products."""
        from convert.exporters import tflite, trees

        if len(self.outputs) != 1:
            names = ", ".join(spec.name for spec in self.outputs)
            raise CannotConvert(f"to TFLite trees give one output; state which ({names})")
        module = trees.module_of(self._proto, self.outputs[0].name).eval()
        return tflite.export(module, self.input, self.outputs, options)

    def _onnx(self, options: ExportOptions) -> Exported:
        proto, input, outputs = self._proto, self.input, self.outputs
        notes: tuple[str, ...] = ()
        if options.dynamic_batch and self._open is not None:
            proto, input = self._open, with_batch(input, -1)
            outputs = tuple(with_batch(spec, -1) for spec in outputs)
        elif options.dynamic_batch:
            notes = ("the file has a fixed batch, which stays 1",)
        model = strip(proto)
        if options.fold is not None:
            from convert import onnx_graph

            model, input = onnx_graph.fold(model, options.fold, input)
        return Exported(
            format="onnx", precision="fp32", model=model, input=input, outputs=outputs, notes=notes
        )


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> OnnxModel:
    """The graph of a .onnx, with the data that lies beside it.

    ConversionError for a broken file, operators that nothing here runs, and weights that are not
    finite.
    """
    where = str(source.path)
    proto = read(source.path)
    try:
        _check_operators(proto)
        # The checker wants shapes of all outputs, which some exporters leave to be inferred.
        checker.check_model(shape_inference.infer_shapes(proto))
        check_weights(proto)
    except ConversionError as error:
        raise ConversionError(f"{where}: {error}") from error
    except checker.ValidationError as error:
        raise ConversionError(f"{where}: not a valid ONNX model: {reason(error)}") from error
    return OnnxModel(proto, input=input, outputs=outputs, where=where)


def read(path: Path) -> onnx.ModelProto:
    """The file with its external data. ConversionError when it cannot be read."""
    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ConversionError(
            f"{path}: not an ONNX file, or cut short; export or copy it again"
        ) from error
    except (OSError, ValueError, checker.ValidationError) as error:
        raise ConversionError(f"{path}: cannot be read: {reason(error)}") from error


def check_weights(proto: onnx.ModelProto) -> None:
    """ConversionError with the name of a constant that is not a number, or of infinite weights."""
    users: dict[str, set[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    for name, tensor in _constants(proto):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f":
            continue
        weights = users.get(name, set()) & _WEIGHTED
        if np.isnan(values).any() or (weights and not np.isfinite(values).all()):
            raise ConversionError(f"{name} holds values that are not finite; train it again")


def _constants(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in proto.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _check_operators(proto: onnx.ModelProto) -> None:
    """Each operator must be of the standard at the file's opset, of the runtime, or a function."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    own = {(function.domain, function.name) for function in proto.functions}
    unknown: set[str] = set()
    for node in proto.graph.node:
        if node.domain in _RUNTIMES_OWN or (node.domain, node.op_type) in own:
            continue
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = versions.get(node.domain, versions.get(domain, 0))
        if domain not in _STANDARD or not defs.has(node.op_type, version, domain):
            unknown.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
    if unknown:
        raise ConversionError(
            f"operators that no runtime here has: {', '.join(sorted(unknown))}; export the model"
            " with operators of ONNX itself"
        )


def renamed(proto: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """The graph with another name for one of its tensors, which must be free."""
    for node in proto.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        value.name = new if value.name == old else value.name
    return proto


def _opset(proto: onnx.ModelProto) -> int:
    return max(
        (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")),
        default=0,
    )


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec | None:
    """None for a sequence, a map, or a tensor of no numbers."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return None
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except KeyError:
        return None
    if dtype not in _NUMBERS:
        return None
    shape = tuple(dim.dim_value if dim.dim_value > 0 else -1 for dim in kind.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype=dtype, layout=guess_layout(shape))


def _input(proto: onnx.ModelProto, where: str) -> TensorSpec:
    """The one tensor that the graph takes; older files list their weights as inputs, too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    values = [value for value in proto.graph.input if value.name not in weights]
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ConversionError(f"{where}: takes {len(values)} inputs ({names}); it must be one")
    spec = _tensor_spec(values[0])
    if spec is None or not spec.shape:
        raise ConversionError(f"{where}: input {values[0].name} is no tensor of a known rank")
    return spec


def _with_outputs(
    proto: onnx.ModelProto, stated: tuple[str, ...], notes: list[str], where: str
) -> onnx.ModelProto:
    """The graph with the stated outputs alone; without any, with all of numbers."""
    proto = _without_zipmap(proto, notes)
    every = [value.name for value in proto.graph.output]
    names = check_outputs(every, stated, where)
    if not stated:
        names = tuple(v.name for v in proto.graph.output if _tensor_spec(v) is not None)
        dropped = [name for name in every if name not in names]
        if dropped:
            notes.append(f"left out {', '.join(dropped)}: not a tensor of numbers")
    if not names:
        raise ConversionError(f"{where}: gives no tensor of numbers ({', '.join(every)})")
    if list(names) == every:
        return proto
    return utils.Extractor(shape_inference.infer_shapes(proto)).extract_model(
        [value.name for value in proto.graph.input], list(names)
    )


def _without_zipmap(proto: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """Probabilities as the tensor that they are, where scikit-learn's exporter made maps of it."""
    zipped = {node.output[0]: node for node in proto.graph.node if node.op_type == "ZipMap"}
    for value in proto.graph.output:
        node = zipped.get(value.name)
        if node is not None:
            plain = helper.make_node("Identity", node.input[:], node.output[:], node.name)
            node.CopyFrom(plain)
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None))
            notes.append(f"{value.name} is the tensor, not the map that ZipMap made of it")
    return proto


def _with_shape(proto: onnx.ModelProto, spec: TensorSpec) -> onnx.ModelProto:
    """The graph for this input shape (-1 is open), with all shapes inferred anew."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for value in changed.graph.input:
        if value.name == spec.name:
            kind = value.type.tensor_type.elem_type
            shape = ["batch" if size < 0 else size for size in spec.shape]
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))
    changed.graph.ClearField("value_info")
    for value in changed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(changed, data_prop=True)


def _state_outputs(proto: onnx.ModelProto, outputs: tuple[TensorSpec, ...]) -> None:
    """Shapes of outputs that were seen in a run and not inferred: ai.onnx.ml has no inference."""
    for value, spec in zip(proto.graph.output, outputs, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            shape = ["batch" if size < 0 else size for size in spec.shape]
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))


def _upgraded(proto: onnx.ModelProto, spec: TensorSpec, notes: list[str]) -> onnx.ModelProto:
    """An opset that quantisation can work with, where the file's is older."""
    before = _opset(proto)
    if not 0 < before < OLDEST_OPSET:
        return proto
    upgraded = _attempt(lambda: version_converter.convert_version(proto, OLDEST_OPSET), proto, spec)
    if isinstance(upgraded, str):
        notes.append(f"opset {before} is kept, static int8 needs {OLDEST_OPSET}: {upgraded}")
        return proto
    notes.append(f"upgraded from opset {before}")
    return upgraded


def _cleaned(proto: onnx.ModelProto, spec: TensorSpec, notes: list[str]) -> onnx.ModelProto:
    """Constants folded and what nobody uses left out, where that makes the graph smaller."""
    import onnxslim

    def slim() -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        return onnxslim.slim(copy)

    slimmed = _attempt(slim, proto, spec)
    if isinstance(slimmed, str):
        notes.append(f"not cleaned: {slimmed}")
        return proto
    before, after = len(proto.graph.node), len(slimmed.graph.node)
    if after >= before:
        return proto
    notes.append(f"cleaned from {before} to {after} operators")
    return slimmed


def _attempt(
    change: Callable[[], onnx.ModelProto], proto: onnx.ModelProto, spec: TensorSpec
) -> onnx.ModelProto | str:
    """A changed graph that says the same, or in one line why there is none."""
    tensor = {spec.name: noise(spec)}
    try:
        wanted = OnnxEngine(_with_shape(proto, spec).SerializeToString()).run(tensor)
    except EngineError as error:
        return reason(error)
    try:
        changed = change()
        found = OnnxEngine(_with_shape(changed, spec).SerializeToString()).run(tensor)
    except Exception as error:  # tools that rewrite graphs fail in many ways
        return reason(error)
    worst = worst_error(wanted, found)
    return changed if worst <= EXACT else f"the changed graph is off by {worst:.2g} of the range"
