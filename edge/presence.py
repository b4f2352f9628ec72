"""On which side of something each tracked object is, believed once it has lasted. Pure.

A side is believed when every frame that showed the object for `settle_s` seconds agrees on it, so
that a box that trembles on a border does nothing. Absence counts only in frames that were looked
at: an object that is there again after a pause, however long, was there all the time; one that is
not there, and was not seen for `lost_s` seconds, has vanished where it was last seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edge.types import Array, Detections

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Point = tuple[Annotated[float, msgspec.Meta(ge=0)], Annotated[float, msgspec.Meta(ge=0)]]
"""x, y in pixels of the source; in shares of its width and height where no number of a shape is
above 1."""
Anchor = Literal["bottom", "center"]
Size = tuple[int, int]
"""Width and height of the source's picture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One detection of a tracked object: where it stands, and what it was taken for.

    `point` float32 [2] is x, y and `box` is xyxy, in source pixels; `score` in 0..1.
    """

    id: int
    point: Array
    box: list[float]
    label: str
    score: float

    @property
    def facts(self) -> dict[str, Any]:
        """What a happening tells of the object."""
        return {"id": self.id, "label": self.label, "score": self.score, "box": self.box}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An object changed its side: `before` is the last sighting on the old one, `after` the first
    on the new one; it had been on the old one for `lasted_s`. A vanished one has no side."""

    before: Sighting
    after: Sighting
    side: bool | None
    was: bool
    lasted_s: float


@dataclasses.dataclass(slots=True)
class _Object:
    side: bool
    since_ns: int
    seen_ns: int
    here: Sighting
    turned_ns: int = 0
    there: Sighting | None = None


class Sides:
    """The sides of all objects. `unknown`: the side on which an object begins; None: where it is
    first seen."""

    def __init__(self, *, settle_s: float, lost_s: float, unknown: bool | None = None) -> None:
        self._settle_ns = round(settle_s * 1e9)
        self._lost_ns = round(lost_s * 1e9)
        self._unknown = unknown
        self._objects: dict[int, _Object] = {}

    def update(self, seen: Mapping[int, tuple[bool, Sighting]], mono_ns: int) -> list[Turn]:
        """What one frame shows, as id -> (side, sighting); what is believed of it from now on."""
        turns: list[Turn] = []
        for key, (side, sighting) in seen.items():
            known = self._objects.get(key)
            if known is None:
                begin = side if self._unknown is None else self._unknown
                known = self._objects[key] = _Object(begin, mono_ns, mono_ns, sighting)
            known.seen_ns = mono_ns
            if side == known.side:
                known.here, known.there = sighting, None
            else:
                if known.there is None:
                    known.turned_ns, known.there = mono_ns, sighting
                if mono_ns - known.turned_ns >= self._settle_ns:
                    turns.append(self._turn(known))
                    known.here = sighting
        for key, known in list(self._objects.items()):
            if mono_ns - known.seen_ns >= self._lost_ns and key not in seen:
                del self._objects[key]
                if known.there is not None:  # nothing speaks against what was seen last
                    turns.append(self._turn(known))
                lasted_s = (known.seen_ns - known.since_ns) / 1e9
                turns.append(
                    Turn(
                        before=known.here,
                        after=known.here,
                        side=None,
                        was=known.side,
                        lasted_s=lasted_s,
                    )
                )
        return turns

    def on(self, side: bool, mono_ns: int) -> Iterator[tuple[Sighting, float]]:
        """Every object that is believed to be on `side`, and for how many seconds."""
        for known in self._objects.values():
            if known.side == side:
                yield known.here, (mono_ns - known.since_ns) / 1e9

    def _turn(self, known: _Object) -> Turn:
        assert known.there is not None
        turn = Turn(
            before=known.here,
            after=known.there,
            side=not known.side,
            was=known.side,
            lasted_s=(known.turned_ns - known.since_ns) / 1e9,
        )
        known.side, known.since_ns = not known.side, known.turned_ns
        known.here, known.there = known.there, None
        return turn


def anchors(found: Detections, anchor: Anchor) -> Array:
    """Where each object stands: float32 [N, 2], the middle of its box or of its lower edge."""
    x = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    y = found.boxes[:, 3] if anchor == "bottom" else (found.boxes[:, 1] + found.boxes[:, 3]) / 2
    return np.stack([x, y], axis=1).astype(np.float32)


def sightings(found: Detections, anchor: Anchor) -> list[Sighting]:
    """The tracked ones of a frame's detections."""
    if found.ids is None:
        return []
    points = anchors(found, anchor)
    names = found.names
    return [
        Sighting(
            id=int(found.ids[index]),
            point=points[index],
            box=found.boxes[index].astype(float).round(1).tolist(),
            label=names[index],
            score=round(float(found.scores[index]), 4),
        )
        for index in np.nonzero(found.ids)[0]
    ]


def in_pixels(shape: tuple[Point, ...], size: Size) -> Array:
    """The points of a shape in pixels of the source: float32 [N, 2]."""
    points = np.array(shape, np.float32)
    return points * np.array(size, np.float32) if points.max() <= 1 else points
