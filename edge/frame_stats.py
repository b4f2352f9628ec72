"""What one stream has come to: frames counted, and how long their stages took.

Invariant: its size does not grow with time; latencies and rates are those of the last frames.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping

import numpy as np

from edge.wire import Latency

_RECENT = 512


class FrameStats:
    """Counts frames and keeps the last latencies of each stage."""

    def __init__(self) -> None:
        self.frames = 0
        self.bad_frames = 0
        self.last_bad = ""
        self.events = 0
        self.idle = 0
        self.state_resets = 0
        self._skipped_s = 0.0
        self._stages: dict[str, collections.deque[float]] = {}
        self._moments: collections.deque[float] = collections.deque(maxlen=_RECENT)

    def frame(self, moments_ns: Mapping[str, int]) -> None:
        """One frame done: the moments at which its stages ended, in order, `start` first."""
        self.frames += 1
        self._moments.append(time.monotonic())
        before = None
        for stage, moment_ns in moments_ns.items():
            if before is not None:
                recent = self._stages.setdefault(stage, collections.deque(maxlen=_RECENT))
                recent.append((moment_ns - before) / 1e6)
            before = moment_ns

    def skip(self) -> None:
        """One frame that was not worth an inference."""
        self.idle += 1
        self._skipped_s = time.monotonic()

    def idle_s(self, *, since_s: float) -> float:
        """Seconds since the last frame, or since a monotonic moment when there was none."""
        last_s = self._moments[-1] if self._moments else since_s
        return time.monotonic() - max(last_s, self._skipped_s)

    @property
    def fps(self) -> float:
        """Frames a second over the last frames."""
        moments = self._moments.copy()
        if len(moments) < 2 or moments[-1] == moments[0]:
            return 0.0
        return (len(moments) - 1) / (moments[-1] - moments[0])

    def latencies(self) -> dict[str, Latency]:
        """Milliseconds by stage."""
        result = {}
        for stage, recent in list(self._stages.items()):
            p50, p95, p99 = np.percentile(list(recent), (50, 95, 99)).round(3).tolist()
            result[stage] = Latency(p50=p50, p95=p95, p99=p99)
        return result
