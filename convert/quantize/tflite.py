"""TFLite, by litert-quantizer, for LiteRT and for tflite-runtime 2.14 alike."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convert import activations, graph
from convert.errors import CannotConvert
from convert.quantize.calibration import Calibration, observe
from edge.types import Array


def fp16(model: bytes, keep_float: frozenset[str]) -> bytes:
    """Weights stored at fp16 and widened when the model is loaded; arithmetic stays float32."""
    from litert_quantizer import qtyping, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.algorithms.nonlinear_quantize import float_casting

    seen = _float_graph(model, "fp16")
    rules = recipe_manager.RecipeManager()
    for operation in sorted(float_casting.SUPPORTED_WEIGHT_QUANT_OPS):
        rules.add_weight_only_config(
            ".*",
            operation,
            num_bits=16,
            granularity=qtyping.QuantGranularity.TENSORWISE,
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    _keep(rules, seen, keep_float)
    return _smaller(model, _apply(model, rules, None, "fp16"), "fp16")


def int8_dynamic(model: bytes, keep_float: frozenset[str]) -> bytes:
    """int8 weights, whose inputs are quantised as they come.

    Fully connected layers get one scale a tensor: tflite-runtime 2.14 gives wrong numbers for a
    scale a channel, silently.
    """
    from litert_quantizer import qtyping, recipe_manager

    seen = _float_graph(model, "int8-dynamic")
    operations = qtyping.TFLOperationName
    rules = recipe_manager.RecipeManager()
    rules.add_dynamic_config(".*", operations.ALL_SUPPORTED, 8)
    rules.add_dynamic_config(
        ".*", operations.FULLY_CONNECTED, 8, granularity=qtyping.QuantGranularity.TENSORWISE
    )
    _keep(rules, seen, keep_float)
    return _smaller(model, _apply(model, rules, None, "int8-dynamic"), "int8-dynamic")


def int8(
    model: bytes,
    tensors: Sequence[Array],
    calibration: Calibration,
    keep_float: frozenset[str],
    apart: float,
    advance: Callable[[], None],
) -> bytes:
    """Static int8 with the inputs and outputs as they were.

    Heads that join parts of ranges more than `apart` times different stay in float where they are
    joined.
    """
    from litert_quantizer import qtyping, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName

    seen = _float_graph(model, "int8")
    ranges = observe(activations.of("tflite", model), tensors, calibration, advance)
    kept = graph.float_region(seen, keep_float) | graph.joined_heads(seen, ranges, apart=apart)
    operations = qtyping.TFLOperationName
    rules = recipe_manager.RecipeManager()
    rules.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
    for end in (operations.INPUT, operations.OUTPUT):
        rules.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    _keep(rules, seen, kept)
    found = {
        name: {"min": np.full((1, 1), low, np.float32), "max": np.full((1, 1), high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    return _smaller(model, _apply(model, rules, found, "int8"), "int8")


def _keep(rules: Any, seen: graph.Graph, names: frozenset[str]) -> None:
    """Ops with one of these tensors among their outputs stay in float."""
    from litert_quantizer import qtyping
    from litert_quantizer.algorithm_manager import AlgorithmName

    # The library finds an op by the names of its outputs, each with a semicolon after it. Names
    # hold semicolons themselves, so the whole is matched.
    kept = [op.outputs for op in seen.ops if names & {*op.outputs}]
    if kept:
        any_of = "|".join(re.escape("".join(f"{name};" for name in outputs)) for outputs in kept)
        rules.add_quantization_config(
            f"^(?:{any_of})$",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=AlgorithmName.NO_QUANTIZE,
        )


def _apply(model: bytes, rules: Any, ranges: dict[str, Any] | None, precision: str) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import quantizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = quantizer.Quantizer(model, rules.get_quantization_recipe()).quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
        quantized = bytes(result.quantized_model)
        Interpreter(model_content=quantized).allocate_tensors()
    except Exception as error:  # the library raises what it likes, and LiteRT RuntimeErrors
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CannotConvert(f"{precision}: litert-quantizer failed: {reason}") from error
    return quantized


def _float_graph(model: bytes, precision: str) -> graph.Graph:
    """The model's graph. CannotConvert when it is quantised already."""
    seen = graph.read("tflite", model)
    if {graph.kind(op.type) for op in seen.ops} & {"quantize", "dequantize"}:
        raise CannotConvert(
            f"{precision}: the model is already quantised; quantise the one it was made from"
        )
    return seen


def _smaller(model: bytes, quantized: bytes, precision: str) -> bytes:
    """The quantised model, unless nothing in it could be quantised."""
    if _types(quantized) == _types(model):
        raise CannotConvert(f"{precision}: the model has no weights that can be quantised")
    return quantized


def _types(model: bytes) -> list[int]:
    """Types of all tensors: what quantisation changes if it changes anything."""
    from litert_quantizer.utils import tfl_flatbuffer_utils

    (main, *_) = tfl_flatbuffer_utils.read_model(model).subgraphs
    return sorted(tensor.type for tensor in main.tensors)
