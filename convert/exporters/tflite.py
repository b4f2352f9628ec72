"""A torch model -> TFLite at fp32, by litert-torch.

Pictures become channels last, which is what the kernels of an edge device want; the recipe's names
become the names of the signature. The batch is fixed at what the recipe says.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import litert_torch
import torch

from convert.importers.torch import NamedOutputs, TorchModel
from convert.layouts import channels_last


def export(model: TorchModel) -> bytes:
    """The bytes of a .tflite with the recipe's tensor names."""
    spec = channels_last(model.input)
    module = model.module
    if spec.layout == "nhwc":
        module = litert_torch.to_channel_last_io(module, args=[0])
    converted = litert_torch.convert(
        NamedOutputs(module, model.outputs).eval(),
        sample_kwargs={spec.name: torch.zeros(spec.shape)},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        converted.export(str(path))
        return path.read_bytes()
