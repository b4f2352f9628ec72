"""What the payloads of events hold, and how a prediction becomes one. Plain structs, no arrays.

Invariant: numbers are finite and rounded, and whatever grows with the picture is bounded.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from edge.errors import FrameError
from edge.types import (
    UNSEEN,
    Anomaly,
    Array,
    Classification,
    Depth,
    Detections,
    Embedding,
    Instances,
    Keypoints,
    Oriented,
    Outcome,
    Regression,
    Segmentation,
)

MAX_SCORES = 20
"""Labels of a classification that travel, the best first: an event stays small."""
MAX_RUNS = 4000
"""Runs of a class map; a map with more is sent at half its size, and so on."""
MAX_MASK_SIDE = 64
MAX_MAP_SIDE = 16
MAX_VECTOR = 8192


class AttributeData(msgspec.Struct, frozen=True):
    """What a second model says of one detection."""

    label: str
    score: float


class DetectionsData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """boxes [N][4] xyxy in source pixels, with one score, class and label each.

    `ids` when they are tracked (0: no track yet); `attributes`, by name, when a second model has
    looked at the boxes.
    """

    boxes: list[list[float]]
    scores: list[float]
    classes: list[int]
    labels: list[str]
    ids: list[int] = []
    attributes: list[dict[str, AttributeData]] = []


class ClassificationData(msgspec.Struct, frozen=True, kw_only=True):
    """The winning label with its score, and the scores of the best labels, at most MAX_SCORES."""

    label: str
    score: float
    scores: dict[str, float]


class MaskData(msgspec.Struct, frozen=True, kw_only=True):
    """A mask over its box: columns and rows, and the lengths of its runs row by row, of cells
    outside of the object and inside of it by turns."""

    size: tuple[int, int]
    runs: list[int]


class InstancesData(DetectionsData, frozen=True, kw_only=True):
    """Detections with one mask each."""

    masks: list[MaskData]


class KeypointsData(DetectionsData, frozen=True, kw_only=True):
    """Detections with points [N][K] as x, y in source pixels and a score, by name."""

    points: list[list[tuple[float, float, float]]]
    point_names: list[str]


class OrientedData(DetectionsData, frozen=True, kw_only=True):
    """Detections with their four corners [N][4] as x, y in source pixels, in order around."""

    corners: list[list[tuple[float, float]]]


class SegmentationData(msgspec.Struct, frozen=True, kw_only=True):
    """The share of the picture that each label has, and the class map.

    The map has `size` columns and rows, which divide the picture evenly. `runs` are pairs of class
    and length, row by row; class -1 was not looked at. `labels` are those of the classes in it.
    """

    shares: dict[str, float]
    labels: dict[int, str]
    size: tuple[int, int]
    runs: list[tuple[int, int]]


class AnomalyData(msgspec.Struct, frozen=True, kw_only=True):
    """The score, whether it reaches the threshold, and a coarse map of rows: its largest values.

    A cell that was not looked at is null; there is no map when the model gives none.
    """

    score: float
    threshold: float
    anomalous: bool
    map: list[list[float | None]] = []


class DepthData(msgspec.Struct, frozen=True, kw_only=True):
    """The nearest and farthest as numbers, their median, and a coarse map of rows: means.

    `unit` is "m", or "relative" (the larger the nearer). A cell that was not looked at is null.
    """

    unit: str
    low: float
    median: float
    high: float
    map: list[list[float | None]]


class RegressionData(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers by name."""

    values: dict[str, float]


class EmbeddingData(msgspec.Struct, frozen=True, kw_only=True):
    """One vector, at most MAX_VECTOR long."""

    vector: list[float]


class ReadingData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A counter's reading; `reason` is there when it is not plausible."""

    value: str
    number: float
    confidence: float
    plausible: bool
    reason: str = ""


Content = (
    DetectionsData
    | InstancesData
    | KeypointsData
    | OrientedData
    | ClassificationData
    | SegmentationData
    | AnomalyData
    | DepthData
    | RegressionData
    | EmbeddingData
    | ReadingData
)


