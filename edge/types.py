"""The words of the house as values: what is captured, what a model takes, what it says.

Arrays are numpy. Images are uint8 [H, W, 3] in BGR order, windows of samples float32 [T, C] in
physical units. Boxes are float32 [N, 4] as x1, y1, x2, y2 (xyxy) in pixels of the source. A
prediction never aliases an engine's output buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layout = Literal["nchw", "nhwc", "ntc", "nc", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image or one window of samples, as the source gave it.

    `number` counts from 0 within a source, and leaves one out where the source knows that something
    was lost; `mono_ns` is the monotonic clock and `wall_ns` the
    wall clock (nanoseconds since 1970, UTC) at capture.
    """

    data: Array
    source: str
    number: int
    mono_ns: int
    wall_ns: int


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor of a model: its name in the graph, its static shape, dtype and layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = "other"
    quantization: Quantization | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an input tensor's pixels lie in the source.

    `matrix` is float32 [2, 3]: source = matrix[:, :2] @ input + matrix[:, 2]. It scales, moves and
    turns by multiples of 90 degrees, so that a box stays a box. `width` and `height` are the
    source's, in pixels.
    """

    matrix: Array
    width: int
    height: int

    def to_source(self, boxes: Array) -> Array:
        """Boxes xyxy [N, 4] in input pixels -> xyxy [N, 4] in source pixels, clipped to it."""
        corners = boxes.reshape(-1, 2) @ self.matrix[:, :2].T + self.matrix[:, 2]
        corners = corners.reshape(-1, 2, 2)
        limit = np.array([self.width, self.height], dtype=np.float32)
        low = np.clip(corners.min(axis=1), 0, limit)
        high = np.clip(corners.max(axis=1), 0, limit)
        return np.concatenate([low, high], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """What a second model says of each detection: labels [N], "" where it was not asked; scores
    float32 [N] in 0..1."""

    name: str
    labels: tuple[str, ...]
    scores: Array


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Objects found in a frame.

    boxes float32 [N, 4] xyxy in source pixels; scores float32 [N] in 0..1; classes int64 [N],
    indices into `labels`. `ids` int64 [N], once they are tracked: the same number for the same
    object in every frame, from 1; 0 for what belongs to no track.
    """

    boxes: Array
    scores: Array
    classes: Array
    labels: tuple[str, ...]
    ids: Array | None = field(default=None, kw_only=True)
    attributes: tuple[Attribute, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,):
            raise ValueError(
                f"boxes {self.boxes.shape} and scores {self.scores.shape} do not belong together"
            )
        if self.classes.shape != (count,):
            raise ValueError(f"classes {self.classes.shape} for {count} boxes")
        if self.ids is not None and self.ids.shape != (count,):
            raise ValueError(f"ids {self.ids.shape} for {count} boxes")
        if any(len(one.labels) != count or len(one.scores) != count for one in self.attributes):
            raise ValueError(f"an attribute does not have one label and score for {count} boxes")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Array | slice) -> Detections:
        """A subset: a boolean mask [N], an array of indices or a slice."""
        chosen = np.arange(len(self))[index]
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.classes[index],
            self.labels,
            ids=None if self.ids is None else self.ids[index],
            attributes=tuple(
                Attribute(one.name, tuple(one.labels[i] for i in chosen), one.scores[index])
                for one in self.attributes
            ),
        )

    @property
    def names(self) -> list[str]:
        """The label of each detection."""
        return [self.labels[index] for index in self.classes]

    @classmethod
    def empty(cls, labels: tuple[str, ...]) -> Detections:
        """No detections."""
        return cls(
            np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), labels
        )


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """One class for the whole frame: scores float32 [C], which sum to 1 after a softmax."""

    scores: Array
    labels: tuple[str, ...]

    @property
    def index(self) -> int:
        """Index of the highest score."""
        return int(self.scores.argmax())

    @property
    def label(self) -> str:
        """Label of the highest score."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores[self.index])


Prediction = Detections | Classification


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a counter shows, put together from its digits.

    `value` is the text of the digits from left to right, `number` the same scaled by the decimals,
    `confidence` the lowest score of a digit. An implausible reading says why in `reason`.
    """

    value: str
    number: float
    confidence: float
    plausible: bool = True
    reason: str = ""


Outcome = Prediction | Reading
