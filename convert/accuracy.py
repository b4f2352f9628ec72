"""Accuracy of a task against the truth, by the measures that everybody uses."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.types import Array, Classification, Detections, Prediction


def measure(
    predictions: Sequence[Prediction], truths: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """classify: `accuracy`, the share of right classes. detect: `map50`, the mean average
    precision at IoU 0.5 of what is reported, that is, above the score threshold."""
    if isinstance(predictions[0], Classification):
        return {"accuracy": _accuracy(predictions, truths)}
    return {"map50": _map50(predictions, truths)}


def _accuracy(predictions: Sequence[Prediction], truths: Sequence[Mapping[str, Any]]) -> float:
    from sklearn.metrics import accuracy_score

    found = [p.index for p in predictions if isinstance(p, Classification)]
    return float(accuracy_score([int(truth["class"]) for truth in truths], found))


def _map50(predictions: Sequence[Prediction], truths: Sequence[Mapping[str, Any]]) -> float:
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
        if isinstance(p, Detections)
        for box in _coco_boxes(image, p.boxes, p.classes, p.scores)
    ]
    if not wanted or not found:
        return float(not wanted and not found)
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
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision >= 0].mean())


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
