"""Samples -> the range of every tensor inside of a model, in memory that does not grow with them.

The runtimes' own calibrators are not used: LiteRT's is a moving average that cuts logits short by
40 %, and ONNX Runtime's keeps all activations of all samples for the histogram methods. One
histogram per tensor serves both formats and all three methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convert.activations import Activations
from convert.graph import Range
from edge.types import Array

_BINS = 4096
_LEVELS = 256
# What `entropy` needs in a bin on average, so that chance does not look like shape.
_VALUES_PER_BIN = 16
_CANDIDATES = 64
# Values of one tensor of one sample that are counted; the extremes are those of all.
_COUNTED = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How ranges are chosen.

    minmax: the smallest and largest value seen. percentile: `percentile` % of the values lie
    inside, half of the rest on either side. entropy: the range whose 256 levels lose the least
    (Kullback-Leibler divergence, as in S. Migacz, "8-bit inference with TensorRT", GTC 2017); a
    tensor with fewer than 8192 values over all samples shows no distribution and gets minmax.
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.99


_MINMAX = Calibration()


class Histogram:
    """Values counted in equal bins over a range that grows by doubling, so no count is ever split.

    What is not finite (a mask's minus infinity) is left out.
    """

    def __init__(self, calibration: Calibration = _MINMAX) -> None:
        self._calibration = calibration
        self._counting = calibration.method != "minmax"
        self.smallest = np.inf
        self.largest = -np.inf
        self._low = 0.0
        self._width = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, values: Array) -> None:
        """Take in these values: the extremes of all, the counts of as many as show the shape."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite(low) or not np.isfinite(high):
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)
        if not self._counting:
            return
        self._cover(low, high)
        if flat.size > _COUNTED:
            # By chance and not by a stride, which might see one channel alone.
            flat = flat[np.random.default_rng(0).integers(0, flat.size, _COUNTED)]
        bins = ((flat.astype(np.float64) - self._low) / self._width).astype(np.int64)
        self._counts += np.bincount(np.clip(bins, 0, _BINS - 1), minlength=_BINS)

    def range(self) -> Range:
        """The range to quantise to. It holds 0, which must have a level of its own."""
        match self._calibration.method:
            case "percentile":
                low, high = self._percentile(self._calibration.percentile)
            case "entropy":
                low, high = self._entropy()
            case _:
                low, high = self.smallest, self.largest
        return min(low, 0.0), max(high, 0.0)

    def _cover(self, low: float, high: float) -> None:
        if not self._width:
            # Nothing else is known yet; a constant tensor gets a range around it.
            self._low = low
            self._width = max(high - low, abs(low) * 1e-3, 1e-12) * 1.001 / _BINS
        while low < self._low:
            self._low -= self._width * _BINS
            self._double(_BINS // 2)
        while high >= self._low + self._width * _BINS:
            self._double(0)

    def _double(self, start: int) -> None:
        """Bins of twice the width; the counts so far take half of them, from `start`."""
        merged = self._counts.reshape(-1, 2).sum(axis=1)
        self._counts = np.zeros(_BINS, np.int64)
        self._counts[start : start + _BINS // 2] = merged
        self._width *= 2

    def _percentile(self, percentile: float) -> Range:
        outside = (1 - percentile / 100) / 2
        share = np.cumsum(self._counts) / self._counts.sum()
        first = int(np.searchsorted(share, outside, side="right"))
        last = int(np.searchsorted(share, 1 - outside, side="left"))
        low, high = self._low + first * self._width, self._low + (last + 1) * self._width
        return max(low, self.smallest), min(high, self.largest)

    def _entropy(self) -> Range:
        low, high = min(self.smallest, 0.0), max(self.largest, 0.0)
        merged = 1
        while self._counts.sum() < _VALUES_PER_BIN * _BINS // merged and _BINS // merged > _LEVELS:
            merged *= 2
        bins = _BINS // merged
        counts = self._counts.reshape(bins, merged).sum(axis=1).astype(np.float64)
        width = self._width * merged

        def lost(low: float, high: float) -> float:
            first, last = int((low - self._low) / width), int((high - self._low) / width)
            return _divergence(counts, max(0, first), min(last, bins - 1))

        # One end after the other, since an outlier has one side; down to where a bin is a level.
        narrow = min(1.0, _LEVELS * width / max(high - low, 1e-30))
        shares = np.linspace(1.0, narrow, _CANDIDATES)
        high = min((float(high * share) for share in shares), key=lambda end: lost(low, end))
        low = min((float(low * share) for share in shares), key=lambda end: lost(end, high))
        return low, high


def _divergence(counts: Array, first: int, last: int) -> float:
    """KL divergence of a distribution, clipped to these bins, from its image on 256 levels."""
    inside = counts[first : last + 1]
    if not inside.any():
        return float("inf")
    level = np.arange(len(inside)) * _LEVELS // len(inside)
    # Within a level all that was there becomes alike; empty bins stay empty.
    filled = np.bincount(level, weights=inside > 0, minlength=_LEVELS)
    mean = np.bincount(level, weights=inside, minlength=_LEVELS) / np.maximum(filled, 1)
    image = np.where(inside > 0, mean[level], 0.0)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    clipped, image = clipped / clipped.sum(), image / image.sum()
    there = clipped > 0
    # An outlier that falls where the image is empty must cost, yet not infinitely.
    image = np.maximum(image[there], 1e-9)
    return float((clipped[there] * np.log(clipped[there] / image)).sum())


def observe(
    run: Activations,
    tensors: Sequence[Array],
    calibration: Calibration,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Range]:
    """Ranges by tensor name over all samples; `advance` is called after each."""
    histograms: dict[str, Histogram] = {}
    for tensor in tensors:
        for name, value in run(tensor).items():
            histograms.setdefault(name, Histogram(calibration)).add(value)
        advance()
    return {
        name: histogram.range()
        for name, histogram in histograms.items()
        if np.isfinite(histogram.smallest)
    }
