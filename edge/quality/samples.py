"""Is the sensor any good? Flat-lined, clipped or stuck; channel by channel. Pure.

All is held against what is normal for the channel: how still it is when it is at its stillest, how
long it may repeat one value, how much of it lies at its extremes.
"""

from __future__ import annotations

import numpy as np

from edge.conditions import QualityData, SampleProblem
from edge.quality.config import QualityConfig
from edge.quality.problem import Problem, Turn
from edge.types import Array

_PROBLEMS: tuple[SampleProblem, ...] = ("stuck", "flat", "clipped")
_FLAT = 0.1
"""Of the spread at its stillest."""
_CLIPPED, _CLIPPED_TIMES = 0.1, 2.5
_STUCK_TIMES = 3.0
_ENDS = 1.5
"""A problem is over when its measure is so much better than where it begins."""
_LEAST_LOOKS = 10
_ADAPT_S = 3600.0
_EVIDENCE = 256


class SampleQuality:
    """Looks at the windows of one sensor: float [T, C], C `channels`."""

    def __init__(self, config: QualityConfig, channels: tuple[str, ...]) -> None:
        self._config = config
        self._channels = channels
        count = len(channels)
        self._wanted = [name for name in _PROBLEMS if name not in config.ignore]
        self._problems = {
            name: [Problem(0.0 if name == "stuck" else config.settle_s) for _ in channels]
            for name in self._wanted
        }
        self._looks, self._learned_s, self._seen_ns = 0, 0.0, 0
        self._quiet = np.full(count, np.inf)
        self._at_ends = np.zeros(count)
        self._still_s = np.zeros(count)
        self._changed_ns = np.zeros(count)
        self._last = np.full(count, np.nan)

    def look(self, window: Array, mono_ns: int) -> list[QualityData]:
        """What began or ended with this window."""
        values = window.astype(np.float64)
        spread = values.std(axis=0)
        at_ends = _at_ends(values)
        moved = np.ptp(values, axis=0) > 0
        moved |= values[-1] != self._last
        before_s = np.where(self._changed_ns > 0, (mono_ns - self._changed_ns) / 1e9, 0.0)
        self._changed_ns = np.where(moved | (self._changed_ns == 0), mono_ns, self._changed_ns)
        self._last = values[-1]
        still_s = (mono_ns - self._changed_ns) / 1e9
        limits = {
            "stuck": np.maximum(self._config.frozen_s, _STUCK_TIMES * self._still_s),
            "flat": _FLAT * np.where(np.isfinite(self._quiet), self._quiet, 0.0),
            "clipped": np.maximum(_CLIPPED, _CLIPPED_TIMES * self._at_ends),
        }
        measures = {"stuck": still_s, "flat": spread, "clipped": at_ends}
        found: list[QualityData] = []
        well = np.ones(len(self._channels), bool)
        for name in self._wanted:
            active = np.array([problem.active for problem in self._problems[name]])
            bad = _bad(name, measures[name], limits[name], active)
            if name != "stuck":
                bad &= moved  # a channel that stands still is stuck, and nothing else
            well &= ~bad & ~active
            found += self._turned(name, bad, mono_ns, values, measures[name], limits[name])
        self._learn(spread, at_ends, np.where(moved, before_s, 0.0), well, mono_ns)
        return found

    @property
    def _learned(self) -> bool:
        return self._looks >= _LEAST_LOOKS and self._learned_s >= self._config.learn_s

    def _learn(
        self, spread: Array, at_ends: Array, still_s: Array, well: Array, mono_ns: int
    ) -> None:
        """What is well is normal: `still_s` is how long a channel stood still that moves again."""
        passed_s = min((mono_ns - self._seen_ns) / 1e9, 10.0) if self._looks else 0.0
        self._looks, self._seen_ns = self._looks + 1, mono_ns
        self._learned_s += passed_s
        fade = min(1.0, passed_s / _ADAPT_S)
        moving = well & (spread > 0)
        risen = np.where(np.isfinite(self._quiet), self._quiet * (1 + fade), np.inf)
        self._quiet = np.where(moving, np.minimum(risen, spread), self._quiet)
        fallen = self._at_ends * (1 - fade)
        self._at_ends = np.where(moving, np.maximum(fallen, at_ends), self._at_ends)
        self._still_s = np.where(well, np.maximum(self._still_s, still_s), self._still_s)

    def _turned(
        self, name: SampleProblem, bad: Array, mono_ns: int, values: Array, measured: Array,
        limit: Array,
    ) -> list[QualityData]:  # fmt: skip
        """One event for all channels of which the same is believed with this window."""
        turned: dict[Turn, list[int]] = {}
        for index, problem in enumerate(self._problems[name]):
            known = bool(bad[index]) if self._learned or name == "stuck" else None
            since_ns = int(self._changed_ns[index]) if name == "stuck" else None
            if turn := problem.update(known, mono_ns, since_ns=since_ns):
                turned.setdefault(turn, []).append(index)
        found = []
        for turn, indices in turned.items():
            names = [self._channels[index] for index in indices]
            shown = self._config.evidence and turn == "began"
            last = values[-_EVIDENCE:, indices[0]].tolist() if shown else []
            longest = max(self._problems[name][index].seconds(mono_ns) for index in indices)
            found.append(
                QualityData(
                    problem=name,
                    state=turn,
                    seconds=longest,
                    channels=tuple(names),
                    measures=_rounded(names, measured[indices]),
                    limits=_rounded(names, limit[indices]),
                    samples=tuple(float(f"{value:.6g}") for value in last),
                )
            )
        return found


def _bad(name: SampleProblem, measured: Array, limit: Array, active: Array) -> Array:
    """Which channels are beyond their limits, which are eased for those of which it is believed."""
    if name == "flat":
        return np.asarray(measured < np.where(active, limit * _ENDS, limit))
    if name == "clipped":
        return np.asarray(measured > np.where(active, limit / _ENDS, limit))
    return np.where(active, measured > 0, measured >= limit)


def _at_ends(values: Array) -> Array:
    """The share of each channel's samples that lie at its highest or lowest value in the window,
    less those two; of a channel with few values, such as a switch, 0."""
    count = len(values)
    high, low = values == values.max(axis=0), values == values.min(axis=0)
    share = (high.sum(axis=0) + low.sum(axis=0) - 2) / count
    kinds = (np.diff(np.sort(values, axis=0), axis=0) > 0).sum(axis=0) + 1
    return np.where(kinds >= max(8, count // 5), share, 0.0)


def _rounded(names: list[str], values: Array) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in zip(names, values.tolist(), strict=True)}
