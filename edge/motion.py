"""The motion gate: a frame in which nothing moved is not worth an inference.

It compares small grey pictures with the last frame that it let pass, so that slow motion adds up.
Pure apart from that picture; the time comes from the frames.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edge.types import Array, Frame

_WIDTH = 160


class MotionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[pipeline.motion]: skip frames in which nothing moved.

    A frame moves when more than `min_area` of it (0..1) has become brighter or darker by more than
    `min_change` (of 255) since the last one that passed. After motion everything passes for
    `linger_s`, so that rules see how it ends, and a frame passes at least every `at_least_every_s`.
    """

    min_area: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.001
    min_change: Annotated[int, msgspec.Meta(ge=1, le=254)] = 20
    linger_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    at_least_every_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class MotionGate:
    """Decides frame by frame, for one stream of pictures."""

    def __init__(self, config: MotionConfig) -> None:
        self._config = config
        self._passed: Array | None = None
        self._passed_ns = 0
        self._moved_ns = 0

    def passes(self, frame: Frame) -> bool:
        """Whether this frame has to be looked at. What is no picture (uint8 [H, W, 3]) passes, for
        others to refuse."""
        data = frame.data
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            return True
        small = _small(data)
        now_ns = frame.mono_ns
        if self._passed is None or self._passed.shape != small.shape or self._moved(small):
            self._moved_ns = now_ns
        elif (
            now_ns - self._moved_ns > self._config.linger_s * 1e9
            and now_ns - self._passed_ns < self._config.at_least_every_s * 1e9
        ):
            return False
        self._passed, self._passed_ns = small, now_ns
        return True

    def _moved(self, small: Array) -> bool:
        import cv2

        assert self._passed is not None
        changed = cv2.absdiff(small, self._passed) > self._config.min_change
        return float(np.count_nonzero(changed)) > self._config.min_area * small.size


def _small(picture: Array) -> Array:
    """Grey, `_WIDTH` wide, each pixel the mean of nine of those that it stands for: enough for
    noise to cancel out, and a fifth of the time that the mean of all takes at 1080p."""
    import cv2

    height, width = picture.shape[:2]
    for of, how in ((3, cv2.INTER_NEAREST), (1, cv2.INTER_AREA)):
        scale = min(1.0, of * _WIDTH / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=how)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
