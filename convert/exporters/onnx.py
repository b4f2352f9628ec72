"""A torch module -> ONNX at fp32.

Invariant: the bytes depend on the model alone (see `strip`).
"""

from __future__ import annotations

import numpy as np
import onnx
import torch

from convert.errors import CannotConvert, reason
from convert.exporters.inputs import Prepared, prepare
from convert.exporters.strip import strip as strip
from convert.importers.torch import name_outputs
from convert.layouts import with_batch
from convert.original import Exported, ExportOptions
from convert.probe import noise, worst_error
from edge.engines.onnx import OnnxEngine
from edge.errors import EngineError
from edge.types import TensorSpec

OPSET = 20
_PROBE_BATCH = 2
"""torch.export takes a batch of 1 for a constant."""
_SAME = 1e-4
"""Kernels for several samples may add in another order; relative to an output's range."""


class _Ordered(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """A module that gives a dict, with its outputs by position: a dict has another order."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in the order of the names."""
        return tuple(name_outputs(self.module(tensor), self.names).values())


def export(
    module: torch.nn.Module,
    input: TensorSpec,
    outputs: tuple[TensorSpec, ...],
    options: ExportOptions,
) -> Exported:
    """A .onnx with the names of these specs, checked by onnx itself. CannotConvert says why not."""
    names = tuple(spec.name for spec in outputs)
    prepared = prepare(module, input, options.fold)
    try:
        proto = _traced(prepared, names, dynamic=options.dynamic_batch)
    except Exception as error:
        raise CannotConvert(f"torch.onnx.export failed: {reason(error)}") from error
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("", 0) < OPSET:
        # The exporter may quietly keep an older opset than it was asked for.
        raise CannotConvert(f"the ONNX export has opset {versions}, not {OPSET}")
    taken = prepared.input
    if options.dynamic_batch:
        _check_open(proto, prepared)
        taken = with_batch(taken, -1)
        outputs = tuple(with_batch(spec, -1) for spec in outputs)
    return Exported(
        format="onnx", precision="fp32", model=strip(proto), input=taken, outputs=outputs
    )


def _traced(prepared: Prepared, names: tuple[str, ...], *, dynamic: bool) -> onnx.ModelProto:
    spec = prepared.input
    example = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
    module = prepared.module
    with torch.inference_mode():
        if isinstance(module(example), dict):
            module = _Ordered(module, names).eval()
    if dynamic:
        example = example.repeat(_PROBE_BATCH, *[1] * (example.ndim - 1))
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        input_names=[spec.name],
        output_names=list(names),
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
        external_data=False,
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise CannotConvert("torch.onnx.export gave no model")
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program.model_proto


def _check_open(proto: onnx.ModelProto, prepared: Prepared) -> None:
    """Two samples at once must give what each gives alone: a graph may have fixed the batch."""
    spec = prepared.input
    samples = [noise(spec, seed) for seed in range(_PROBE_BATCH)]
    outputs = [value.name for value in proto.graph.output]
    try:
        engine = OnnxEngine(proto.SerializeToString())
        both = engine.run({spec.name: np.concatenate(samples)})
        alone = [engine.run({spec.name: sample}) for sample in samples]
    except EngineError as error:
        raise CannotConvert(f"the batch cannot be left open: {error}") from error
    together = {name: np.concatenate([found[name] for found in alone]) for name in outputs}
    if worst_error(together, both) > _SAME:
        raise CannotConvert(
            "two samples in one batch give other numbers than one by one; leave the dynamic batch"
            " out"
        )
