"""Accuracy of a task against the truth, by the measures and libraries that everybody uses.

One function a task, on plain arrays; `measure` finds it by the type of the predictions.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge.types import (
    Anomaly,
    Array,
    Classification,
    Detections,
    Prediction,
    Regression,
    Segmentation,
)

TOP = 5
IN_UNITS = ("mae",)
"""Measures in the units of the data, which no bound for shares can judge."""
Truths = Sequence[Mapping[str, Any]]


def measure(predictions: Sequence[Prediction], truths: Truths) -> dict[str, float]:
    """The usual measures of the task by name; see the functions of the tasks. Empty for a task
    that has none."""
    for kind in type(predictions[0]).__mro__:
        if kind in MEASURES:
            return MEASURES[kind](predictions, truths)
    return {}


def of_classes(scores: Array, classes: Array) -> dict[str, float]:
    """Scores [S, C], true classes [S] -> `accuracy` (top-1), `f1` (macro: the mean over the
    classes that occur), and `top5` where there are more than five classes."""
    from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

    found = scores.argmax(axis=1)
    measured = {
        "accuracy": float(accuracy_score(classes, found)),
        "f1": float(f1_score(classes, found, average="macro", zero_division=0)),
    }
    every = scores.shape[1]
    if every > TOP:
        measured["top5"] = float(
            top_k_accuracy_score(classes, scores, k=TOP, labels=np.arange(every))
        )
    return measured


def of_boxes(predictions: Sequence[Detections], truths: Truths) -> dict[str, float]:
    """`map50` and `map50_95`: COCO's mean average precision at IoU 0.5, and over 0.5 to 0.95,
    of what is reported, that is, above the score threshold."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    wanted = [
        box
        for image, truth in enumerate(truths)
        for box in _coco_boxes(image, truth["boxes"], truth["classes"])
    ]
    found = [
        box
        for image, p in enumerate(predictions)
        for box in _coco_boxes(image, p.boxes, p.classes, p.scores)
    ]
    if not wanted or not found:
        nothing = float(not wanted and not found)
        return {"map50": nothing, "map50_95": nothing}
    with contextlib.redirect_stdout(io.StringIO()):  # the COCO tools talk
        truth_set = COCO()
        truth_set.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": kind} for kind in sorted({box["category_id"] for box in wanted})],
            # Ids start at 1: COCOeval takes the id of a match for true.
            "annotations": [{**box, "id": number} for number, box in enumerate(wanted, start=1)],
        }
        truth_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(found), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # [IoU, recall, class, area, detections]

    def mean(part: Array) -> float:
        return float(part[part >= 0].mean())

    return {"map50": mean(precision[0]), "map50_95": mean(precision)}


def of_maps(found: Sequence[Array], truths: Sequence[Array]) -> dict[str, float]:
    """Maps of classes, int [H, W] each -> `miou`: the mean IoU over the classes that occur."""
    from sklearn.metrics import jaccard_score

    # One entry for each pair of classes that occurs, weighted by its pixels: the same score
    # without an entry for each pixel.
    counts: dict[tuple[int, int], int] = {}
    for one, other in zip(truths, found, strict=True):
        pairs = np.stack([one.ravel(), other.ravel()])
        for pair, pixels in zip(*_unique(pairs), strict=True):
            counts[pair] = counts.get(pair, 0) + pixels
    score = jaccard_score(
        [true for true, _ in counts],
        [answer for _, answer in counts],
        average="macro",
        sample_weight=list(counts.values()),
        zero_division=0,
    )
    return {"miou": float(score)}


def of_values(found: Array, truths: Array) -> dict[str, float]:
    """Values [S] or [S, K] -> `mae`, the mean absolute error in units of the data, and `r2`, the
    share of the variance that is explained."""
    from sklearn.metrics import mean_absolute_error, r2_score

    measured = {"mae": float(mean_absolute_error(truths, found))}
    if len(truths) > 1:
        measured["r2"] = float(r2_score(truths, found))
    return measured


def _classifications(predictions: Sequence[Any], truths: Truths) -> dict[str, float]:
    return of_classes(
        np.stack([prediction.scores for prediction in predictions]),
        np.array([int(truth["class"]) for truth in truths]),
    )


def _segmentations(predictions: Sequence[Any], truths: Truths) -> dict[str, float]:
    return of_maps(
        [prediction.classes for prediction in predictions],
        [np.asarray(truth["map"]) for truth in truths],
    )


def _regressions(predictions: Sequence[Any], truths: Truths) -> dict[str, float]:
    return of_values(
        np.stack([prediction.values for prediction in predictions]),
        np.stack([np.asarray(truth["values"], np.float64).reshape(-1) for truth in truths]),
    )


def _anomalies(predictions: Sequence[Any], truths: Truths) -> dict[str, float]:
    """`accuracy` and `f1` of the verdicts, and `auroc` of the scores where both kinds occur."""
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    wanted = np.array([bool(truth["anomalous"]) for truth in truths])
    found = np.array([prediction.anomalous for prediction in predictions])
    measured = {
        "accuracy": float(accuracy_score(wanted, found)),
        "f1": float(f1_score(wanted, found, zero_division=0)),
    }
    if wanted.any() and not wanted.all():
        scores = [prediction.score for prediction in predictions]
        measured["auroc"] = float(roc_auc_score(wanted, scores))
    return measured


MEASURES: dict[type, Callable[[Sequence[Any], Truths], dict[str, float]]] = {
    Classification: _classifications,
    Detections: of_boxes,
    Segmentation: _segmentations,
    Regression: _regressions,
    Anomaly: _anomalies,
}


def _unique(pairs: Array) -> tuple[list[tuple[int, int]], list[int]]:
    """The distinct columns of int [2, N], and how often each occurs."""
    columns, counts = np.unique(pairs, axis=1, return_counts=True)
    return [(int(true), int(answer)) for true, answer in columns.T], counts.tolist()


def _coco_boxes(
    image: int, boxes: Array, classes: Array, scores: Array | None = None
) -> list[dict[str, Any]]:
    """Boxes xyxy [N, 4] as COCO writes them: x, y, width, height."""
    made = []
    for index, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64).reshape(-1, 4).tolist()):
        width, height = x2 - x1, y2 - y1
        box = {
            "image_id": image,
            "category_id": int(classes[index]),
            "bbox": [x1, y1, width, height],
            "area": width * height,
            "iscrowd": 0,
        }
        made.append(box if scores is None else {**box, "score": float(scores[index])})
    return made
