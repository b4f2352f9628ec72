"""Readings of models that give boxes. Each function looks for one form of output.

Raw heads are known by their number of candidates, which the grids over the input make; finished
lists by their columns; the parts of a row by the ranges of their values.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from edge.recognize import families
from edge.recognize.facts import Facts
from edge.recognize.graph import literal
from edge.recognize.hints import Hints
from edge.recognize.reading import POSSIBLE, SAID, SHOWN, Reading, sums_to_one, unit, whole
from edge.types import Array, TensorSpec

_MAX_FINISHED = 1000
"""A list that the graph has chosen is not longer than this; a raw head nearly always is."""


def readings(facts: Facts, hints: Hints) -> list[Reading]:
    """All readings as a detector; none for a model that takes no picture."""
    if not facts.picture:
        return []
    found: list[Reading] = []
    for look in (_ultralytics, _listed, _table, _pairs, _split_grids, _fastestdet):
        found += look(facts, hints)
    return found


def _ultralytics(facts: Facts, hints: Hints) -> list[Reading]:
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
        0 < spec.shape[-2] <= _MAX_FINISHED
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


def _listed(facts: Facts, hints: Hints) -> list[Reading]:
    """Boxes, scores, classes and perhaps their count, in outputs of their own."""
    answers = facts.answers
    operator = "TFLite_Detection_PostProcess" in facts.graph.types
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
    for first, second in ((a, b), (b, a)):
        if (
            "score" in first.name.lower()
            or "class" in second.name.lower()
            or ("label" in second.name.lower())
        ):
            return first, second
    if a.dtype != b.dtype and np.dtype(b.dtype).kind != np.dtype(a.dtype).kind:
        return (a, b) if np.dtype(a.dtype).kind == "f" else (b, a)
    if facts.graph.outputs and a.name.endswith(":1") and b.name.endswith(":2"):
        return b, a  # boxes, classes, scores, count: the order of the operator
    return (b, a) if whole(facts.values(a.name)) else (a, b)


def _listed_classes(facts: Facts) -> int | None:
    """The classes that TFLite_Detection_PostProcess chooses from: its second input, less one."""
    for operator in facts.graph.operators:
        if operator.type == "TFLite_Detection_PostProcess" and len(operator.inputs) > 1:
            shape = facts.graph.shapes.get(operator.inputs[1], ())
            return shape[-1] - 1 if len(shape) == 3 and shape[-1] > 1 else None
    return None


def _table(facts: Facts, hints: Hints) -> list[Reading]:
    """One output, a row a candidate: [1, N, columns], [1, columns, N] or [n, columns]."""
    tables = [s for s in facts.answers if len(s.shape) in (2, 3)]
    others = [s for s in facts.answers if s not in tables]
    if len(tables) != 1 or len(others) > 1 or any(len(s.shape) != 4 for s in others):
        return []  # what is beside it would be left unread
    found: list[Reading] = []
    for spec in tables:
        found += _finished(facts, spec)
        if len(spec.shape) == 3 and spec.shape[0] == 1:
            for axis in (1, 2):
                found += _raw_table(facts, hints, spec, axis)
    return found


def _finished(facts: Facts, spec: TensorSpec) -> list[Reading]:
    if spec.shape[-1] not in (6, 7) or len(facts.answers) > 2:
        return []
    if len(spec.shape) == 2 and spec.shape[0] == 1 and spec.shape[1] in (6, 7):
        return []  # a vector
    values = [v.reshape(-1, spec.shape[-1]) for v in facts.values(spec.name)]
    rows = max(len(v) for v in values)
    if rows > _MAX_FINISHED:
        return []
    batch = spec.shape[-1] == 7
    classes = [v[:, 5] for v in values]
    scores = [v[:, 6 if batch else 4] for v in values]
    if not whole(classes) or not unit(scores) or (batch and any(v[:, 0].any() for v in values)):
        return []
    boxes = [v[:, 1:5] if batch else v[:, :4] for v in values]
    ordered = all(bool((b[:, 2:] >= b[:, :2] - 1e-3).all()) for b in boxes)
    if not ordered:
        return []
    top = max((float(b.max(initial=0)) for b in boxes), default=0)
    params = {"output": spec.name, "normalised": 0 < top < 4, "batch_first": batch}
    return [
        Reading(
            task="detect", decoder="end_to_end", params=params, family="yolo", score=0.25,
            strength=SHOWN if rows else POSSIBLE,
            why=f"rows of {spec.shape[-1]}: corners, a score in 0..1 and a whole number as class",
        )
    ]  # fmt: skip


def _raw_table(facts: Facts, hints: Hints, spec: TensorSpec, axis: int) -> list[Reading]:
    """`axis` is that of the candidates."""
    rows, columns = spec.shape[axis], spec.shape[3 - axis]
    if rows < columns or columns < 5:
        return []
    channels: Literal["first", "last"] = "last" if axis == 1 else "first"
    values = [np.moveaxis(v, axis, 1)[0] for v in facts.values(spec.name)]
    sizes_positive = all(bool((v[:, 2:4] >= 0).all()) for v in values)
    top = max(float(v[:, :4].max(initial=0)) for v in values)
    params: dict[str, Any] = {
        "output": spec.name, "channels": channels, "normalised": 0 < top < 4,
    }  # fmt: skip
    grid = families.grids_of(facts.size, rows)
    anchored = families.grids_of(facts.size, rows, anchors=3)
    one = f"{rows} candidates are the cells of grids of stride {_list(grid)}"
    three = f"{rows} candidates are three anchors in each cell of grids of stride {_list(anchored)}"
    # One grid alone is a weak sign: many numbers are some grid's.
    strength = SHOWN if grid and len(grid) > 1 else POSSIBLE
    found: list[Reading] = []
    rest_unit = unit([v[:, 5:] for v in values]) and unit([v[:, 4] for v in values])
    base: dict[str, Any] = {"family": "yolo", "score": 0.25}
    if anchored and rest_unit and sizes_positive:
        found.append(_coco("yolov5", columns - 5, params, SHOWN, three, **base))
    if grid and rest_unit and not sizes_positive:
        raw = {"output": spec.name, "channels": channels, "strides": list(grid)}
        why = f"{one}, and sizes below 0 are not decoded yet"
        found.append(_coco("yolox", columns - 5, raw, SHOWN, why, family="yolox", score=0.3))
    if grid and sizes_positive and rest_unit:
        found += _decoded_grid(hints, columns, params, one, strength)
    if grid and sizes_positive and not rest_unit:
        found += _extra_columns(facts, hints, spec, values, params, one, strength)
    if grid and channels == "last":
        found += _distributions(facts, spec, values, grid, one)
    queries = len(facts.answers) == 1 and rows <= _MAX_FINISHED and channels == "last"
    if queries and not grid and not anchored and rest_unit and unit([v[:, :4] for v in values]):
        params |= {"nms_iou": 1.0, "normalised": True}
        why = f"{rows} rows are queries: boxes in 0..1 with {columns - 4} class scores"
        found.append(_coco("yolov8", columns - 4, params, SHOWN, why, family="rtdetr", score=0.5))
    return found


def _coco(
    decoder: str, classes: int, params: dict[str, Any], strength: int, why: str, **rest: Any
) -> Reading:
    return Reading(
        task="detect", decoder=decoder, params=params, strength=strength, why=why,
        classes=classes, labels=families.usual_labels(classes), **rest,
    )  # fmt: skip


def _decoded_grid(
    hints: Hints, columns: int, params: dict[str, Any], why: str, strength: int
) -> list[Reading]:
    """One candidate a cell, boxes decoded: with objectness (YOLOX, v6) or without (v8 and on)."""
    without = _coco(
        "yolov8", columns - 4, {**params, "nms_iou": 0.7}, strength, why, family="yolo", score=0.25
    )
    # The exporters that emit rows keep the objectness, those that emit columns have none.
    if params["channels"] == "first" and columns != 85:
        return [without]
    if columns < 6:
        return [without]
    with_objectness = _coco("yolov5", columns - 5, params, strength, why, score=0.3)
    told = {columns - 4: without, columns - 5: with_objectness}
    if len(hints.labels) in told:
        return [told[len(hints.labels)]]
    usual = [reading for reading in told.values() if reading.classes == 80]
    return usual or [without, with_objectness]


def _extra_columns(
    facts: Facts,
    hints: Hints,
    spec: TensorSpec,
    values: list[Array],
    params: dict[str, Any],
    why: str,
    strength: int,
) -> list[Reading]:
    """Columns beyond class scores: mask coefficients, points, or an angle."""
    columns = values[0].shape[1]
    params = {**params, "nms_iou": 0.7}
    prototypes = [s for s in facts.answers if s is not spec and len(s.shape) == 4]
    base: dict[str, Any] = {"family": "yolo", "score": 0.25, "strength": strength}
    if prototypes:
        width, height = facts.size
        last = prototypes[0].shape[1] * width == prototypes[0].shape[2] * height
        count = prototypes[0].shape[3 if last else 1]
        classes = columns - 4 - count
        if classes < 1 or not unit([v[:, 4 : 4 + classes] for v in values]):
            return []
        return [
            Reading(
                task="instance", decoder="yolo_segment", classes=classes,
                labels=families.usual_labels(classes),
                params={**params, "prototypes": prototypes[0].name},
                why=f"{why}; {count} coefficients a row belong to {count} prototypes", **base,
            )
        ]  # fmt: skip
    if len(facts.answers) != 1:
        return []
    scores = 0
    while scores < columns - 4 and unit([v[:, 4 + scores] for v in values]):
        scores += 1
    found = []
    if scores == columns - 5:
        angles = [v[:, -1] for v in values]
        if all(bool((np.abs(a) <= np.pi + 1e-3).all()) for a in angles):
            found.append(
                Reading(
                    task="oriented", decoder="yolo_oriented", classes=scores, params=params,
                    why=f"{why}; the last column is an angle", **base,
                )
            )  # fmt: skip
    for each in (3, 2):
        points, rest = divmod(columns - 5, each)
        if scores < 1 or rest or points < 1 or (each == 2 and found):
            continue
        sure = each == 2 or unit([v[:, 7::3] for v in values])
        if sure and (each == 3 or (columns - 5) % 3):
            names = hints.points or families.point_names(points)
            found.append(
                Reading(
                    task="keypoints", decoder="yolo_pose", classes=1, labels=("person",),
                    params={**params, "points": list(names), "scored": each == 3},
                    why=f"{why}; after one class score come {points} points", **base,
                )
            )  # fmt: skip
            break
    return found


def _distributions(
    facts: Facts, spec: TensorSpec, values: list[Array], grid: tuple[int, ...], why: str
) -> list[Reading]:
    """Class scores and then 4 distributions of 8 bins, side by side (NanoDet)."""
    classes = values[0].shape[1] - 32
    if classes < 1 or not unit([v[:, :classes] for v in values]):
        return []
    if unit([v[:, classes:] for v in values]):
        return []
    params = {"output": spec.name, "strides": list(grid), "offset": 0.0 if len(grid) == 4 else 0.5}
    return [
        _coco(
            "distribution", classes, params, SHOWN,
            f"{why}; 32 columns behind {classes} scores are distributions",
            family="nanodet", score=0.4,
        )
    ]  # fmt: skip


def _pairs(facts: Facts, hints: Hints) -> list[Reading]:
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
    if axis == 1 and rows <= _MAX_FINISHED and form == "cxcywh" and not in_unit:
        return _queries(hints, values, params)
    if form == "":
        return []
    if form == "cxcywh" and axis == 1 and rows <= _MAX_FINISHED:
        return [
            _coco("detr", columns, {"logits": scores.name, "boxes": boxes.name,
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
    with_sigmoid = _coco(
        "detr", columns, {**params, "activation": "sigmoid"}, SHOWN, why, family="rtdetr"
    )
    with_softmax = _coco(
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


def _split_grids(facts: Facts, hints: Hints) -> list[Reading]:
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
        _coco("distribution", classes, params, SHOWN,
              f"outputs are scores and distributions of grids of stride {_list(strides)}",
              family="picodet", score=0.4)
    ]  # fmt: skip


def _fastestdet(facts: Facts, hints: Hints) -> list[Reading]:
    """One grid [1, 5 + C, h, w]: objectness, four numbers, chances of sum 1."""
    if len(facts.answers) != 1 or len(facts.answers[0].shape) != 4:
        return []
    spec = facts.answers[0]
    values = [v[0] for v in facts.values(spec.name)]
    width, height = facts.size
    smaller = spec.shape[3] * 8 <= width and spec.shape[2] * 8 <= height
    if spec.shape[1] < 7 or not smaller:
        return []
    if not unit([v[0] for v in values]) or not sums_to_one([v[5:] for v in values], axis=0):
        return []
    return [
        _coco("fastestdet", spec.shape[1] - 5, {"output": spec.name}, SHOWN,
              "one grid: a value in 0..1, four numbers, and chances of sum 1 a cell",
              family="fastestdet", score=0.5)
    ]  # fmt: skip


def _list(strides: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, strides or ()))
