"""What rules notice of tracked objects, as it travels and rests. Plain structs, finite numbers.

A happening is reported in an event of its own; the event's time is that of the frame in which it
was believed.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ZoneData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The object `id` entered a zone, left it after `seconds`, or has stayed for `seconds`.

    `box` is xyxy in source pixels, where it was last seen. `vanished`: it was not seen to walk out.
    """

    action: Literal["entered", "left", "dwell"]
    zone: str
    id: int
    label: str
    score: float
    box: list[float]
    seconds: float = 0.0
    vanished: bool = False


class CrossingData(msgspec.Struct, frozen=True, kw_only=True):
    """The object `id` crossed a line, `direction` as seen by who walks from its start to its end.

    `box` is xyxy in source pixels, where it was last seen.
    """

    line: str
    direction: Literal["to_right", "to_left"]
    id: int
    label: str
    score: float
    box: list[float]


class CountData(msgspec.Struct, frozen=True, kw_only=True):
    """How many objects are in a zone, in all and by label; `zone` "" is the whole picture."""

    zone: str
    count: int
    labels: dict[str, int]


Happening = ZoneData | CrossingData | CountData
