"""Readings of models that give boxes. Each function looks for one form of output.

Raw heads are known by their number of candidates, which the grids over the input make; finished
lists by their columns; the parts of a row by the ranges of their values.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from edge.hints import Hints
from edge.recognize import apart, exported, families
from edge.recognize.facts import Facts
from edge.recognize.reading import (
    MAX_FINISHED,
    POSSIBLE,
    SHOWN,
    Reading,
    sums_to_one,
    unit,
    whole,
)
from edge.types import Array, TensorSpec


def readings(facts: Facts, hints: Hints) -> list[Reading]:
    """All readings as a detector; none for a model that takes no picture."""
    if not facts.picture:
        return []
    found: list[Reading] = []
    for look in (
        exported.ultralytics,
        apart.listed,
        _table,
        apart.pairs,
        apart.split_grids,
        _fastestdet,
    ):
        found += look(facts, hints)
    return found


def _table(facts: Facts, hints: Hints) -> list[Reading]:
    """One output, a row a candidate: [1, N, columns], [1, columns, N] or [n, columns]."""
    tables = [s for s in facts.answers if len(s.shape) in (2, 3)]
    # YOLOv5's older exports leave the undecoded heads, of five axes, beside the table.
    others = [s for s in facts.answers if s not in tables and len(s.shape) != 5]
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
    if rows > MAX_FINISHED:
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
    one = f"{rows} candidates are the cells of grids of stride {families.listing(grid)}"
    strides = families.listing(anchored)
    three = f"{rows} candidates are three anchors in each cell of grids of stride {strides}"
    # One grid alone is a weak sign: many numbers are some grid's.
    strength = SHOWN if grid and len(grid) > 1 else POSSIBLE
    found: list[Reading] = []
    rest_unit = unit([v[:, 5:] for v in values]) and unit([v[:, 4] for v in values])
    base: dict[str, Any] = {"family": "yolo", "score": 0.25}
    if anchored and rest_unit and sizes_positive:
        found.append(families.coco("yolov5", columns - 5, params, SHOWN, three, **base))
    if grid and rest_unit and not sizes_positive:
        raw = {"output": spec.name, "channels": channels, "strides": list(grid)}
        why = f"{one}, and sizes below 0 are not decoded yet"
        found.append(
            families.coco("yolox", columns - 5, raw, SHOWN, why, family="yolox", score=0.3)
        )
    if grid and sizes_positive and rest_unit:
        found += _decoded_grid(hints, columns, params, one, strength)
    if grid and sizes_positive and not rest_unit:
        found += _extra_columns(facts, hints, spec, values, params, one, strength)
    if grid and channels == "last":
        found += _distributions(facts, spec, values, grid, one)
    queries = len(facts.answers) == 1 and rows <= MAX_FINISHED and channels == "last"
    if queries and not grid and not anchored and rest_unit and unit([v[:, :4] for v in values]):
        params |= {"nms_iou": 1.0, "normalised": True}
        why = f"{rows} rows are queries: boxes in 0..1 with {columns - 4} class scores"
        found.append(
            families.coco("yolov8", columns - 4, params, SHOWN, why, family="rtdetr", score=0.5)
        )
    return found


def _decoded_grid(
    hints: Hints, columns: int, params: dict[str, Any], why: str, strength: int
) -> list[Reading]:
    """One candidate a cell, boxes decoded: with objectness (YOLOX, v6) or without (v8 and on)."""
    without = families.coco(
        "yolov8", columns - 4, {**params, "nms_iou": 0.7}, strength, why, family="yolo", score=0.25
    )
    # The exporters that emit rows keep the objectness, those that emit columns have none.
    if params["channels"] == "first" and columns != 85:
        return [without]
    if columns < 6:
        return [without]
    with_objectness = families.coco("yolov5", columns - 5, params, strength, why, score=0.3)
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
        families.coco(
            "distribution", classes, params, SHOWN,
            f"{why}; 32 columns behind {classes} scores are distributions",
            family="nanodet", score=0.4,
        )
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
        families.coco("fastestdet", spec.shape[1] - 5, {"output": spec.name}, SHOWN,
              "one grid: a value in 0..1, four numbers, and chances of sum 1 a cell",
              family="fastestdet", score=0.5)
    ]  # fmt: skip
