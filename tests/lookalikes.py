"""ONNX files that answer like a model of some family, without being one: their outputs are stored
numbers that look like that head's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.types import Array


def model(
    outputs: Mapping[str, Array],
    *,
    shape: tuple[int | str, ...] = (1, 3, 64, 48),
    dtype: int = TensorProto.FLOAT,
    metadata: Mapping[str, str] | None = None,
    last: str = "Identity",
    first: str = "",
    producer: str = "",
) -> bytes:
    """A model whose outputs are these arrays; `last` is the operator they come from, `first` one
    that takes the input, `producer` who says to have written the file."""
    nodes, initializers = [], []
    for name, array in outputs.items():
        stored = array.astype(np.float32) if array.dtype == np.float64 else array
        initializers.append(numpy_helper.from_array(stored, f"{name}_stored"))
        nodes.append(helper.make_node(last, [f"{name}_stored"], [name]))
    if first:
        initializers.append(numpy_helper.from_array(np.float32(2), "two"))
        nodes.append(helper.make_node(first, ["image", "two"], ["unused"]))
    graph = helper.make_graph(
        nodes,
        "lookalike",
        [helper.make_tensor_value_info("image", dtype, list(shape))],
        [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(
                    np.dtype(np.float32) if array.dtype == np.float64 else array.dtype
                ),
                list(array.shape),
            )
            for name, array in outputs.items()
        ],
        initializers,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name=producer
    )
    made.ir_version = 8
    helper.set_model_props(made, dict(metadata or {}))
    return bytes(made.SerializeToString())


def boxes(rng: np.random.Generator, count: int, size: tuple[int, int] = (48, 64)) -> Array:
    """Boxes x, y, w, h about the centre, in pixels."""
    places = rng.uniform(0, size, (count, 2))
    return np.concatenate([places, rng.uniform(4, 40, (count, 2))], axis=1)


def chances(rng: np.random.Generator, *shape: int) -> Array:
    """Scores in 0..1, mostly small."""
    return np.asarray(1 / (1 + np.exp(-rng.normal(-3, 1.5, shape))))


def rows(*parts: Array) -> Array:
    """Columns side by side, [1, N, columns]."""
    return np.concatenate(parts, axis=1)[None]


def columns(*parts: Array) -> Array:
    """The same with the channels first, [1, columns, N]."""
    return rows(*parts).transpose(0, 2, 1)


def file_of(graph: onnx.GraphProto, *, opset: int = 17, domain: str = "") -> bytes:
    """A model of one graph."""
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    made = helper.make_model(graph, opset_imports=imports)
    made.ir_version = 8
    return bytes(made.SerializeToString())
