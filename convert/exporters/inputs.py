"""A torch module as a device will feed it: with the normalisation of pictures in its graph."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch

from convert.errors import CannotConvert
from convert.layouts import channels_last
from edge.manifest import ImagePreprocess
from edge.types import TensorSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A module and what it takes."""

    module: torch.nn.Module
    input: TensorSpec


class Folded(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """uint8 [N, H, W, C] -> (x - mean) / std per channel, in the module's layout -> the module."""

    def __init__(self, module: torch.nn.Module, fold: ImagePreprocess, *, first: bool) -> None:
        super().__init__()
        self.module = module
        self.first = first
        self.register_buffer("mean", torch.tensor(fold.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(fold.std, dtype=torch.float32))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """A picture as it lies in memory -> what the module says to it."""
        normal = (picture.to(torch.float32) - self.mean) / self.std
        return self.module(normal.permute(0, 3, 1, 2) if self.first else normal)


def prepare(module: torch.nn.Module, input: TensorSpec, fold: ImagePreprocess | None) -> Prepared:
    """The module with `fold` in front of it; without, as it is."""
    if fold is None:
        return Prepared(module, input)
    taken = folded_spec(input, fold)
    return Prepared(Folded(module, fold, first=input.layout == "nchw").eval(), taken)


def folded_spec(input: TensorSpec, fold: ImagePreprocess) -> TensorSpec:
    """What the graph takes when this preprocessing is in it."""
    if input.layout not in ("nchw", "nhwc") or input.dtype != "float32":
        raise CannotConvert(f"input {input} is no picture in float32: nothing to fold into it")
    taken = channels_last(input)
    if not taken.shape[3] == len(fold.mean) == len(fold.std):
        raise CannotConvert(
            f"input {input} has {taken.shape[3]} channels, mean {len(fold.mean)} and std"
            f" {len(fold.std)} values"
        )
    return msgspec.structs.replace(taken, dtype="uint8")
