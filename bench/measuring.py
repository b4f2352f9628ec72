"""Measuring and its figures: actions by turns in one process, and what can be said of pairs.

Invariant: a ratio is the median of ratios of neighbours in time, so that a change of the machine's
speed hits both sides; its interval is by order statistics, without any assumption. Standard library
alone: the workers of the peers use it in environments of their own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
"""`case`, `metric`, `who` (whose figure `ours` is), `ours`, `reference`, `against` (what the
reference is), `ratio` with `low` and `high` (95 %), `unit`, `better` (less or more), and `answers`:
"same", or "wrong: …". What was not measured is None."""

Action = Callable[[], object]


def by_turns(
    actions: Mapping[str, Action], *, rounds: int, block_s: float = 0.05
) -> dict[str, list[float]]:
    """Milliseconds of one call of each, once a round: the mean of a block of calls.

    All are warm before the first round; the order turns around from round to round.
    """
    calls = {name: _calls(action, block_s) for name, action in actions.items()}
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        order = list(actions) if number % 2 else list(reversed(list(actions)))
        for name in order:
            taken[name].append(block_ms(actions[name], calls[name]))
    return taken


def block_ms(action: Action, calls: int) -> float:
    """Milliseconds of one call, as the mean over so many."""
    began = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - began) / calls * 1e3


def _calls(action: Action, block_s: float) -> int:
    action()
    once_s = min(block_ms(action, 1) for _ in range(3)) / 1e3
    return max(1, min(1000, round(block_s / max(once_s, 1e-6))))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the two values between which the true one lies with at least 95 % confidence; the
    extremes where there are too few for that."""
    ordered, count = sorted(values), len(values)
    outside, below = 0.0, 0
    while below < count // 2:
        outside += math.comb(count, below) / 2**count
        if 2 * outside > 0.05:
            break
        below += 1
    low = max(0, below - 1)
    return statistics.median(ordered), ordered[low], ordered[count - 1 - low]


def paired(
    case: str,
    metric: str,
    who: str,
    ours: Sequence[float],
    against: str,
    reference: Sequence[float],
    *,
    unit: str = "ms",
    answers: str | None = None,
) -> Row:
    """The row of two sides that took turns."""
    ratio, low, high = interval([mine / theirs for mine, theirs in zip(ours, reference)])  # noqa: B905
    return {
        "case": case, "metric": metric, "who": who, "against": against, "unit": unit,
        "better": "less",
        "ours": figure(statistics.median(ours)),
        "reference": figure(statistics.median(reference)),
        "ratio": round(ratio, 4), "low": round(low, 4), "high": round(high, 4), "answers": answers,
    }  # fmt: skip


def absent(case: str, who: str, why: str) -> Row:
    """The row of what could not be measured: named, not left out."""
    row = dict.fromkeys(("ours", "reference", "ratio", "low", "high", "answers"))
    return {
        "case": case, "metric": "absent", "who": who, "against": why, "unit": "",
        "better": "less", **row,
    }  # fmt: skip


def figure(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
