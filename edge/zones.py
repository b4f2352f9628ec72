"""The rules `entered`, `left`, `dwell` and `count`: tracked objects in a zone of the picture. Pure.

A zone is a polygon; an object is in it when the point at which it stands is.
"""

from __future__ import annotations

import collections
from typing import Annotated, Any

import msgspec
import numpy as np

from edge.happenings import CountData, ZoneData
from edge.presence import (
    Anchor,
    Point,
    Seconds,
    Sides,
    Sighting,
    Size,
    Turn,
    anchors,
    in_pixels,
    sightings,
)
from edge.types import Array, Detections


class ZoneConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`zone` is a name from [pipeline.zones], or a new one with a `polygon` of its own: points
    [x, y] in source pixels, or in shares of its width and height (0..1).

    `anchor`: which point of a box counts. A change is believed after `settle_s`; an object that was
    not seen for `lost_s` has vanished.
    """

    zone: str
    polygon: tuple[Point, ...] = ()
    anchor: Anchor = "bottom"
    settle_s: Seconds = 0.5
    lost_s: Seconds = 2.0

    def __post_init__(self) -> None:
        if not self.polygon:
            raise ValueError(
                f"zone {self.zone!r} has no polygon; give it one here, or under [pipeline.zones]"
            )
        check_polygon(self.polygon)


def check_polygon(polygon: tuple[Point, ...]) -> None:
    """ValueError when it is none."""
    if len(polygon) < 3:
        raise ValueError(f"a polygon has 3 points or more, not {len(polygon)}")


class _Polygon:
    def __init__(self, polygon: tuple[Point, ...]) -> None:
        self._polygon = polygon

    def holds(self, points: Array, size: Size) -> list[bool]:
        """Whether each of the points [N, 2] lies in it or on its border."""
        import cv2

        contour = in_pixels(self._polygon, size)
        return [cv2.pointPolygonTest(contour, (float(x), float(y)), False) >= 0 for x, y in points]


class _Zone:
    """Who is in a zone."""

    needs_ids = True

    def __init__(self, config: Any, *, labels: tuple[str, ...]) -> None:
        self.config = config
        self._polygon = _Polygon(config.polygon)
        self.sides = Sides(settle_s=config.settle_s, lost_s=config.lost_s, unknown=False)

    def turns(self, found: Detections, mono_ns: int, size: Size) -> list[Turn]:
        """What changed with this frame; side True is inside."""
        seen = sightings(found, self.config.anchor)
        inside = self._polygon.holds(np.array([one.point for one in seen]).reshape(-1, 2), size)
        return self.sides.update(
            {one.id: (side, one) for one, side in zip(seen, inside, strict=True)}, mono_ns
        )


class Entered(_Zone):
    """Reports who comes into a zone, or appears in it."""

    Config = ZoneConfig

    def watch(self, found: Detections, mono_ns: int, size: Size) -> list[ZoneData]:
        """Who entered, as of this frame."""
        return [
            ZoneData(action="entered", zone=self.config.zone, **turn.after.facts)
            for turn in self.turns(found, mono_ns, size)
            if turn.side
        ]


class Left(_Zone):
    """Reports who goes out of a zone, or vanishes in it, and how long they were inside."""

    Config = ZoneConfig

    def watch(self, found: Detections, mono_ns: int, size: Size) -> list[ZoneData]:
        """Who left, as of this frame."""
        return [
            ZoneData(
                action="left",
                zone=self.config.zone,
                seconds=round(turn.lasted_s, 3),
                vanished=turn.side is None,
                **turn.after.facts,
            )
            for turn in self.turns(found, mono_ns, size)
            if turn.was and not turn.side
        ]


class Dwell(_Zone):
    """Reports who stays in a zone, once a stay."""

    class Config(ZoneConfig, frozen=True, kw_only=True):
        """Reported after `seconds` inside."""

        seconds: Annotated[float, msgspec.Meta(gt=0)]

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        super().__init__(config, labels=labels)
        self._told: set[int] = set()

    def watch(self, found: Detections, mono_ns: int, size: Size) -> list[ZoneData]:
        """Who has now stayed for long enough."""
        for turn in self.turns(found, mono_ns, size):
            self._told.discard(turn.after.id)
        due: list[tuple[Sighting, float]] = [
            (one, seconds)
            for one, seconds in self.sides.on(True, mono_ns)
            if seconds >= self.config.seconds and one.id not in self._told
        ]
        self._told |= {one.id for one, _ in due}
        return [
            ZoneData(action="dwell", zone=self.config.zone, seconds=round(seconds, 3), **one.facts)
            for one, seconds in due
        ]


class Count:
    """Reports how many objects are in a zone, when that changes. It needs no ids."""

    needs_ids = False

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`zone` and `polygon` as for the other rules of zones; without both, the whole picture.

        A new count is believed when it has been the same for `settle_s`.
        """

        zone: str = ""
        polygon: tuple[Point, ...] = ()
        anchor: Anchor = "bottom"
        settle_s: Seconds = 0.5

        def __post_init__(self) -> None:
            if self.zone and not self.polygon:
                raise ValueError(
                    f"zone {self.zone!r} has no polygon; give it one here, or under"
                    " [pipeline.zones]"
                )
            if self.polygon:
                check_polygon(self.polygon)

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        self._config = config
        self._polygon = _Polygon(config.polygon) if config.polygon else None
        self._told: dict[str, int] | None = None
        self._now: dict[str, int] | None = None
        self._since_ns = 0

    def watch(self, found: Detections, mono_ns: int, size: Size) -> list[CountData]:
        """The count, when it is a new one."""
        names = found.names
        if self._polygon is not None:
            inside = self._polygon.holds(anchors(found, self._config.anchor), size)
            names = [name for name, here in zip(names, inside, strict=True) if here]
        counts = dict(sorted(collections.Counter(names).items()))
        if counts != self._now:
            self._now, self._since_ns = counts, mono_ns
        if counts == self._told or mono_ns - self._since_ns < self._config.settle_s * 1e9:
            return []
        self._told = counts
        return [CountData(zone=self._config.zone, count=sum(counts.values()), labels=counts)]
