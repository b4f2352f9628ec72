"""Small networks with known weaknesses, exported to both formats by what `convert` builds on."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from convert.original import Exported, Format
from edge.engines.onnx import OnnxEngine
from edge.engines.tflite import TfliteEngine
from edge.types import Array, TensorSpec

os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")


class Outlier(nn.Module):
    """The middle layer has one channel 3000 times as large as the others; the next evens it out.

    At one scale a tensor, all other channels fall on zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2)
        self.outlier = nn.Conv2d(16, 16, 3, 2)
        self.evened = nn.Conv2d(16, 16, 3)
        self.last = nn.Linear(16, 10)
        with torch.no_grad():
            self.outlier.weight[0] *= 3000
            self.outlier.bias[0] *= 3000
            self.evened.weight[:, 0] /= 3000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.outlier(self.first(x).relu()).relu()
        return self.last(self.evened(x).relu().mean((2, 3)))


class Detector(nn.Module):
    """Two scales, decoded inside: centre and size in pixels beside scores of 0 to 1, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU())
        self.deeper = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(16, 7, 1), nn.Conv2d(16, 7, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.body(x)
        found = [
            self._decode(head(features), stride)
            for head, features, stride in zip(
                self.heads, (shallow, self.deeper(shallow)), (4, 8), strict=True
            )
        ]
        return torch.cat(found, 1)

    def _decode(self, raw: torch.Tensor, stride: int) -> torch.Tensor:
        _, channels, height, width = raw.shape
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows], -1).reshape(1, -1, 2).float()
        raw = raw.reshape(1, channels, height * width).transpose(1, 2)
        centre = (raw[..., :2].sigmoid() + grid) * stride
        return torch.cat([centre, raw[..., 2:4].exp() * stride, raw[..., 4:].sigmoid()], -1)


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(1))


@functools.cache
def exported(make: Callable[[], nn.Module], shape: tuple[int, ...], format: Format) -> Exported:
    """The network, its weights from seed 0, with input x (pictures [1, C, H, W]) and output y."""
    torch.manual_seed(0)
    module = make().eval()
    with contextlib.redirect_stdout(io.StringIO()):
        return _onnx(module, shape) if format == "onnx" else _tflite(module, shape)


def samples(model: Exported, count: int, seed: int = 0) -> list[Array]:
    """Inputs of 0 to 1 in the model's layout, some dark and some bright."""
    random = np.random.default_rng(seed)
    bright = np.linspace(0.2, 1, count, dtype=np.float32)
    return [random.random(model.input.shape, np.float32) * level for level in bright]


def run(model: Exported, tensor: Array) -> Array:
    """The first output, by the device's own engine."""
    engine = OnnxEngine(model.model) if model.format == "onnx" else TfliteEngine(model.model)
    try:
        return next(iter(engine.run({engine.inputs[0].name: tensor}).values()))
    finally:
        engine.close()


def error(reference: Exported, candidate: Exported, tensors: list[Array]) -> float:
    """The largest difference of the outputs relative to the range of the reference's."""
    expected = np.stack([run(reference, tensor) for tensor in tensors])
    found = np.stack([run(candidate, tensor) for tensor in tensors])
    return float(np.abs(expected - found).max() / np.ptp(expected))


def _onnx(module: nn.Module, shape: tuple[int, ...]) -> Exported:
    program = torch.onnx.export(
        module,
        (torch.zeros(shape),),
        dynamo=True,
        input_names=["x"],
        output_names=["y"],
        external_data=False,
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto.SerializeToString()
    layout: Any = "nchw" if len(shape) == 4 else "other"
    spec = TensorSpec(name="x", shape=shape, layout=layout)
    return Exported(format="onnx", precision="fp32", model=model, input=spec, outputs=())


def _tflite(module: nn.Module, shape: tuple[int, ...]) -> Exported:
    import tempfile
    from pathlib import Path

    import litert_torch

    layout: Any = "other"
    if len(shape) == 4:
        module = litert_torch.to_channel_last_io(module, args=[0]).eval()
        shape, layout = (shape[0], *shape[2:], shape[1]), "nhwc"
    converted = litert_torch.convert(module, (torch.zeros(shape),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        converted.export(str(path))
        model = path.read_bytes()
    spec = TensorSpec(name="args_0", shape=shape, layout=layout)
    return Exported(format="tflite", precision="fp32", model=model, input=spec, outputs=())
