"""How long to wait before trying again."""

from __future__ import annotations

import random


def backoff_s(failures: int, bounds_s: tuple[float, float]) -> float:
    """Jittered: uniform between half and the whole of a bound that starts at the first of
    `bounds_s` and doubles with every failure, up to the second."""
    first, most = bounds_s
    bound = min(most, first * 2 ** min(failures, 10))
    return random.uniform(bound / 2, bound)
