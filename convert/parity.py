"""Parity: how far an output's numbers are from the original's, on the same input tensors.

Invariant: nothing of a sample is kept but a bounded part of its differences, so that any number of
samples and any size of output fit. What is not finite is an infinite error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.manifest import Parity
from edge.types import Array

KEPT = 4096
"""Differences of one sample that the percentile is taken from; all of a smaller output."""
SMALL = 1 / 50
"""A column spans little when it spans less than this part of its whole output."""
LOST = 0.3
"""A column is lost when it is wrong by more than this part of what it spans."""
WIDEST = 4096
"""Axes longer than this have places, not columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the differences of one output look like; from this the gate chooses its advice.

    `span` is the range of the variant's values over that of the original's. `constant`: the same
    values for every sample, where the original's differ. `drowned` are columns
    that span little of the output and are wrong by most of what they span, while the wide columns
    are right: the scores that share a tensor with boxes. `reordered`: the same values in another
    order.
    """

    span: float = 1.0
    constant: bool = False
    drowned: int = 0
    columns: int = 0
    reordered: bool = False


class Tally:
    """One output of one variant, sample by sample."""

    def __init__(self) -> None:
        self._low, self._high = float("inf"), float("-inf")
        self._worst = 0.0
        self._found = (float("inf"), float("-inf"))
        self._products = np.zeros(3)
        self._kept: list[Array] = []
        self._places: Array | None = None
        self._columns: dict[int, _Columns] = {}
        self._reordered = True

    def add(self, expected: Array, actual: Array) -> float:
        """Count one sample. Returns its largest error relative to the range seen so far.

        ValueError when the shapes differ.
        """
        if expected.shape != actual.shape:
            raise ValueError(f"has shape {list(actual.shape)}, not {list(expected.shape)}")
        expected, actual = expected.astype(np.float64), actual.astype(np.float64)
        with np.errstate(invalid="ignore"):
            errors = np.where(expected == actual, 0.0, np.abs(actual - expected))
        errors[~np.isfinite(errors)] = np.inf
        finite = expected[np.isfinite(expected)]
        if finite.size:
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))
        worst = float(errors.max(initial=0.0))
        self._worst = max(self._worst, worst)
        self._keep(errors.ravel())
        if np.isfinite(worst):
            self._compare(expected, actual, errors)
        return worst / self._spread

    def parity(self) -> Parity:
        """Errors relative to the range of the original's output, rounded to three digits."""
        if not np.isfinite(self._worst):
            return Parity(max_error=float("inf"), p99_error=float("inf"), cosine=0.0)
        errors = np.concatenate(self._kept)
        dot, expected, actual = self._products
        length = float(np.sqrt(expected * actual))
        return Parity(
            max_error=_three_digits(self._worst / self._spread),
            p99_error=_three_digits(float(np.quantile(errors, 0.99)) / self._spread),
            cosine=round(float(dot) / length if length else float(self._worst == 0), 6),
        )

    def traits(self) -> Traits:
        """What the differences look like. Of no use where an error is infinite."""
        low, high = self._found
        span = (high - low) / self._spread if high >= low else 1.0
        drowned, columns = max(
            (found.drowned(self._spread) for found in self._columns.values()), default=(0, 0)
        )
        return Traits(
            span=span,
            constant=any(found.constant() for found in self._columns.values()),
            drowned=drowned,
            columns=columns,
            reordered=self._reordered and self._worst > 1e-3 * self._spread,
        )

    @property
    def _spread(self) -> float:
        return (self._high - self._low if self._high > self._low else 0.0) or 1.0

    def _keep(self, errors: Array) -> None:
        """The same KEPT places of every sample: chosen once, so that two variants compare."""
        if errors.size <= KEPT:
            self._kept.append(errors.astype(np.float32))
            return
        if self._places is None or self._places.max() >= errors.size:
            self._places = np.sort(np.random.default_rng(0).choice(errors.size, KEPT, False))
        self._kept.append(errors[self._places].astype(np.float32))

    def _compare(self, expected: Array, actual: Array, errors: Array) -> None:
        """What the traits and the cosine need of one sample, all of it finite or equal."""
        finite = np.isfinite(expected)
        wanted, found = expected[finite], actual[finite]
        self._products += [wanted @ found, wanted @ wanted, found @ found]
        if not found.size:
            return
        self._found = (
            min(self._found[0], float(found.min())),
            max(self._found[1], float(found.max())),
        )
        if self._reordered:
            tolerance = 1e-3 * self._spread
            self._reordered = bool(
                np.allclose(np.sort(wanted), np.sort(found), rtol=0, atol=tolerance)
            )
        for axis in {1, expected.ndim - 1}:
            if axis < expected.ndim and expected.shape[axis] <= WIDEST and finite.all():
                columns = self._columns.setdefault(axis, _Columns(joined=expected.ndim > 2))
                columns.add(expected, actual, errors, axis)


class _Columns:
    """Ranges and largest error of each place along one axis.

    `joined`: a place holds many values of a sample, as a column of boxes does.
    """

    def __init__(self, *, joined: bool) -> None:
        self._joined = joined
        self._found: tuple[Array | float, Array | float] = (np.inf, -np.inf)
        self._low: Array | float = np.inf
        self._high: Array | float = -np.inf
        self._worst: Array | float = 0.0

    def add(self, expected: Array, actual: Array, errors: Array, axis: int) -> None:
        others = tuple(other for other in range(expected.ndim) if other != axis)
        self._low = np.minimum(self._low, expected.min(axis=others))
        self._high = np.maximum(self._high, expected.max(axis=others))
        self._worst = np.maximum(self._worst, errors.max(axis=others))
        low, high = self._found
        self._found = (
            np.minimum(low, actual.min(axis=others)),
            np.maximum(high, actual.max(axis=others)),
        )

    def constant(self) -> bool:
        """Whether every place has one value only, where some have more in the original."""
        low, high = self._found
        varied = np.asarray(self._high) - self._low > 0
        return bool(np.any(varied)) and not np.any(np.asarray(high) - low)

    def drowned(self, spread: float) -> tuple[int, int]:
        """How many columns of how many; none when the wide ones are wrong too."""
        span = np.atleast_1d(np.asarray(self._high) - self._low)
        worst = np.atleast_1d(self._worst)
        if not self._joined:
            return 0, len(span)
        narrow = (span < SMALL * spread) & (span > 0)
        wide = ~narrow & (span > 0)
        if not wide.any() or (worst[wide] > LOST * span[wide]).any():
            return 0, len(span)
        return int((worst[narrow] > LOST * span[narrow]).sum()), len(span)


def parity(expected: Array, actual: Array) -> Parity:
    """One output over all samples at once, [S, …] each."""
    tally = Tally()
    tally.add(expected, actual)
    return tally.parity()


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
