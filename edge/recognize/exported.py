"""Readings of models that say what they are: what Ultralytics' exporter notes in the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.hints import Hints
from edge.recognize import families
from edge.recognize.facts import Facts
from edge.recognize.graph import literal
from edge.recognize.reading import (
    MAX_FINISHED,
    SAID,
    Reading,
    sums_to_one,
    whole,
)
from edge.types import TensorSpec


def ultralytics(facts: Facts, hints: Hints) -> list[Reading]:
    """Models that Ultralytics exported say what they are."""
    noted = facts.graph.metadata
    task, names = noted.get("task"), literal(noted.get("names", ""))
    if task is None or not isinstance(names, dict | list) or not names:
        return []
    labels = tuple(map(str, names.values() if isinstance(names, dict) else names))
    classes = len(labels)
    base: dict[str, Any] = {
        "classes": classes, "labels": labels, "family": "yolo", "strength": SAID, "score": 0.25,
        "why": f"the file's metadata says task {task!r} with {classes} names",
    }  # fmt: skip
    tables = [spec for spec in facts.answers if len(spec.shape) in (2, 3)]
    if task == "classify":
        return [_ultralytics_classify(facts, base)]
    if not tables:
        return []
    spec = tables[0]
    last = spec.shape[-1]
    chosen = str(noted.get("end2end", "")).lower() == "true" or (
        0 < spec.shape[-2] <= MAX_FINISHED
        and spec.shape[-1] < spec.shape[-2]
        and last >= 6
        and whole([v[..., 5] for v in facts.values(spec.name)])
    )
    extra = {"detect": 0, "obb": 1}.get(task)
    params: dict[str, Any] = {"output": spec.name, "normalised": _normalised(facts, spec)}
    if task == "detect" and chosen:
        return [Reading(task="detect", decoder="end_to_end", params=params, **base)]
    if chosen:
        params["end_to_end"] = True
    else:
        head = 4 + classes + (extra or 0)
        first = spec.shape[1] == head or (extra is None and spec.shape[1] < spec.shape[2])
        params |= {"channels": "first" if first else "last", "nms_iou": 0.7}
    columns = last if chosen or params.get("channels") == "last" else spec.shape[1]
    if task == "detect" and columns == classes + 5:
        del params["nms_iou"]
        return [Reading(task="detect", decoder="yolov5", params=params, **base)]
    if task == "detect":
        return [Reading(task="detect", decoder="yolov8", params=params, **base)]
    if task == "obb":
        return [Reading(task="oriented", decoder="yolo_oriented", params=params, **base)]
    if task == "segment":
        others = [other for other in facts.answers if len(other.shape) == 4]
        if not others:
            return []
        params["prototypes"] = others[0].name
        return [Reading(task="instance", decoder="yolo_segment", params=params, **base)]
    if task == "pose":
        shape = literal(noted.get("kpt_shape", ""))
        each = shape[1] if isinstance(shape, list | tuple) and len(shape) == 2 else 3
        each = each if each in (2, 3) else 3
        count = (columns - (6 if chosen else 4 + classes)) // each
        points = hints.points or families.point_names(count)
        params |= {"points": list(points), "scored": each == 3}
        return [Reading(task="keypoints", decoder="yolo_pose", params=params, **base)]
    return []


def _ultralytics_classify(facts: Facts, base: dict[str, Any]) -> Reading:
    spec = facts.answers[0]
    done = sums_to_one(facts.values(spec.name))
    return Reading(
        task="classify",
        decoder="scores" if done else "softmax",
        params={"output": spec.name},
        **base,
    )


def _normalised(facts: Facts, spec: TensorSpec) -> bool:
    """Whether boxes lie in 0..1 rather than in pixels: no coordinate is far above 1."""
    values = facts.values(spec.name)
    axis = 1 if spec.shape[-1] > spec.shape[-2] else -1  # of the columns
    tops = [
        float(np.take(v.reshape(1, *v.shape[-2:]), range(4), axis=axis).max(initial=0))
        for v in values
    ]
    return 0 < max(tops) < 4
