"""A torch model -> ONNX at fp32.

Invariant: the bytes depend on the model alone. What the exporter leaves of this machine and run
(stack traces with paths, the traced graph) is taken out.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch

from convert.errors import ConversionError
from convert.importers.torch import TorchModel

OPSET = 20


def export(model: TorchModel) -> bytes:
    """The bytes of a .onnx with the recipe's tensor names, checked by onnx itself."""
    program = torch.onnx.export(
        model.module,
        (torch.zeros(model.input.shape),),
        dynamo=True,
        input_names=[model.input.name],
        output_names=list(model.outputs),
        external_data=False,
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise ConversionError("torch.onnx.export gave no model")
    proto = program.model_proto
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("", 0) < OPSET:
        # The exporter may quietly keep an older opset than it was asked for.
        raise ConversionError(f"the ONNX export has opset {versions}, not {OPSET}")
    onnx.checker.check_model(proto, full_check=True)
    return strip(proto)


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
