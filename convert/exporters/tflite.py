"""A torch module -> TFLite at fp32, by litert-torch.

Pictures become channels last, which is what the kernels of an edge device want; the names become
those of the signature. The batch is fixed at 1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import litert_torch
import torch

from convert.errors import CannotConvert, reason
from convert.exporters import FIXED_BATCH
from convert.exporters.inputs import prepare
from convert.importers.torch import NamedOutputs
from convert.layouts import channels_last
from convert.original import Exported, ExportOptions
from edge.types import TensorSpec


def export(
    module: torch.nn.Module,
    input: TensorSpec,
    outputs: tuple[TensorSpec, ...],
    options: ExportOptions,
) -> Exported:
    """A .tflite with the names of these specs. CannotConvert says why not."""
    prepared = prepare(module, input, options.fold)
    spec = channels_last(prepared.input)
    module = prepared.module
    try:
        if spec != prepared.input:
            module = litert_torch.to_channel_last_io(module, args=[0])
        converted = litert_torch.convert(
            NamedOutputs(module, tuple(output.name for output in outputs)).eval(),
            sample_kwargs={spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))},
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            converted.export(str(path))
            model = path.read_bytes()
    except Exception as error:
        raise CannotConvert(f"litert-torch failed: {reason(error)}") from error
    return Exported(
        format="tflite",
        precision="fp32",
        model=model,
        input=spec,
        outputs=outputs,
        notes=(FIXED_BATCH,) if options.dynamic_batch else (),
    )
