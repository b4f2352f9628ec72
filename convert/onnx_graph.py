"""Surgery on ONNX graphs: bytes or a ModelProto in, the same out. Nothing is run here.

Invariant: what a graph computes stays the same, apart from what the function's name says.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convert.errors import CannotConvert, ConversionError
from edge.manifest import ImagePreprocess
from edge.types import TensorSpec


def load(model: bytes) -> onnx.ModelProto:
    """The bytes of a .onnx, parsed. CannotConvert when they are none."""
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's DecodeError, or what a damaged field leads to
        raise CannotConvert(f"the .onnx cannot be read: {error}") from error
    if not proto.graph.node:
        raise CannotConvert("the .onnx cannot be read: it has no nodes")
    return proto


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give each node of the main graph a name of its own, in place.

    A name that is missing or taken becomes the op and its first output, which is unique, so the
    same file gets the same names each time.
    """
    taken: set[str] = set()
    for node in proto.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}:{next((name for name in node.output if name), '')}"
        taken.add(node.name)


def lift_constants(proto: onnx.ModelProto) -> None:
    """Make initializers of the Constant nodes that hold a tensor, in place."""
    nodes = []
    for node in proto.graph.node:
        value = next((entry for entry in node.attribute if entry.name == "value"), None)
        if node.op_type != "Constant" or value is None:
            nodes.append(node)
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value.t)
        tensor.name = node.output[0]
        proto.graph.initializer.append(tensor)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def drop_unused_domains(proto: onnx.ModelProto) -> None:
    """Leave out, in place, the opsets of which the model has no op; ONNX Runtime adds its own."""
    used = {node.domain for graph in _graphs(proto.graph) for node in graph.node}
    used |= {node.domain for function in proto.functions for node in function.node} | {""}
    opsets = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The model with these tensors as outputs too. ConversionError for one that is not in it."""
    proto = load(model)
    there = {name for node in proto.graph.node for name in node.output if name}
    already = {entry.name for entry in proto.graph.output}
    for name in dict.fromkeys(names):
        if name not in there:
            raise ConversionError(f"the .onnx has no tensor {name!r}")
        if name not in already:
            # Without a type: the runtime finds it by itself.
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(proto.SerializeToString())


def fold(model: bytes, preprocess: ImagePreprocess, input: TensorSpec) -> tuple[bytes, TensorSpec]:
    """The model with its normalisation inside: it takes uint8 [1, H, W, C] as the camera gives it.

    y = (x - mean) / std per channel, computed as edge does; colours stay in the order of
    `preprocess.color`. The input keeps its name. CannotConvert when the input is no picture.
    """
    proto = load(model)
    entry = next((entry for entry in proto.graph.input if entry.name == input.name), None)
    if entry is None or input.layout not in ("nchw", "nhwc") or len(input.shape) != 4:
        raise CannotConvert(
            f"preprocessing cannot be folded: {input} ({input.layout}) is no picture of this model"
        )
    batch, *sizes = input.shape
    channels, height, width = sizes if input.layout == "nchw" else (sizes[2], *sizes[:2])
    if len(preprocess.mean) != channels or len(preprocess.std) != channels:
        raise CannotConvert(
            f"preprocessing cannot be folded: {input} has {channels} channels, mean"
            f" {len(preprocess.mean)} and std {len(preprocess.std)}"
        )
    scale = np.float32(1) / np.asarray(preprocess.std, np.float32)
    offset = -np.asarray(preprocess.mean, np.float32) * scale
    tensor, inside = input.name, f"{input.name}/normalised"
    steps = [helper.make_node("Cast", [tensor], [f"{tensor}/real"], to=TensorProto.FLOAT)]
    for op, values in (("Mul", scale), ("Add", offset)):
        if np.all(values == (1 if op == "Mul" else 0)):
            continue
        constant, result = f"{tensor}/{op.lower()}", f"{tensor}/{op.lower()}_result"
        proto.graph.initializer.append(numpy_helper.from_array(values, constant))
        steps.append(helper.make_node(op, [steps[-1].output[0], constant], [result]))
    if input.layout == "nchw":
        last = steps[-1].output[0]
        steps.append(helper.make_node("Transpose", [last], [f"{tensor}/nchw"], perm=[0, 3, 1, 2]))
    steps[-1].output[0] = inside
    for step in steps:
        step.name = f"{tensor}/{step.op_type}"
    for graph in _graphs(proto.graph):
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = inside
    first = entry.type.tensor_type.shape.dim[0] if batch < 0 else None
    size = first.dim_param or "batch" if first is not None else batch
    shape = (batch, height, width, channels)
    entry.CopyFrom(
        helper.make_tensor_value_info(tensor, TensorProto.UINT8, [size, height, width, channels])
    )
    nodes = [*steps, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    spec = msgspec.structs.replace(input, shape=shape, dtype="uint8", layout="nhwc")
    return bytes(proto.SerializeToString(deterministic=True)), spec


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """The graph and those inside of its loops and branches, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)
