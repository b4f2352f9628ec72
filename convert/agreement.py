"""Agreement: how far two models give the same answers, with or without labels.

One function a task, found by the type of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convert import accuracy
from edge.golden import box_iou
from edge.types import (
    Anomaly,
    Array,
    Classification,
    Depth,
    Detections,
    Embedding,
    Prediction,
    Regression,
    Segmentation,
)

MATCH_IOU = 0.5
"""Boxes that overlap less are not the same object."""


def agreement(reference: Sequence[Prediction], found: Sequence[Prediction]) -> dict[str, float]:
    """Shares in 0..1 by name, 1 being the same answers; `extra` alone is 0 for the same answers.

    classify: `class`. Whatever finds objects: `recall`, `mean_iou` and `extra` of its boxes. See
    the functions below.
    """
    measure = next(MEASURES[kind] for kind in type(reference[0]).__mro__ if kind in MEASURES)
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


def of_maps(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`pixels`: the share of cells with the same class; `mean_iou` over the reference's classes.

    A map of another size is brought to the reference's.
    """
    maps = [
        (first.classes, _like(first.classes, second.classes))
        for first, second in zip(reference, found, strict=True)
    ]
    same = sum(int((first == second).sum()) for first, second in maps)
    overlaps = accuracy.of_maps([second for _, second in maps], [first for first, _ in maps])
    return {
        "pixels": same / max(sum(first.size for first, _ in maps), 1),
        "mean_iou": overlaps["miou"],
    }


def of_verdicts(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`anomalous`: the share of samples with the same verdict."""
    same = [a.anomalous == b.anomalous for a, b in zip(reference, found, strict=True)]
    return {"anomalous": sum(same) / len(same)}


def of_values(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`values`: 1 less the mean difference, relative to the range of the reference's values."""
    return {"values": _nearness([one.values for one in reference], [one.values for one in found])}


def of_depths(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`map`: 1 less the mean difference, relative to the range of the reference's maps."""
    wanted = [one.map for one in reference]
    given = [_like(one, other.map) for one, other in zip(wanted, found, strict=True)]
    return {"map": _nearness(wanted, given)}


def of_vectors(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """`cosine`: the mean cosine of the two vectors of a sample."""
    cosines = [
        float(a.vector @ b.vector)
        / max(float(np.linalg.norm(a.vector) * np.linalg.norm(b.vector)), 1e-12)
        for a, b in zip(reference, found, strict=True)
    ]
    return {"cosine": float(np.mean(cosines))}


def _nearness(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    expected = np.concatenate([np.ravel(one) for one in wanted])
    actual = np.concatenate([np.ravel(one) for one in found])
    known = np.isfinite(expected)
    spread = float(expected[known].max() - expected[known].min()) if known.any() else 0.0
    return 1 - float(np.abs(actual - expected)[known].mean()) / (spread or 1.0)


def _like(wanted: Array, found: Array) -> Array:
    """A map at another one's size; each cell takes the value that lies there."""
    rows = (np.arange(wanted.shape[0]) + 0.5) * found.shape[0] / wanted.shape[0]
    columns = (np.arange(wanted.shape[1]) + 0.5) * found.shape[1] / wanted.shape[1]
    return found[np.ix_(rows.astype(int), columns.astype(int))]


MEASURES: dict[type, Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]] = {
    Classification: of_classes,
    Detections: of_boxes,
    Segmentation: of_maps,
    Anomaly: of_verdicts,
    Regression: of_values,
    Depth: of_depths,
    Embedding: of_vectors,
}
