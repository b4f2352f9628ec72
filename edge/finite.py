"""Whether numbers are finite: a check that every frame pays several times."""

from __future__ import annotations

import math

import numpy as np

from edge.types import FEW, Array

_MANY = 50_000


def all_finite(values: Array) -> bool:
    """Whether no value is NaN or infinite. Whole numbers are finite."""
    if values.dtype.kind not in "fc":
        return True
    # A sum may overflow where none of its parts is infinite; then each is looked at.
    few = values.size <= FEW and values.dtype.kind == "f"
    if few and math.isfinite(sum(values.ravel().tolist())):
        return True
    finite = np.isfinite(values)
    # Between other work `all` takes three times as long to begin as this does to end.
    return b"\0" not in finite.tobytes() if finite.size < _MANY else bool(finite.all())
