"""Readings of models that give no list of boxes: classes, maps, points, numbers, vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edge.hints import Hints
from edge.manifest import Task
from edge.recognize import families
from edge.recognize.facts import Facts
from edge.recognize.reading import POSSIBLE, SHOWN, Reading, sums_to_one, unit, whole
from edge.types import Array, TensorSpec

_BODY_COUNTS = (16, 17, 21, 68, 98, 133)
"""Numbers of points that data sets of bodies, hands and faces have."""


def readings(facts: Facts, hints: Hints) -> list[Reading]:
    """All readings as something else than a detector."""
    found: list[Reading] = []
    for look in (_vectors, _anomaly, _movenet, _maps):
        found += look(facts, hints)
    return found


# ---- one vector


def _vectors(facts: Facts, hints: Hints) -> list[Reading]:
    """A vector [1, C]; beside it perhaps the number of the class, as scikit-learn exports it."""
    vectors = [
        spec for spec in facts.answers
        if spec.shape and int(np.prod(spec.shape)) == max(spec.shape) > 0
        and facts.values(spec.name)[0].size
    ]  # fmt: skip
    floats = [spec for spec in vectors if spec.dtype not in ("int64", "int32", "bool")]
    if len(floats) != 1 or len(facts.answers) > 2:
        return []
    if len(facts.answers) == 2 and (
        len(vectors) != 2 or max(vectors[0].shape) == 1 == max(vectors[1].shape)
    ):
        return []
    (spec,) = floats
    size = max(spec.shape)
    values = [v.reshape(-1) for v in facts.values(spec.name)]
    if size == 1:
        return _one_number(facts, spec, values)
    last = facts.maker(spec.name)
    params = {"output": spec.name}

    def reading(task: Task, decoder: str, strength: int, why: str) -> Reading:
        return Reading(
            task=task, decoder=decoder, params=params, strength=strength, why=why, classes=size,
            score=0.0 if task == "classify" else 0.5,
        )  # fmt: skip

    if last in ("Softmax", "SOFTMAX"):
        return [reading("classify", "scores", SHOWN, f"{size} values out of a softmax")]
    if sums_to_one(values):
        return [reading("classify", "scores", SHOWN, f"{size} values that sum to 1: chances")]
    lengths = [float(np.linalg.norm(v)) for v in values]
    if last in ("LpNormalization", "L2_NORMALIZATION") or all(
        abs(length - 1) < 1e-3 for length in lengths
    ):
        embedding = reading("embed", "embedding", SHOWN, f"{size} values of length 1: a direction")
        return [_no_classes(embedding)]
    numbers = reading("regress", "regression", POSSIBLE, f"{size} numbers")
    if last in ("Sigmoid", "LOGISTIC") or unit(values):
        strength = SHOWN if last in ("Sigmoid", "LOGISTIC") else POSSIBLE
        why = f"{size} values in 0..1 that do not sum to 1: chances, each for itself"
        return [reading("classify", "scores", strength, why), numbers]
    logits, strength = f"{size} values without bounds: logits", POSSIBLE
    if size in (1000, 1001):
        logits, strength = f"{logits} of ImageNet's classes", SHOWN
    elif len(hints.labels) in (size, size - 1):
        logits, strength = f"{logits} of the {len(hints.labels)} labels given", SHOWN
    each = f"{size} values without bounds that stand each for itself"
    return [
        reading("classify", "softmax", strength, logits),
        reading("classify", "sigmoid", POSSIBLE, each),
        numbers,
        _no_classes(reading("embed", "embedding", POSSIBLE, f"an embedding of {size} numbers")),
    ]


def _no_classes(reading: Reading) -> Reading:
    return dataclasses.replace(reading, classes=0)


def _one_number(facts: Facts, spec: TensorSpec, values: list[Array]) -> list[Reading]:
    params = {"output": spec.name}
    number = Reading(
        task="regress", decoder="regression", params=params, classes=1, strength=POSSIBLE,
        why="one number", labels=("value",),
    )  # fmt: skip
    chance = Reading(
        task="classify", decoder="scores", params=params, classes=1, strength=SHOWN, score=0.0,
        why="one chance in 0..1, from a sigmoid",
    )  # fmt: skip
    score = Reading(
        task="anomaly", decoder="anomaly", params={"score": spec.name}, classes=0,
        strength=POSSIBLE, why="one score in 0..1",
    )  # fmt: skip
    last = facts.maker(spec.name)
    if "anomal" in spec.name.lower():
        return [score]
    if last in ("Sigmoid", "LOGISTIC") or (facts.states and unit(values)):
        return [chance]
    return [number, score] if unit(values) else [number]


# ---- an anomaly's score and map


def _anomaly(facts: Facts, hints: Hints) -> list[Reading]:
    if not facts.picture:
        return []
    floats = [s for s in facts.answers if s.dtype in ("float32", "float16", "float64")]
    maps = [s for s in floats if _plane(facts, s)]
    scores = [s for s in floats if int(np.prod(s.shape)) == 1]
    if len(maps) != 1 or len(scores) != 1 or len(floats) != 2:
        return []
    return [
        Reading(
            task="anomaly", decoder="anomaly", classes=0, strength=SHOWN,
            params={"score": scores[0].name, "map": maps[0].name},
            why="one number beside a map: a score and where it comes from",
        )
    ]  # fmt: skip


def _plane(facts: Facts, spec: TensorSpec) -> bool:
    """[1, h, w], [1, 1, h, w] or [1, h, w, 1] of the picture's aspect ratio."""
    shape = spec.shape
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        shape = shape[:3] if shape[3] == 1 else (shape[0], *shape[2:])
    return len(shape) == 3 and shape[0] == 1 and _like_picture(facts, shape[2], shape[1])


