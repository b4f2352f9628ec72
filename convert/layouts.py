"""The same picture with its channels first (as torch has it) or last (as TFLite has it)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from convert.errors import ConversionError
from edge.types import Array, Layout, TensorSpec


def channels_last(spec: TensorSpec) -> TensorSpec:
    """The spec with channels last; one that is no picture stays as it is."""
    if spec.layout != "nchw":
        return spec
    batch, channels, height, width = spec.shape
    return msgspec.structs.replace(spec, shape=(batch, height, width, channels), layout="nhwc")


def to_layout(tensor: Array, source: TensorSpec, target: TensorSpec) -> Array:
    """A tensor of one layout in another one; a copy in any case."""
    match source.layout, target.layout:
        case "nhwc", "nchw":
            tensor = tensor.transpose(0, 3, 1, 2)
        case "nchw", "nhwc":
            tensor = tensor.transpose(0, 2, 3, 1)
    return np.array(tensor, order="C")


def with_batch(spec: TensorSpec, batch: int) -> TensorSpec:
    """The spec with another first dimension; -1 is dynamic."""
    return msgspec.structs.replace(spec, shape=(batch, *spec.shape[1:]))


def single(spec: TensorSpec) -> TensorSpec:
    """The spec for one sample: a batch of 1 in the place of a dynamic one."""
    return with_batch(spec, 1) if spec.shape[:1] == (-1,) else spec


def guess_layout(shape: Sequence[int]) -> Layout:
    """The layout of a shape that nobody stated: a picture has 1, 3 or 4 channels."""
    match len(shape):
        case 2:
            return "nc"
        case 3:
            return "ntc"
        case 4 if shape[3] in (1, 3, 4):
            return "nhwc"
        case 4 if shape[1] in (1, 3, 4):
            return "nchw"
    return "other"


def check_input(found: TensorSpec, stated: TensorSpec | None, where: str) -> TensorSpec:
    """The file's input, held against what was stated; the layout is the stated one.

    Open sizes (-1) of the file take the stated ones, an open batch is 1. ConversionError when the
    two do not fit, or a size stays open.
    """
    shape = found.shape
    if shape and shape[0] == -1:
        shape = (1, *shape[1:])
    if stated is None:
        if -1 in shape:
            raise ConversionError(
                f"{where}: takes {found} with open sizes; state the input's shape"
            )
        return msgspec.structs.replace(found, shape=shape)
    fits = len(shape) == len(stated.shape) and all(
        here in (-1, there) for here, there in zip(shape, stated.shape, strict=True)
    )
    if not fits or (found.name, found.dtype) != (stated.name, stated.dtype):
        raise ConversionError(f"{where}: takes {found}, but {stated} is stated")
    return msgspec.structs.replace(found, shape=stated.shape, layout=stated.layout)


def check_outputs(found: Sequence[str], stated: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The outputs to keep: those stated, which must be among the file's; without any, all."""
    unknown = [name for name in stated if name not in found]
    if unknown:
        raise ConversionError(
            f"{where}: has no output {', '.join(unknown)}; there are {', '.join(found)}"
        )
    return stated or tuple(found)
