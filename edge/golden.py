"""Golden cases: known inputs with the answers that are expected of a variant on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.engines.faults import range_error as range_error
from edge.engines.faults import read_array as read_array
from edge.errors import BundleError
from edge.manifest import GoldenCase
from edge.model import Model
from edge.types import (
    Anomaly,
    Array,
    Classification,
    Depth,
    Detections,
    Embedding,
    Keypoints,
    Oriented,
    Prediction,
    Regression,
    Segmentation,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """How one case went: what was measured against which bound."""

    case: str
    kind: str
    passed: bool
    measured: dict[str, float]


def check(model: Model) -> list[GoldenResult]:
    """Run every golden case that applies to the model's variant, on the engine in use.

    Cases of kind `reference` and `raw` belong to all variants unless they name one.
    """
    results = []
    for case in model.manifest.golden:
        if case.variant not in ("", model.variant.name):
            continue
        try:
            model.state.reset()
            results.append(_check_case(model, case))
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError(
                f"{model.bundle.path}: golden case {case.name} does not fit the model:"
                f" {type(error).__name__}: {error}"
            ) from error
        finally:
            model.state.reset()
    return results


def expected_of(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a golden case holds it: boxes and scores of detections (with the points or
    corners of those that have them), the share of each label of a segmentation, the numbers of
    everything else (of a depth map: nearest, median and farthest)."""
    if isinstance(prediction, Detections):
        plain = {
            "boxes": prediction.boxes.astype(float).round(2).tolist(),
            "scores": prediction.scores.astype(float).round(4).tolist(),
            "classes": prediction.classes.tolist(),
        }
        return {**plain, **{name: value.tolist() for name, value in _places(prediction).items()}}
    if isinstance(prediction, Classification):
        return {"scores": prediction.scores.astype(float).round(4).tolist()}
    if isinstance(prediction, Segmentation):
        return {"shares": prediction.shares}
    return {"values": _numbers(prediction).astype(float).tolist()}


def _numbers(prediction: Anomaly | Depth | Regression | Embedding) -> Array:
    match prediction:
        case Anomaly():
            return np.array([prediction.score])
        case Depth():
            return np.asarray(np.nanpercentile(prediction.map, (0, 50, 100)))
        case Regression():
            return prediction.values
        case Embedding():
            return prediction.vector


def _places(found: Detections) -> dict[str, Array]:
    """What detections say beyond their boxes, in source pixels."""
    if isinstance(found, Keypoints):
        return {"points": found.points}
    return {"corners": found.corners} if isinstance(found, Oriented) else {}


def compare(prediction: Prediction, expected: dict[str, Any]) -> dict[str, float]:
    """How far a prediction is from the expected one.

    Detections are matched greedily by IoU within a class: the number of `missed` and `extra`
    boxes, the smallest `iou` and the largest `score` difference of the matches, and of points and
    corners the largest `distance` in source pixels. Classifications: the largest `score`
    difference. Segmentations: the largest difference of a label's `share`. Everything else: the
    largest `error`, relative to the largest expected number.
    """
    if isinstance(prediction, Classification):
        scores = np.asarray(expected["scores"])
        if scores.shape != prediction.scores.shape:
            raise ValueError(f"{scores.size} scores for {prediction.scores.size} labels")
        return {"score": float(np.abs(prediction.scores - scores).max())}
    if isinstance(prediction, Segmentation):
        shares = prediction.shares
        names = {*shares, *expected["shares"]}
        differences = [abs(shares.get(n, 0) - expected["shares"].get(n, 0)) for n in names]
        return {"share": max(differences, default=0.0)}
    if not isinstance(prediction, Detections):
        values = np.asarray(expected["values"], np.float64)
        numbers = _numbers(prediction)
        if values.shape != numbers.shape:
            raise ValueError(f"{values.size} numbers for {numbers.size}")
        return {"error": float(np.abs(numbers - values).max() / max(np.abs(values).max(), 1e-9))}
    return _compare_detections(prediction, expected)


def _compare_detections(prediction: Detections, expected: dict[str, Any]) -> dict[str, float]:
    wanted = Detections(
        np.asarray(expected["boxes"], np.float32).reshape(-1, 4),
        np.asarray(expected["scores"], np.float32),
        np.asarray(expected["classes"], np.int64),
        prediction.labels,
    )
    overlaps = box_iou(wanted.boxes, prediction.boxes)
    overlaps[wanted.classes[:, None] != prediction.classes[None, :]] = 0.0
    smallest, difference, matched = 1.0, 0.0, 0
    places = _places(prediction)
    distance = 0.0
    while overlaps.size and overlaps.max() > 0:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        smallest = min(smallest, float(overlaps[row, column]))
        difference = max(
            difference, abs(float(wanted.scores[row]) - float(prediction.scores[column]))
        )
        for name, value in places.items():
            apart = value[column] - np.asarray(expected[name])[row]
            distance = max(distance, float(np.hypot(apart[:, 0], apart[:, 1]).max(initial=0)))
        overlaps[row, :] = overlaps[:, column] = 0.0
        matched += 1
    return {
        **({"distance": distance} if places else {}),
        "iou": smallest,
        "score": difference,
        "missed": float(len(wanted) - matched),
        "extra": float(len(prediction) - matched),
    }


def box_iou(first: Array, second: Array) -> Array:
    """Intersection over union of boxes xyxy [N, 4] and [M, 4] -> [N, M]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - overlap
    iou: Array = overlap / np.maximum(union, 1e-9)
    return iou


def _check_case(model: Model, case: GoldenCase) -> GoldenResult:
    source = read_array(model.bundle, case.input)
    if case.kind == "raw":
        measured = compare(model.predict(source), case.expected)
        passed = all(
            value >= case.tolerance["iou"]
            if name == "iou"
            else value <= case.tolerance.get(name, 0)
            for name, value in measured.items()
        )
    else:
        raw = model.infer(source)
        measured = {
            name: range_error(raw[name], read_array(model.bundle, path))
            for name, path in case.outputs.items()
        }
        passed = all(error <= case.tolerance["error"] for error in measured.values())
    return GoldenResult(case=case.name, kind=case.kind, passed=passed, measured=measured)
