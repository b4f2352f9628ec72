"""What one stream has come to: frames counted, and how long their stages took.

Invariant: its size does not grow with time; latencies and rates are those of the last frames.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence

import numpy as np

from edge.wire import Latency

_RECENT = 512
_STAGES = ("preprocess", "infer", "postprocess", "stages")


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
        self._recent: collections.deque[tuple[int, ...]] = collections.deque(maxlen=_RECENT)

    def frame(self, moments_ns: tuple[int, ...]) -> None:
        """One frame done: the monotonic moments at which it began and its stages ended, in order:
        preprocess, infer, postprocess, and second models where there are any."""
        self.frames += 1
        self._recent.append(moments_ns)

    def skip(self) -> None:
        """One frame that was not worth an inference."""
        self.idle += 1
        self._skipped_s = time.monotonic()

    def idle_s(self, *, since_s: float) -> float:
        """Seconds since the last frame, or since a monotonic moment when there was none."""
        last_s = self._recent[-1][-1] / 1e9 if self._recent else since_s
        return time.monotonic() - max(last_s, self._skipped_s)

    @property
    def fps(self) -> float:
        """Frames a second over the last frames."""
        recent = self._recent.copy()
        lasted_ns = recent[-1][-1] - recent[0][-1] if recent else 0
        return (len(recent) - 1) * 1e9 / lasted_ns if lasted_ns else 0.0

    def latencies(self) -> dict[str, Latency]:
        """Milliseconds by stage."""
        recent, result = self._recent.copy(), {}
        for end, stage in enumerate(_STAGES, start=1):
            took_ms = [(frame[end] - frame[end - 1]) / 1e6 for frame in recent if end < len(frame)]
            if took_ms:
                result[stage] = latency(took_ms)
        return result


def latency(took_ms: Sequence[float]) -> Latency:
    """Milliseconds of one or more runs, as they are reported."""
    p50, p95, p99 = np.percentile(took_ms, (50, 95, 99)).round(3).tolist()
    return Latency(p50=p50, p95=p95, p99=p99)