def payload_of(outcome: Outcome) -> Content:
    """The payload for a prediction or a reading. FrameError when a number in it is not finite."""
    if isinstance(outcome, Detections):
        return _detections_payload(outcome)
    if isinstance(outcome, Classification):
        best = np.argsort(-_finite(outcome.scores), kind="stable")[:MAX_SCORES].tolist()
        scores: dict[str, float] = {}
        for index in best:
            scores.setdefault(outcome.labels[index], round(float(outcome.scores[index]), 4))
        return ClassificationData(label=outcome.label, score=scores[outcome.label], scores=scores)
    if isinstance(outcome, Segmentation):
        return _segmentation_payload(outcome)
    if isinstance(outcome, Anomaly):
        _finite(np.array([outcome.score, outcome.threshold]))
        return AnomalyData(
            score=round(outcome.score, 4),
            threshold=round(outcome.threshold, 4),
            anomalous=outcome.anomalous,
            map=[] if outcome.map is None else _coarse(outcome.map, np.nanmax),
        )
    if isinstance(outcome, Depth):
        seen = _finite(outcome.map[~np.isnan(outcome.map)])
        if not seen.size:
            raise FrameError("the depth map shows nothing of the picture")
        low, median, high = (float(f"{value:.5g}") for value in np.percentile(seen, (0, 50, 100)))
        return DepthData(
            unit=outcome.unit, low=low, median=median, high=high,
            map=_coarse(outcome.map, np.nanmean),
        )  # fmt: skip
    if isinstance(outcome, Regression):
        values = [float(f"{value:.6g}") for value in _finite(outcome.values).tolist()]
        return RegressionData(values=dict(zip(outcome.names, values, strict=True)))
    if isinstance(outcome, Embedding):
        if outcome.vector.size > MAX_VECTOR:
            raise FrameError(f"an embedding of {outcome.vector.size} numbers; {MAX_VECTOR} travel")
        return EmbeddingData(vector=_finite(outcome.vector).astype(float).round(5).tolist())
    if not (math.isfinite(outcome.number) and math.isfinite(outcome.confidence)):
        raise FrameError(_NOT_FINITE)
    return ReadingData(
        value=outcome.value,
        number=outcome.number,
        confidence=round(outcome.confidence, 4),
        plausible=outcome.plausible,
        reason=outcome.reason,
    )


def _detections_payload(found: Detections) -> DetectionsData:
    plain: dict[str, Any] = {
        "boxes": _finite(found.boxes).astype(float).round(1).tolist(),
        "scores": _finite(found.scores).astype(float).round(4).tolist(),
        "classes": found.classes.tolist(),
        "labels": found.names,
        "ids": [] if found.ids is None else found.ids.tolist(),
        "attributes": _attributes(found),
    }
    if isinstance(found, Instances):
        return InstancesData(**plain, masks=[_mask_payload(mask) for mask in found.masks])
    if isinstance(found, Keypoints):
        points = _finite(found.points).astype(float).round(1)
        scores = _finite(found.point_scores).astype(float).round(3)[..., None]
        together = np.concatenate([points, scores], axis=2).tolist()
        return KeypointsData(
            **plain,
            points=[[(x, y, score) for x, y, score in one] for one in together],
            point_names=list(found.point_names),
        )
    if isinstance(found, Oriented):
        corners = _finite(found.corners).astype(float).round(1).tolist()
        return OrientedData(**plain, corners=[[(x, y) for x, y in one] for one in corners])
    return DetectionsData(**plain)


def _attributes(found: Detections) -> list[dict[str, AttributeData]]:
    """One dict a box, without the attributes that were not asked for."""
    if not found.attributes:
        return []
    for one in found.attributes:
        _finite(one.scores)
    return [
        {
            one.name: AttributeData(one.labels[index], round(float(one.scores[index]), 4))
            for one in found.attributes
            if one.labels[index]
        }
        for index in range(len(found))
    ]


def _mask_payload(mask: Array) -> MaskData:
    while max(mask.shape) > MAX_MASK_SIDE:
        mask = mask[::2, ::2]
    classes, lengths = _runs(mask.astype(np.int16))
    runs = [0, *lengths] if classes and classes[0] else lengths
    return MaskData(size=(mask.shape[1], mask.shape[0]), runs=runs)


def _segmentation_payload(found: Segmentation) -> SegmentationData:
    cells = found.classes
    classes, lengths = _runs(cells)
    while len(classes) > MAX_RUNS and min(cells.shape) > 1:
        cells = cells[::2, ::2]
        classes, lengths = _runs(cells)
    shares: dict[str, float] = {}
    for label, share in found.shares.items():
        shares[label] = round(share, 4)
    return SegmentationData(
        shares=shares,
        labels={index: found.labels[index] for index in sorted({*classes} - {UNSEEN})},
        size=(cells.shape[1], cells.shape[0]),
        runs=list(zip(classes, lengths, strict=True)),
    )


def _runs(cells: Array) -> tuple[list[int], list[int]]:
    """Runs of equal values, row by row: the values, and how long each run is."""
    flat = cells.ravel()
    if not flat.size:
        return [], []
    starts = np.concatenate([[0], np.nonzero(np.diff(flat))[0] + 1])
    return flat[starts].tolist(), np.diff(np.append(starts, flat.size)).tolist()


def _coarse(values: Array, pool: Any) -> list[list[float | None]]:
    """A map at no more than MAX_MAP_SIDE a side: `pool` of the cells that fall together."""
    rows, columns = (
        np.array_split(np.arange(side), min(side, MAX_MAP_SIDE)) for side in values.shape
    )
    coarse: list[list[float | None]] = []
    for row in rows:
        line: list[float | None] = []
        for column in columns:
            block = values[row[0] : row[-1] + 1, column[0] : column[-1] + 1]
            seen = not np.isnan(block).all()
            line.append(float(f"{_finite(np.asarray(pool(block))):.4g}") if seen else None)
        coarse.append(line)
    return coarse


_NOT_FINITE = "the prediction holds numbers that are not finite"


def _finite(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise FrameError(_NOT_FINITE)
    return values
