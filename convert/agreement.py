"""Agreement: how far two models give the same answers, with or without labels.

One function a task, found by the type of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convert.errors import ConversionError
from edge.golden import box_iou
from edge.types import Classification, Detections, Prediction

MATCH_IOU = 0.5
"""Boxes that overlap less are not the same object."""


def agreement(reference: Sequence[Prediction], found: Sequence[Prediction]) -> dict[str, float]:
    """Shares in 0..1 by name, 1 being the same answers; `extra` alone is 0 for the same answers.

    classify: `class`. detect: `recall`, `mean_iou` and `extra`. See the functions below.
    """
    kind = type(reference[0])
    measure = MEASURES.get(kind)
    if measure is None:
        raise ConversionError(f"no agreement is known for {kind.__name__}")
    return {name: round(value, 6) for name, value in measure(reference, found).items()}


def closeness(reference: Prediction, found: Prediction) -> float:
    """One sample's agreement as one number: 1 for the same answer, less for a worse one."""
    measured = agreement([reference], [found])
    extra = measured.pop("extra", 0.0)
    return min(measured.values()) - extra


def of_classes(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`class`: the share of samples with the same class."""
    same = [a.index == b.index for a, b in zip(reference, found, strict=True)]
    return {"class": sum(same) / len(same)}


def of_boxes(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`recall`: the share of the reference's boxes that are found, in the same class with an IoU
    of at least MATCH_IOU; `mean_iou` of those; `extra`: the boxes without a counterpart, per box
    of the reference."""
    overlaps: list[float] = []
    wanted = given = 0
    for first, second in zip(reference, found, strict=True):
        overlaps += matches(first, second)
        wanted += len(first)
        given += len(second)
    return {
        "recall": len(overlaps) / wanted if wanted else 1.0,
        "mean_iou": float(np.mean(overlaps)) if overlaps else float(not wanted),
        "extra": (given - len(overlaps)) / max(wanted, 1),
    }


def matches(reference: Detections, found: Detections) -> list[float]:
    """The IoU of each pair of boxes of one class, matched greedily from the best overlap down."""
    overlaps = box_iou(reference.boxes, found.boxes)
    overlaps[reference.classes[:, None] != found.classes[None, :]] = 0.0
    matched: list[float] = []
    while overlaps.size and overlaps.max() >= MATCH_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        matched.append(float(overlaps[row, column]))
        overlaps[row, :] = overlaps[:, column] = 0.0
    return matched


MEASURES: dict[type, Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]] = {
    Classification: of_classes,
    Detections: of_boxes,
}