def _like_picture(facts: Facts, width: int, height: int) -> bool:
    """Whether a map has the picture's aspect ratio, within a cell, and is no larger than twice."""
    if min(width, height) < 2:
        return False
    in_width, in_height = facts.size
    return abs(width * in_height / in_width - height) <= 1.01 and width <= 2 * in_width


# ---- points


def _movenet(facts: Facts, hints: Hints) -> list[Reading]:
    if len(facts.answers) != 1 or not facts.picture:
        return []
    (spec,) = facts.answers
    shape = spec.shape
    several = len(shape) == 3 and shape[1] <= 20 and shape[2] == 3 * len(families.BODY) + 5
    one = len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 3 and shape[2] > 3
    # Points may lie a little outside of the picture.
    near = all(bool((np.abs(v) < 3).all()) for v in facts.values(spec.name))
    if not (one or several) or not near:
        return []
    names = hints.points or families.point_names(len(families.BODY) if several else shape[2])
    return [
        Reading(
            task="keypoints", decoder="movenet", classes=1, labels=("person",), family="movenet",
            params={
                "output": spec.name, "points": list(names), "form": "several" if several else "one",
            },
            strength=SHOWN, score=0.3,
            why=f"{len(names)} points as y, x and a score in 0..1, as MoveNet gives them",
        )
    ]  # fmt: skip


# ---- maps


def _maps(facts: Facts, hints: Hints) -> list[Reading]:
    if len(facts.answers) != 1 or not facts.picture:
        return []
    (spec,) = facts.answers
    if _plane(facts, spec):
        return _one_plane(facts, hints, spec)
    if len(spec.shape) != 4:
        return []
    found: list[Reading] = []
    for axis in (1, 3):
        planes = spec.shape[axis]
        sides = (spec.shape[3], spec.shape[2]) if axis == 1 else (spec.shape[2], spec.shape[1])
        if planes > 1 and _like_picture(facts, *sides):
            found += _planes(facts, hints, spec, axis, sides)
    return found


def _planes(
    facts: Facts, hints: Hints, spec: TensorSpec, axis: int, sides: tuple[int, int]
) -> list[Reading]:
    count, channels = spec.shape[axis], "first" if axis == 1 else "last"
    values = facts.values(spec.name)
    segment = Reading(
        task="segment", decoder="semantic", classes=count, strength=POSSIBLE,
        params={"output": spec.name, "channels": channels},
        why=f"a map {sides[0]}x{sides[1]} of {count} values a cell",
    )  # fmt: skip
    heat = Reading(
        task="keypoints", decoder="heatmaps", classes=1, labels=("person",), strength=POSSIBLE,
        params={
            "output": spec.name, "channels": channels,
            "points": list(hints.points or families.point_names(count)),
        },
        why=f"{count} maps {sides[0]}x{sides[1]}, a point each", score=0.3, family="imagenet",
    )  # fmt: skip
    shown = _with(segment, strength=SHOWN)
    if sums_to_one(values, axis=axis) or sides == facts.size:
        return [shown]
    if len(hints.labels) == count:
        return [shown]
    if count in _BODY_COUNTS:
        return [segment, heat]
    smaller = sides[0] * 2 <= facts.size[0]
    return [shown] if not smaller or count == 2 else [segment, heat]


def _with(reading: Reading, **changes: Any) -> Reading:
    return dataclasses.replace(reading, **changes)


def _one_plane(facts: Facts, hints: Hints, spec: TensorSpec) -> list[Reading]:
    values = facts.values(spec.name)
    params = {"output": spec.name}
    if np.dtype(spec.dtype).kind in "iu" and spec.quantization is None and whole(values):
        count = len(hints.labels) or int(max(v.max() for v in values)) + 1
        return [
            Reading(
                task="segment", decoder="semantic", strength=SHOWN, classes=max(count, 2),
                params={**params, "form": "numbers"}, why="a map of whole numbers: classes",
            )
        ]  # fmt: skip
    bounded = unit(values)
    chance = Reading(
        task="segment", decoder="semantic", classes=2, labels=("background", "object"),
        params={**params, "form": "chance", "activation": "none" if bounded else "sigmoid"},
        strength=POSSIBLE, why="one map: the chance of an object in each cell",
    )  # fmt: skip
    depth = Reading(
        task="depth", decoder="depth", params=params, classes=0, strength=POSSIBLE,
        why="one map of distances",
    )  # fmt: skip
    anomaly = Reading(
        task="anomaly", decoder="anomaly", params={"map": spec.name}, classes=0,
        strength=POSSIBLE, why="one map of how unusual each cell is",
    )  # fmt: skip
    name = spec.name.lower()
    for words, reading in (
        (("depth", "disp"), depth), (("anomal",), anomaly), (("mask", "seg", "alpha"), chance),
    ):  # fmt: skip
        if any(word in name for word in words):
            why = f"{reading.why}; the output is called {spec.name}"
            return [_with(reading, strength=SHOWN, why=why)]
    if facts.maker(spec.name) in ("Sigmoid", "LOGISTIC"):
        return [chance, anomaly]
    return [chance, depth, anomaly]
