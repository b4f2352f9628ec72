"""Whether two ways to run a model say the same of a picture. A faster wrong answer does not count.

Invariant: a difference is told in words, and an empty text is the same answer. Needs numpy at most:
the peers' answers come from other processes as plain lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MIN_IOU = 0.9
MAX_SCORE_OFF = 0.05
NEAR_THRESHOLD = 0.03
"""One whose score is so near to the threshold may be there or not: roundings decide."""


class Found(NamedTuple):
    """One box xyxy in pixels of the picture, its score and the number of its class."""

    box: tuple[float, float, float, float]
    score: float
    label: int


def difference(
    ours: Sequence[Sequence[Found]], expected: Sequence[Sequence[Found]], *, threshold: float
) -> str:
    """The first difference between the answers to the same pictures; empty when there is none."""
    if len(ours) != len(expected):
        return f"{len(ours)} answers to {len(expected)} pictures"
    for number, (mine, theirs) in enumerate(zip(ours, expected)):  # noqa: B905 - just compared
        for kind, some, others in (("missing", theirs, mine), ("added", mine, theirs)):
            for found in some:
                if found.score > threshold + NEAR_THRESHOLD and not _in(found, others):
                    box = [round(value) for value in found.box]
                    return (
                        f"picture {number}: class {found.label} at {box},"
                        f" score {found.score:.2f}, is {kind}"
                    )
    return ""


def _in(found: Found, others: Sequence[Found]) -> bool:
    return any(
        other.label == found.label
        and abs(other.score - found.score) <= MAX_SCORE_OFF
        and iou(other.box, found.box) >= MIN_IOU
        for other in others
    )


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes xyxy; a box without area is like itself alone."""
    if list(one) == list(other):
        return 1.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


def whole(label: int, score: float) -> list[Found]:
    """A class of the whole picture or window, as a box that is always the same."""
    return [Found((0.0, 0.0, 1.0, 1.0), score, label)]
