"""Samples -> windows of float32 [T, C]: by count, or on a regular grid of time. Pure.

Invariant: a window never spans a gap, and every sample that was given is counted as exactly one of
used, late, duplicate or bad. What was given is taken (`Windows.take`) before more is given.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Literal

import msgspec
import numpy as np

from edge.errors import ConfigError, FrameError
from edge.manifest import Preprocess, WindowPreprocess
from edge.types import Array

_SET_BACK_S = 1.0
_ON_THE_GRID = 1e-6  # of a step: a sample that lies there but for its rounding
_MAX_VALUES = 1 << 24
_LEAST_GAP = 4  # steps of the grid: no sensor keeps its step exactly

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class WindowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is left out of `channels` (in the model's order), `length` and `hop` (samples) is taken
    from the bundle.

    With `rate_hz` the samples are put on a regular grid of time by linear interpolation, and the
    window may be given as `window_s` and `hop_s`. Where nothing came for more than `max_gap_s` (0:
    on a grid for longer than a window and than four steps; otherwise however long it was), the
    window starts anew.
    """

    channels: tuple[str, ...] = ()
    length: int = 0
    hop: int = 0
    window_s: float = 0.0
    hop_s: float = 0.0
    rate_hz: float = 0.0
    max_gap_s: float = 0.0

    def __post_init__(self) -> None:
        if self.length < 0 or self.hop < 0:
            raise ValueError("length and hop must be 1 or more")
        for key in ("window_s", "hop_s", "rate_hz", "max_gap_s"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a finite number above 0")
        if (self.length and self.window_s) or (self.hop and self.hop_s):
            raise ValueError("give length and hop in samples or window_s and hop_s, not both")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("two channels have one name")


class TimedConfig(WindowConfig, frozen=True, kw_only=True):
    """As `WindowConfig`; `time` is the column or field in which a sample says when it was taken,
    counted in `time_unit`. Without it a sample counts as taken when it arrives."""

    time: str = ""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which windows to make: see `WindowConfig`. By count, or `on_grid` of `rate_hz`."""

    channels: tuple[str, ...]
    length: int
    hop: int
    rate_hz: float = 0.0
    on_grid: bool = False
    max_gap_s: float = 0.0


def plan(
    config: WindowConfig, preprocess: Preprocess | None, *, name: str, rated: bool = False
) -> Plan:
    """The windows of source `name`: its configuration, completed from the bundle.

    With `rated` the source is asked at the rate, which is the bundle's where the configuration has
    none; then single samples are in step by themselves. ConfigError when something is in neither.
    """
    given = preprocess if isinstance(preprocess, WindowPreprocess) else None
    rate_hz = config.rate_hz or (given.rate_hz if given and rated else 0.0)
    if (config.window_s or config.hop_s) and not rate_hz:
        raise ConfigError(f"source {name}: window_s and hop_s need rate_hz")
    if rated and not rate_hz:
        raise ConfigError(f"source {name}: rate_hz is needed for this bundle")
    channels = config.channels or (given.channels if given else ())
    length = config.length or round(config.window_s * rate_hz) or (given.length if given else 0)
    hop = config.hop or round(config.hop_s * rate_hz) or (given.hop if given else 0)
    if not (channels and length and hop):
        raise ConfigError(f"source {name}: channels, length and hop are needed for this bundle")
    on_grid = rate_hz > 0 and not (rated and length == hop == 1)
    gap_s = config.max_gap_s or (max(length, _LEAST_GAP) / rate_hz if on_grid else 0.0)
    if max(length, gap_s * rate_hz) * len(channels) > _MAX_VALUES:
        raise ConfigError(
            f"source {name}: a window or a gap of more than {_MAX_VALUES} values; make it shorter"
        )
    return Plan(
        channels=channels,
        length=length,
        hop=hop,
        rate_hz=rate_hz,
        on_grid=on_grid,
        max_gap_s=gap_s,
    )


class Window:
    """By count: a window every `hop` of the samples put in."""

    def __init__(self, length: int, hop: int, channels: int) -> None:
        self._buffer = np.empty((length, channels), np.float32)
        self._hop = hop
        self._filled = 0
        self._skip = 0
        self._waiting: collections.deque[Array] = collections.deque()

    def put(self, samples: Array) -> None:
        """Samples [N, C], which must not change until they are taken."""
        if len(samples):
            self._waiting.append(samples)

    def take(self) -> Array | None:
        """The next whole window [length, C], as a copy; None when samples are missing."""
        length = len(self._buffer)
        while self._waiting:
            samples = self._waiting[0]
            if self._skip:
                count = min(self._skip, len(samples))
                self._skip -= count
            else:
                count = min(length - self._filled, len(samples))
                self._buffer[self._filled : self._filled + count] = samples[:count]
                self._filled += count
            if count < len(samples):
                self._waiting[0] = samples[count:]
            else:
                self._waiting.popleft()
            if self._filled == length:
                return self._completed()
        return None

    def clear(self) -> None:
        """Forget the samples collected so far."""
        self._waiting.clear()
        self._filled = self._skip = 0

    def _completed(self) -> Array:
        length = len(self._buffer)
        window = self._buffer.copy()
        keep = max(0, length - self._hop)
        self._buffer[:keep] = window[length - keep :]
        self._filled = keep
        self._skip = max(0, self._hop - length)
        return window


class Windows:
    """The windows of one stream, with their numbers, which skip where a window started anew.

    `counts`: samples, of which used, late, duplicate and bad; and starts after a gap.
    """

    def __init__(self, plan: Plan) -> None:
        self.counts = dict.fromkeys(("samples", "used", "late", "duplicate", "bad", "gaps"), 0)
        self._plan = plan
        self._window = Window(plan.length, plan.hop, len(plan.channels))
        self._number = 0
        self._last_s: float | None = None
        self._before: Array | None = None
        self._origin_s = 0.0
        self._step = 0

    def take(self) -> tuple[int, Array] | None:
        """The number of the next window, and the window [T, C]; None when samples are missing."""
        window = self._window.take()
        if window is None:
            return None
        self._number += 1
        return self._number - 1, window

    def add(self, values: Array, time_s: float | None = None) -> None:
        """One sample [C], and when it was taken by a clock that goes on.

        A time that was there already makes it a duplicate, an earlier one makes it late: both are
        dropped. One that is earlier by much says that the clock was set: the window starts anew.
        FrameError when it holds something that is not finite.
        """
        if not np.isfinite(values).all() or not (time_s is None or math.isfinite(time_s)):
            self.bad()
            raise FrameError("a value is not finite")
        self.counts["samples"] += 1
        if time_s is not None and self._last_s is not None:
            step_s = time_s - self._last_s
            gap_s = self._plan.max_gap_s
            if step_s == 0:
                self.counts["duplicate"] += 1
                return
            if -max(gap_s, _SET_BACK_S) <= step_s < 0:
                self.counts["late"] += 1
                return
            if self._before is not None and (step_s < 0 or 0 < gap_s < step_s):
                self.counts["gaps"] += 1
                self.restart()
        self.counts["used"] += 1
        if time_s is not None and self._plan.on_grid:
            self._window.put(self._on_grid(values, time_s))
        else:
            self._window.put(values[None])
        self._last_s, self._before = time_s, values

    def extend(self, samples: Array) -> None:
        """Samples [N, C] that follow on one another, in the rate of the window."""
        if not np.isfinite(samples).all():
            self.bad(len(samples))
            raise FrameError("a value is not finite")
        self.counts["samples"] += len(samples)
        self.counts["used"] += len(samples)
        self._window.put(samples)

    def bad(self, count: int = 1) -> None:
        """Samples came that cannot be used. The window would lie about time: it starts anew."""
        self.counts["samples"] += count
        self.counts["bad"] += count
        self.restart()

    def restart(self) -> None:
        """What comes next does not follow on what came last."""
        self._window.clear()
        self._before = None
        self._number += self._number > 0

    def _on_grid(self, values: Array, time_s: float) -> Array:
        """The points of the grid up to `time_s` that were not made yet: [N, C]."""
        before, since_s = self._before, self._last_s
        if before is None or since_s is None:
            self._origin_s, self._step = time_s, 1
            return values[None]
        rate_hz = self._plan.rate_hz
        first, end = self._step, int((time_s - self._origin_s) * rate_hz + _ON_THE_GRID) + 1
        if end <= first:
            return values[None][:0]
        self._step = end
        span_s = time_s - since_s
        if end == first + 1:  # as a rule: numpy is slow at single numbers
            part = (self._origin_s + first / rate_hz - since_s) / span_s
            part = min(max(part, 0.0), 1.0)
            return np.asarray(before * (1.0 - part) + values * part, np.float32)[None]
        moments_s = self._origin_s + np.arange(first, end) / rate_hz
        parts = ((moments_s - since_s) / span_s).clip(0.0, 1.0)[:, None]
        return np.asarray(before * (1.0 - parts) + values * parts, np.float32)
