"""Readings of detectors whose boxes and scores come in outputs of their own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from edge.hints import Hints
from edge.recognize import families
from edge.recognize.facts import Facts
from edge.recognize.reading import (
    MAX_FINISHED,
    SAID,
    SHOWN,
    Reading,
    sums_to_one,
    unit,
    whole,
)
from edge.types import Array, TensorSpec

_POST = "TFLite_Detection_PostProcess"


def listed(facts: Facts, hints: Hints) -> list[Reading]:
    """Boxes, scores, classes and perhaps their count, in outputs of their own."""
    answers = facts.answers
    operator = _POST in facts.graph.types
    boxes = [s for s in answers if len(s.shape) in (2, 3) and s.shape[-1] == 4]
    if len(answers) not in (3, 4) or len(boxes) != 1:
        return []
    rows = boxes[0].shape[-2]
    flat = [
        s for s in answers
        if s is not boxes[0] and s.shape in ((1, rows), (rows,), (1, rows, 1)) and s.shape != (1,)
    ]  # fmt: skip
    count = [s for s in answers if s is not boxes[0] and s not in flat]
    if (
        len(flat) != 2
        or len(count) != len(answers) - 3
        or any(int(np.prod(s.shape)) != 1 for s in count)
    ):
        return []
    scores, classes = _which_is_score(facts, flat[0], flat[1])
    values = facts.values(boxes[0].name)
    normalised = max((float(v.max(initial=0)) for v in values), default=0) < 4
    yxyx = operator or facts.format == "tflite"
    total = _listed_classes(facts) if operator else None
    params = {
        "boxes": boxes[0].name, "scores": scores.name, "classes": classes.name,
        "form": "yxyx" if yxyx else "xyxy", "normalised": normalised,
    }  # fmt: skip
    if count:
        params["count"] = count[0].name
    return [
        Reading(
            task="detect", decoder="listed", params=params, classes=total,
            strength=SAID if operator else SHOWN,
            labels=families.usual_labels(total or 0),
            family="ssd" if yxyx else "",
            why="the graph ends in TFLite_Detection_PostProcess" if operator
            else f"outputs are {rows} boxes with a score and a class each",
        )
    ]  # fmt: skip


def _which_is_score(facts: Facts, a: TensorSpec, b: TensorSpec) -> tuple[TensorSpec, TensorSpec]:
    """Two outputs of one shape as scores and classes."""
    for operator in facts.graph.operators:
        if operator.type == _POST and {a.name, b.name} <= set(operator.outputs):
            # boxes, classes, scores, count
            return (b, a) if operator.outputs.index(a.name) == 1 else (a, b)
    for first, second in ((a, b), (b, a)):
        named = second.name.lower()
        if "score" in first.name.lower() or "class" in named or "label" in named:
            return first, second
    kinds = np.dtype(a.dtype).kind, np.dtype(b.dtype).kind
    if kinds[0] != kinds[1]:
        return (a, b) if kinds[0] == "f" else (b, a)
    return (b, a) if whole(facts.values(a.name)) else (a, b)


def _listed_classes(facts: Facts) -> int | None:
    """The classes that TFLite_Detection_PostProcess chooses from: its second input, less one."""
    for operator in facts.graph.operators:
        if operator.type == _POST and len(operator.inputs) > 1:
            shape = facts.graph.shapes.get(operator.inputs[1], ())
            return shape[-1] - 1 if len(shape) == 3 and shape[-1] > 1 else None
    return None


def pairs(facts: Facts, hints: Hints) -> list[Reading]:
    """Boxes in one output, class values in another: [1, N, 4] and [1, N, C], or transposed."""
    answers = [s for s in facts.answers if len(s.shape) in (2, 3)]
    if len(answers) != 2 or len(facts.answers) != 2:
        return []
    found: list[Reading] = []
    for boxes, scores in (answers, answers[::-1]):
        if len(boxes.shape) != 3 or len(scores.shape) != 3 or boxes.shape[0] != 1:
            continue
        for axis in (1, 2):
            rows, width, classes = boxes.shape[axis], boxes.shape[3 - axis], scores.shape[3 - axis]
            if scores.shape[axis] != rows or rows < 2:
                continue
            if axis == 1 and width >= 6 and width % 2 == 0 and classes == 1:
                found += _anchored_points(facts, boxes, scores)
            named = "box" in boxes.name.lower() or "box" not in scores.name.lower()
            if width == 4 and (classes != 4 or named):
                found += _box_pair(facts, hints, boxes, scores, axis)
    return found


def _anchored_points(facts: Facts, boxes: TensorSpec, scores: TensorSpec) -> list[Reading]:
    rows, points = boxes.shape[1], (boxes.shape[2] - 4) // 2
    anchors = families.published_anchors(facts.size, rows, points)
    if anchors is None:
        return []
    face = points == len(families.FACE)
    names = families.FACE if face else families.point_names(points)
    params = {
        "boxes": boxes.name, "scores": scores.name, "anchors": anchors, "coding": "linear",
        "variances": [1, 1, 1, 1], "points": list(names), "background": "none", "nms_iou": 0.3,
        "activation": "none" if unit(facts.values(scores.name)) else "sigmoid",
    }  # fmt: skip
    return [
        Reading(
            task="keypoints", decoder="ssd_anchors", params=params, classes=1, strength=SHOWN,
            labels=("face",) if face else (), family="mediapipe",
            why=f"{rows} rows are MediaPipe's anchors over this input, each with {points} points",
        )
    ]  # fmt: skip


def _box_pair(
    facts: Facts, hints: Hints, boxes: TensorSpec, scores: TensorSpec, axis: int
) -> list[Reading]:
    places = [np.moveaxis(v, axis, 1)[0] for v in facts.values(boxes.name)]
    values = [np.moveaxis(v, axis, 1)[0] for v in facts.values(scores.name)]
    rows, columns = values[0].shape
    chances, in_unit = columns > 1 and sums_to_one(values), unit(values)
    background: Literal["none", "first", "last"] = "none"
    if chances or (not in_unit and columns > 1):
        background = _background(values)
    classes = columns - (background != "none")
    labels = families.usual_labels(classes)
    form = _box_form(places)
    top = max(float(p.max(initial=0)) for p in places)
    params: dict[str, Any] = {"boxes": boxes.name, "scores": scores.name}
    activation = "none" if in_unit else ("softmax" if background != "none" else "sigmoid")
    anchors = families.published_anchors(facts.size, rows, 0) if axis == 1 else None
    if anchors and columns == 2:
        labels = ("face",)
        if form == "":
            params |= {"anchors": anchors, "background": "first", "activation": activation,
                       "nms_iou": 0.3}  # fmt: skip
            return [
                Reading(
                    task="detect", decoder="ssd_anchors", params=params, classes=1, labels=labels,
                    strength=SHOWN, family="ultraface", score=0.7,
                    why=f"{rows} rows are UltraFace's anchors over this input, boxes not decoded",
                )
            ]  # fmt: skip
    if axis == 1 and rows <= MAX_FINISHED and form == "cxcywh" and not in_unit:
        return _queries(hints, values, params)
    if form == "":
        return []
    if form == "cxcywh" and axis == 1 and rows <= MAX_FINISHED:
        return [
            families.coco("detr", columns, {"logits": scores.name, "boxes": boxes.name,
                                    "activation": "none"}, SHOWN,
                  f"{rows} queries with boxes in 0..1", family="rtdetr")
        ]  # fmt: skip
    params |= {
        "form": form, "normalised": top < 4, "channels": "last" if axis == 1 else "first",
        "activation": activation, "background": background,
    }  # fmt: skip
    if anchors:
        params["nms_iou"] = 0.3
    return [
        Reading(
            task="detect", decoder="boxes_scores", params=params, classes=classes, labels=labels,
            strength=SHOWN, family="ultraface" if anchors and columns == 2 else "",
            score=0.7 if anchors else 0.5,
            why=f"{rows} boxes as {form} in one output, {columns} class values in the other",
        )
    ]  # fmt: skip


def _box_form(places: list[Array]) -> Literal["", "xyxy", "cxcywh"]:
    """Corners when the second is never left of the first; centres when sizes are never below 0."""
    if not all(np.isfinite(p).all() for p in places):
        return ""
    if all(float((p[:, 2:] >= p[:, :2] - 1e-4).mean()) > 0.99 for p in places):
        return "xyxy"
    if all(bool((p[:, 2:] >= -1e-4).all() and (p[:, :2] > -2).all()) for p in places):
        return "cxcywh"
    return ""


def _background(values: list[Array]) -> Literal["none", "first", "last"]:
    """On a picture of nothing, most candidates are background: which column wins?"""
    best = np.concatenate([v.argmax(axis=1) for v in values])
    columns = values[0].shape[1]
    if float((best == 0).mean()) > 0.8:
        return "first"
    return "last" if float((best == columns - 1).mean()) > 0.8 else "none"


def _queries(hints: Hints, values: list[Array], params: dict[str, Any]) -> list[Reading]:
    """Logits and boxes of queries: with a class for no object (DETR) or without (RT-DETR)."""
    rows, columns = values[0].shape
    params = {"logits": params["scores"], "boxes": params["boxes"]}
    why = f"{rows} queries: boxes in 0..1, and {columns} logits"
    with_sigmoid = families.coco(
        "detr", columns, {**params, "activation": "sigmoid"}, SHOWN, why, family="rtdetr"
    )
    with_softmax = families.coco(
        "detr", columns - 1, {**params, "activation": "softmax"}, SHOWN, why, family="detr",
        score=0.7,
    )  # fmt: skip
    told = {columns: with_sigmoid, columns - 1: with_softmax}
    if len(hints.labels) in told:
        return [told[len(hints.labels)]]
    last = float(np.mean([float((v.argmax(axis=1) == columns - 1).mean()) for v in values]))
    if columns in (80, 92) or last > 0.8 or (last < 0.2 and columns > 2):
        return [with_softmax if columns == 92 or (last > 0.8 and columns != 80) else with_sigmoid]
    return [with_sigmoid, with_softmax] if columns > 1 else [with_sigmoid]


def split_grids(facts: Facts, hints: Hints) -> list[Reading]:
    """A pair of outputs a grid, [1, n, C] and [1, n, 32] (PicoDet); or one such pair for all."""
    answers = [s for s in facts.answers if len(s.shape) == 3 and s.shape[0] == 1]
    if len(answers) != len(facts.answers) or len(answers) % 2 or not answers:
        return []
    by_rows: dict[int, list[TensorSpec]] = {}
    for spec in answers:
        by_rows.setdefault(spec.shape[1], []).append(spec)
    if any(len(pair) != 2 for pair in by_rows.values()):
        return []
    pairs = [by_rows[rows] for rows in sorted(by_rows, reverse=True)]
    strides = next(
        (
            grid
            for grid in families.GRIDS
            if [families.cell_count(facts.size, (s,)) for s in grid]
            == [p[0].shape[1] for p in pairs]
            or (len(pairs) == 1 and families.cell_count(facts.size, grid) == pairs[0][0].shape[1])
        ),
        None,
    )
    if strides is None:
        return []
    scores, boxes = [], []
    for pair in pairs:
        wide = [spec for spec in pair if spec.shape[2] == 32 and not unit(facts.values(spec.name))]
        if len(wide) != 1:
            return []
        boxes.append(wide[0])
        scores.append(pair[1 - pair.index(wide[0])])
    classes = scores[0].shape[2]
    in_unit = all(unit(facts.values(spec.name)) for spec in scores)
    params = {
        "scores": [spec.name for spec in scores], "boxes": [spec.name for spec in boxes],
        "strides": list(strides), "activation": "none" if in_unit else "sigmoid",
    }  # fmt: skip
    return [
        families.coco("distribution", classes, params, SHOWN,
              f"outputs are scores and distributions, strides {families.listing(strides)}",
              family="picodet", score=0.4)
    ]  # fmt: skip
