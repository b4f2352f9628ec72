"""How fast the frames of one pipeline are taken: at most `max_fps`, and a share of what is usual.

What is usual is measured while nothing holds the pipeline back.
"""

from __future__ import annotations

import collections
import itertools

_RECENT = 64
_LEAST = 8
_PAUSE = 5


class Pace:
    """One pipeline's; `share` is set by whoever watches the heat."""

    def __init__(self, max_fps: float) -> None:
        self._max_fps = max_fps
        self._share = 1.0
        self._usual = 0.0
        self._moments: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._due_s = 0.0

    @property
    def share(self) -> float:
        """The share of the usual rate, 0..1; 1 is as fast as it goes."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        if share >= 1:
            self._moments.clear()
            self._usual = 0.0
        self._share = share

    def wait_s(self, now_s: float) -> float:
        """How long to wait before a frame is taken; not above 0 when it is due."""
        return self._due_s - now_s

    def taken(self, now_s: float) -> None:
        """One frame was taken."""
        limit = self._max_fps
        if self._share >= 1:
            self._moments.append(now_s)
        else:
            limit = self._held(now_s) or limit
        if limit:
            self._due_s = max(now_s, self._due_s + 1 / limit)

    def _held(self, now_s: float) -> float:
        """Frames a second of a pipeline that is held back; 0 while it is not known yet."""
        if not self._usual:
            self._moments.append(now_s)
            self._usual = _rate(list(self._moments))
        return self._share * self._usual


def _rate(moments: list[float]) -> float:
    """Frames a second without the pauses, such as those of a lost camera; 0 for too few frames."""
    gaps = sorted(after - before for before, after in itertools.pairwise(moments))
    if len(gaps) < _LEAST:
        return 0.0
    steady = [gap for gap in gaps if gap <= _PAUSE * gaps[len(gaps) // 2]]
    return len(steady) / sum(steady) if sum(steady) else 0.0
