"""A reading: one way in which a model's outputs can be understood, and how much speaks for it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from edge.manifest import Task
from edge.types import Array

SAID, SHOWN, POSSIBLE = 3, 2, 1
"""The file says so; its shapes and values show it; they allow it."""

Family = Literal[
    "", "yolo", "yolox", "nanodet", "picodet", "fastestdet", "ultraface", "mediapipe", "rtdetr",
    "detr", "ssd", "movenet", "imagenet",
]  # fmt: skip
"""Whose conventions of preparing a picture hold; "" when nothing tells."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """`classes` is how many labels the decoder needs, None when the outputs do not tell; `labels`
    are what they are usually called. `why` is for people."""

    task: Task
    decoder: str
    params: dict[str, Any]
    strength: int
    why: str
    classes: int | None = None
    labels: tuple[str, ...] = ()
    family: Family = ""
    score: float = 0.5


def unit(values: list[Array], slack: float = 1e-3) -> bool:
    """Whether all values lie in 0..1."""
    return all(
        bool(np.isfinite(v).all() and (v >= -slack).all() and (v <= 1 + slack).all())
        for v in values
        if v.size
    )


def sums_to_one(values: list[Array], axis: int = -1) -> bool:
    """Whether the values along an axis are chances: not negative, of sum 1."""
    return all(
        bool((v >= -1e-3).all() and np.abs(v.sum(axis=axis) - 1).max(initial=0) < 0.05)
        for v in values
    )


def whole(values: list[Array]) -> bool:
    """Whether every value is a whole number."""
    return all(bool(np.isfinite(v).all() and (np.abs(v - v.round()) < 1e-4).all()) for v in values)
