"""How fast the frames of one pipeline are taken: at most `max_fps`, and a share of what is usual.

What is usual is measured while nothing holds the pipeline back.
"""

from __future__ import annotations

import collections

_RECENT = 64
_LEAST = 8


class Pace:
    """One pipeline's. `share` is set by whoever watches the heat; 1 is as fast as it goes."""

    def __init__(self, max_fps: float) -> None:
        self.share = 1.0
        self._max_fps = max_fps
        self._moments: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._usual = 0.0
        self._due_s = 0.0

    @property
    def limit(self) -> float:
        """Frames a second that may be taken now; 0: any number."""
        if self.share >= 1 or not self._usual:
            return self._max_fps
        return self.share * self._usual

    def wait_s(self, now_s: float) -> float:
        """How long to wait before a frame is taken."""
        return max(0.0, self._due_s - now_s)

    def taken(self, now_s: float) -> None:
        """One frame was taken."""
        if self.share >= 1 or not self._usual:
            self._measure(now_s)
        else:
            self._moments.clear()
        limit = self.limit
        if limit:
            self._due_s = max(now_s, self._due_s + 1 / limit)

    def _measure(self, now_s: float) -> None:
        moments = self._moments
        moments.append(now_s)
        if len(moments) >= _LEAST and moments[-1] > moments[0]:
            self._usual = (len(moments) - 1) / (moments[-1] - moments[0])
