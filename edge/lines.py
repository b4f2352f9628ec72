"""The rule `line`: tracked objects that cross a line in the picture, in which direction. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edge.happenings import CrossingData
from edge.presence import Anchor, Point, Seconds, Sides, Size, in_pixels, sightings
from edge.types import Array, Detections


class Line:
    """Reports crossings of the segment from `start` to `end`; who walks around it does not cross.

    An object that vanishes behind the line has crossed it too.
    """

    needs_ids = True

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`start` and `end` are points [x, y] in source pixels, or in shares of its width and
        height (0..1). `direction` is seen by who walks from `start` to `end`.

        `anchor`: which point of a box counts. A crossing is believed when the object has been on
        the other side for `settle_s`; an object that was not seen for `lost_s` has vanished.
        """

        line: str
        start: Point
        end: Point
        direction: Literal["both", "to_right", "to_left"] = "both"
        anchor: Anchor = "bottom"
        settle_s: Seconds = 0.2
        lost_s: Seconds = 2.0

        def __post_init__(self) -> None:
            if self.start == self.end:
                raise ValueError("start and end of a line must differ")

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        self._config = config
        self._sides = Sides(settle_s=config.settle_s, lost_s=config.lost_s)

    def watch(self, found: Detections, mono_ns: int, size: Size) -> list[CrossingData]:
        """Who crossed, as of this frame."""
        config = self._config
        start, end = in_pixels((config.start, config.end), size)
        seen = sightings(found, config.anchor)
        turns = self._sides.update(
            {one.id: (_side(start, end, one.point) > 0, one) for one in seen}, mono_ns
        )
        crossings = []
        for turn in turns:
            if turn.side is None or not _crosses(start, end, turn.before.point, turn.after.point):
                continue
            direction: Literal["to_right", "to_left"] = "to_right" if turn.side else "to_left"
            if config.direction in ("both", direction):
                crossings.append(
                    CrossingData(line=config.line, direction=direction, **turn.after.facts)
                )
        return crossings


def _side(start: Array, end: Array, point: Array) -> float:
    """Above 0 on the right of who walks from `start` to `end` (y points down)."""
    along, to_point = end - start, point - start
    return float(along[0] * to_point[1] - along[1] * to_point[0])


def _crosses(start: Array, end: Array, before: Array, after: Array) -> bool:
    """Whether the way from `before` to `after`, on both sides of the line, leads through the
    segment: its ends then lie on both sides of that way."""
    if np.array_equal(before, after):
        return False
    return _side(before, after, start) * _side(before, after, end) <= 0
