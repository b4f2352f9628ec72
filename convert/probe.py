"""Whether two models say the same to a random input: enough to see that one was mistranslated.

What is good enough to ship is judged on real samples, by convert.verify.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge.types import Array, TensorSpec

_WHOLE = {"uint8": (0, 256), "int8": (-128, 128)}


def noise(spec: TensorSpec, seed: int = 0) -> Array:
    """A random tensor: standard normal, all of uint8 or int8, or 0 and 1 of other whole numbers."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(spec.shape).astype(dtype)
    return rng.integers(*_WHOLE.get(dtype.name, (0, 2)), spec.shape).astype(dtype)


def worst_error(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """The largest error of any output, relative to its range or its largest value.

    Infinite where an output is missing, has another shape, or is not finite on one side.
    """
    worst = 0.0
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape:
            return float("inf")
        here, there = value.astype(np.float64), other.astype(np.float64)
        finite = np.isfinite(here)
        if not np.array_equal(here[~finite], there[~finite], equal_nan=True):
            return float("inf")
        if finite.any():
            scale = max(float(np.ptp(here[finite])), float(np.abs(here[finite]).max())) or 1.0
            error = float(np.abs(here[finite] - there[finite]).max()) / scale
            worst = float("inf") if np.isnan(error) else max(worst, error)
    return worst
