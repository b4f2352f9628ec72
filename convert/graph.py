"""A model file as a list of ops: the one view that quantisation and blame have of both formats.

An op's name is what `keep_float` takes: the node's name in ONNX (given to a node that has none,
see `onnx_graph.name_nodes`), the name of the first output tensor in TFLite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convert import onnx_graph
from convert.errors import CannotConvert
from convert.original import Format

Range = tuple[float, float]
"""Smallest and largest value of a tensor."""

# What may stand between a joined head and the output: it moves values or works on each alone.
_POSTPROCESSING = frozenset(
    {
        *("reshape", "transpose", "slice", "stridedslice", "squeeze", "unsqueeze", "flatten"),
        *("expanddims", "identity", "cast", "concat", "concatenation", "pack", "split", "splitv"),
        *("add", "sub", "mul", "div", "sigmoid", "logistic", "softmax", "exp", "clip", "relu"),
        *("minimum", "maximum", "min", "max", "quantize", "dequantize"),
    }
)
_JOINS = frozenset({"concat", "concatenation"})
# Activations that quantisers merge into the op before, and ops that hand their input's scale on.
MERGED = frozenset({"relu", "clip", "relu6", "minimum", "maximum", "min", "max"})
_HANDING_ON = MERGED | {
    *("reshape", "transpose", "slice", "stridedslice", "squeeze", "unsqueeze", "flatten", "split"),
    *("maxpool", "maxpool2d", "identity", "expanddims", "pad", "gather"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op. `inputs` are its activations alone, without constants and what follows from them."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The ops in an order in which they can run; the tensors that enter and leave."""

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(format: Format, model: bytes) -> Graph:
    """The main graph of a model file. CannotConvert when it cannot be read."""
    return _read_onnx(model) if format == "onnx" else _read_tflite(model)


def joined_heads(graph: Graph, ranges: Mapping[str, Range], *, apart: float) -> frozenset[str]:
    """The ops that must stay in float because they join parts of very different ranges.

    A quantised tensor has one scale: boxes in pixels beside scores of 0 to 1 leave the scores one
    or two of its 256 steps. From each output back through ops that only move values or work on
    each alone, a concatenation is found whose parts differ in range by more than `apart` times;
    it stays in float, with everything between it and the output.
    """
    producers = {name: op for op in graph.ops for name in op.outputs}
    kept: set[str] = set()

    def walk(tensor: str, between: tuple[str, ...]) -> None:
        op = producers.get(tensor)
        if op is None or kind(op.type) not in _POSTPROCESSING:
            return
        path = (*between, op.name)
        if kind(op.type) in _JOINS and _spread(op, ranges) > apart:
            kept.update(path)
            return
        for name in op.inputs:
            walk(name, path)

    for output in graph.outputs:
        walk(output, ())
    return frozenset(kept)


def float_region(graph: Graph, names: frozenset[str]) -> frozenset[str]:
    """These ops with those beside them that must stay in float, so that all they touch is float.

    A tensor is quantised by whichever of its ends is. An error that shows first in an op's output
    may come from its weights, from the range of its output, or from an input whose own error
    looked small beside one large channel: so what makes its inputs and what reads its outputs
    stay in float too, through ops that only hand a tensor on.
    """
    producers = {name: op for op in graph.ops for name in op.outputs}
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    kept: set[str] = set()

    def back(op: Op) -> None:
        for name in op.inputs:
            before = producers.get(name)
            if before is not None and before.name not in kept:
                kept.add(before.name)
                if kind(before.type) in _HANDING_ON:
                    back(before)

    def forth(op: Op) -> None:
        for name in op.outputs:
            for after in readers.get(name, ()):
                if after.name not in kept:
                    kept.add(after.name)
                    if kind(after.type) in _HANDING_ON:
                        forth(after)

    for op in graph.ops:
        if op.name in names:
            kept.add(op.name)
            back(op)
            forth(op)
    return frozenset(kept)


def kind(op_type: str) -> str:
    """An op's type as both formats would write it: Concat and CONCATENATION stay two, though."""
    return op_type.replace("_", "").lower()


def _spread(join: Op, ranges: Mapping[str, Range]) -> float:
    """How many times larger the largest part's values are than those of the smallest."""
    sizes = [max(abs(end) for end in ranges[name]) for name in join.inputs if name in ranges]
    sizes = [size for size in sizes if size > 0]
    return max(sizes) / min(sizes) if len(sizes) > 1 else 1.0


def _read_onnx(model: bytes) -> Graph:
    proto = onnx_graph.load(model)
    onnx_graph.name_nodes(proto)
    constants = {entry.name for entry in proto.graph.initializer}
    constants |= {entry.values.name for entry in proto.graph.sparse_initializer}
    ops = []
    for node in proto.graph.node:
        activations = tuple(name for name in node.input if name and name not in constants)
        if not activations:
            constants.update(node.output)
        outputs = tuple(name for name in node.output if name)
        ops.append(Op(name=node.name, type=node.op_type, inputs=activations, outputs=outputs))
    return Graph(
        ops=tuple(ops),
        inputs=tuple(entry.name for entry in proto.graph.input if entry.name not in constants),
        outputs=tuple(entry.name for entry in proto.graph.output),
    )


def _read_tflite(model: bytes) -> Graph:
    from ai_edge_litert import schema_py_generated as schema
    from litert_quantizer.utils import tfl_flatbuffer_utils

    try:
        content = tfl_flatbuffer_utils.read_model(model)
        (main, *_) = content.subgraphs
    except Exception as error:  # whatever a damaged flatbuffer leads to
        raise CannotConvert(f"the .tflite cannot be read: {error}") from error
    types = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    names = [tensor.name.decode() if tensor.name else "" for tensor in main.tensors]
    constant = {
        index
        for index, tensor in enumerate(main.tensors)
        if (data := content.buffers[tensor.buffer].data) is not None and len(data)
    }
    ops = []
    for operator in main.operators:
        code = content.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = types.get(number, str(number))
        inputs = [i for i in operator.inputs if i >= 0 and i not in constant]
        if not inputs:
            constant.update(operator.outputs)
        ops.append(
            Op(
                name=names[operator.outputs[0]] if len(operator.outputs) else "",
                type=code.customCode.decode() if name == "CUSTOM" and code.customCode else name,
                inputs=tuple(names[i] for i in inputs),
                outputs=tuple(names[i] for i in operator.outputs if i >= 0),
            )
        )
    return Graph(
        ops=tuple(ops),
        inputs=tuple(names[i] for i in main.inputs),
        outputs=tuple(names[i] for i in main.outputs),
    )
