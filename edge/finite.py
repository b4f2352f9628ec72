"""Whether numbers are finite: a check that every frame pays several times.

Invariant: the answer is exact. The quick ways only say yes; a no comes from looking at each value.
"""

from __future__ import annotations

import math

import numpy as np

from edge.types import FEW, Array

_MANY = 10_000
"""From here on a dot product is shared out to threads that were not asked for."""


def all_finite(values: Array) -> bool:
    """Whether no value is NaN or infinite. Whole numbers are finite."""
    if values.dtype.kind != "f":
        return values.dtype.kind != "c" or bool(np.isfinite(values).all())
    # What is not finite stays so in a sum, and in a sum of squares. Neither of these two warns of
    # an overflow, which is no fault of the values.
    if values.size <= FEW:
        if math.isfinite(sum(values.ravel().tolist())):
            return True
    elif values.size < _MANY and values.itemsize > 2 and math.isfinite(np.vdot(values, values)):
        return True
    return bool(np.isfinite(values).all())
