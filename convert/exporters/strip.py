"""An ONNX model without what exporters leave in it of a machine and a run.

Importable without torch.
"""

from __future__ import annotations

from typing import Any

import onnx


def strip(proto: onnx.ModelProto) -> bytes:
    """The model's bytes without documentation, metadata and anything that names a file."""
    parts: list[Any] = [proto]
    for graph in (proto.graph, *_bodies(proto.graph)):
        parts += [graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
        parts += graph.node
    for function in proto.functions:
        parts += [function, *function.node, *function.value_info]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return bytes(proto.SerializeToString(deterministic=True))


def _bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graphs inside of loops and branches, at any depth."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    direct = [attribute.g for attribute in attributes if attribute.HasField("g")]
    direct += [body for attribute in attributes for body in attribute.graphs]
    return [found for body in direct for found in (body, *_bodies(body))]
