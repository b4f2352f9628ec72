"""The same picture with its channels first (as torch has it) or last (as TFLite has it)."""

from __future__ import annotations

import msgspec
import numpy as np

from edge.types import Array, TensorSpec


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
