"""ONNX for ONNX Runtime on a CPU.

Weights keep 7 bits in both int8 precisions: 8 would overflow in the 16-bit sums of x86 processors
without VNNI, silently.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convert import activations, graph, onnx_graph
from convert.errors import CannotConvert
from convert.exporters.onnx import strip
from convert.quantize.calibration import Calibration, observe
from edge.types import Array

# Convolutions in dynamic int8 are 3 to 10 times slower than in float. ONNX Runtime has no dynamic
# kernel for GRU.
_DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention")
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
)
_DYNAMIC_QUANTIZED = ("MatMulInteger", "DynamicQuantizeLSTM", "QAttention")
_FP16_LARGEST = 65504.0
# Constants smaller than this (shapes, scales, a bias) save nothing worth an op.
_FP16_SMALLEST_SIZE = 32
_OLDEST_OPSET = 13  # the first in which a QuantizeLinear has a scale per channel


def fp16(model: bytes, keep_float: frozenset[str]) -> bytes:
    """Weights stored at fp16 and widened when the model is loaded; all arithmetic stays float32.

    Computing at fp16 would only be slower on a CPU, which has few such kernels, and would need
    lists of ops that must not: range, loss and speed are those of fp32 this way.
    """
    proto = _float_model(model)
    kept = {
        name for node in proto.graph.node if node.name in keep_float for name in node.input if name
    }
    narrowed = []
    for tensor in list(proto.graph.initializer):
        values = _narrow(tensor) if tensor.name not in kept else None
        if values is None:
            continue
        name = f"{tensor.name}_fp16"
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
        narrowed.append(
            helper.make_node("Cast", [name], [tensor.name], f"{name}_cast", to=TensorProto.FLOAT)
        )
    if not narrowed:
        raise CannotConvert("fp16: the model has no weights that fp16 would make smaller")
    # Old files list their weights among the inputs too.
    names = {node.output[0] for node in narrowed}
    inputs = [entry for entry in proto.graph.input if entry.name not in names]
    nodes = [*narrowed, *proto.graph.node]
    del proto.graph.input[:], proto.graph.node[:]
    proto.graph.input.extend(inputs)
    proto.graph.node.extend(nodes)
    return _checked(proto)


def int8_dynamic(model: bytes, keep_float: frozenset[str]) -> bytes:
    """int8 weights in MatMul, Gemm, LSTM and Attention, whose inputs are quantised as they come."""
    from onnxruntime import quantization

    proto = _current(_float_model(model))
    weights = {entry.name for entry in proto.graph.initializer}
    held = [node for node in proto.graph.node if node.op_type in _DYNAMIC]
    wanted = [
        node
        for node in held
        if node.name not in keep_float and any(name in weights for name in node.input[1:])
    ]
    if not wanted:
        counted = Counter(node.op_type for node in proto.graph.node)
        most = ", ".join(name for name, _ in counted.most_common(3))
        raise CannotConvert(
            f"int8-dynamic: there is no MatMul, Gemm or LSTM with weights to quantise (mostly"
            f" {most}); convolutions would only become slower"
        )
    left = [node.name for node in held if node.name in keep_float]
    with _workshop("int8-dynamic") as target:
        quantization.quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=list(_DYNAMIC),
            # A Gemm becomes a MatMul of this name before it is looked up.
            nodes_to_exclude=[*left, *(f"{name}_MatMul" for name in left)],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
        quantized = onnx.load(target)
    if not any(node.op_type in _DYNAMIC_QUANTIZED for node in quantized.graph.node):
        raise CannotConvert("int8-dynamic: ONNX Runtime's quantiser left every layer in float")
    onnx_graph.drop_unused_domains(quantized)
    return _checked(quantized)


def int8(
    model: bytes,
    tensors: Sequence[Array],
    calibration: Calibration,
    keep_float: frozenset[str],
    apart: float,
    advance: Callable[[], None],
) -> bytes:
    """Static QDQ int8: unsigned activations, signed weights with a scale per channel.

    Measured on x86, unsigned activations run 1.4 to 3 times as fast as signed ones. Heads that
    join parts of ranges more than `apart` times different stay in float where they are joined.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    original = _float_model(model)
    prepared = _prepared(_current(original))
    wanted = {*QDQRegistry, *QLinearOpsRegistry}
    if not any(
        node.op_type in ("Conv", "ConvTranspose", *_DYNAMIC) for node in prepared.graph.node
    ):
        raise CannotConvert("int8: the model has no Conv, MatMul, Gemm or other op to quantise")
    inside = bytes(prepared.SerializeToString())
    seen = graph.read("onnx", inside)
    ranges = observe(activations.of("onnx", inside), tensors, calibration, advance)
    kept = graph.float_region(seen, _kept(original, prepared, keep_float))
    kept |= graph.joined_heads(seen, ranges, apart=apart)
    with _workshop("int8") as target:
        quantizer = QDQQuantizer(
            prepared,
            per_channel=True,
            reduce_range=True,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=TensorsData(
                quantization.CalibrationMethod.MinMax,
                {name: TensorData(**_ends(low, high)) for name, (low, high) in ranges.items()},
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(kept),
            op_types_to_quantize=sorted(wanted),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)
        proto = onnx.load(target)
    if not any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        raise CannotConvert("int8: nothing is left to quantise, all layers are kept in float")
    return _checked(proto)


def _ends(low: float, high: float) -> dict[str, Array]:
    return {"lowest": np.array(low, np.float32), "highest": np.array(high, np.float32)}


def _float_model(model: bytes) -> onnx.ModelProto:
    """The model with names on its nodes and its weights as initializers, checked to be float."""
    proto = onnx_graph.load(model)
    if any(node.op_type in _QUANTIZED for node in proto.graph.node):
        raise CannotConvert("the model is already quantised; quantise the one it was made from")
    onnx_graph.name_nodes(proto)
    onnx_graph.lift_constants(proto)
    trees = [node.op_type for node in proto.graph.node if "TreeEnsemble" in node.op_type]
    if trees:
        raise CannotConvert(f"{trees[0]}: a tree ensemble has no weights to quantise")
    return proto


def _current(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset that knows scales per channel."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("", versions.get("ai.onnx", _OLDEST_OPSET)) >= _OLDEST_OPSET:
        return proto
    try:
        raised = onnx.version_converter.convert_version(proto, _OLDEST_OPSET)
    except Exception as error:  # a C++ exception of any kind
        raise CannotConvert(
            f"opset {versions.get('')} cannot be raised to {_OLDEST_OPSET}, which int8 needs:"
            f" {_one_line(error)}"
        ) from error
    onnx_graph.name_nodes(raised)
    return raised


def _prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes known, and batch normalisation merged into its convolution, whose output would be
    quantised before it otherwise."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    separate = any(node.op_type == "BatchNormalization" for node in proto.graph.node)
    with _workshop("int8") as target:
        # As a file: of a model in memory it loses sight of the weights.
        source = target.with_name("source.onnx")
        onnx.save(proto, source)
        quant_pre_process(
            str(source),
            str(target),
            skip_optimization=not separate,
            skip_symbolic_shape=True,  # serves transformers alone and fails on much else
        )
        prepared = onnx.load(target)
    onnx_graph.name_nodes(prepared)
    onnx_graph.lift_constants(prepared)
    onnx_graph.drop_unused_domains(prepared)
    return prepared


def _kept(
    original: onnx.ModelProto, prepared: onnx.ModelProto, names: frozenset[str]
) -> frozenset[str]:
    """The nodes of the prepared model that stand for these nodes of the original one.

    A node that was merged into its successor is found by the tensor that both end in.
    """
    there = {name: node.name for node in prepared.graph.node for name in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in original.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    kept = set()
    waiting = [node for node in original.graph.node if node.name in names]
    while waiting:
        node = waiting.pop()
        found = {there[name] for name in node.output if name in there}
        kept |= found
        if not found:
            waiting += [after for name in node.output for after in consumers.get(name, ())]
    return frozenset(kept)


def _narrow(tensor: onnx.TensorProto) -> Array | None:
    """A float32 weight at fp16; None where that saves nothing or does not hold the values."""
    if tensor.data_type != TensorProto.FLOAT:
        return None
    values = numpy_helper.to_array(tensor)
    if values.size < _FP16_SMALLEST_SIZE or not np.all(np.abs(values) <= _FP16_LARGEST):
        return None
    return np.asarray(values, np.float16)


def _checked(proto: onnx.ModelProto) -> bytes:
    """The model's bytes, once ONNX Runtime has loaded them."""
    import onnxruntime

    model = strip(proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own making
        raise CannotConvert(f"ONNX Runtime cannot load the result: {_one_line(error)}") from error
    return model


@contextmanager
def _workshop(precision: str) -> Iterator[Path]:
    """Where ONNX Runtime's tools write; what they raise and say is put into one line."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "model.onnx"
    except CannotConvert:
        raise
    except Exception as error:  # their own classes, KeyErrors and asserts alike
        raise CannotConvert(
            f"{precision}: onnxruntime.quantization failed: {_one_line(error)}"
        ) from error
    finally:
        root.setLevel(level)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
