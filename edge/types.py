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
FEW = 32
"""With so few numbers Python is done before numpy has begun."""
Layout = Literal["nchw", "nhwc", "ntc", "nc", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image or one window of samples, as the source gave it.

    `number` counts from 0 within a source, and leaves one out where the source knows that something
    was lost; `mono_ns` is the monotonic clock and `wall_ns` the wall clock (since 1970, UTC) at
    capture, both in nanoseconds.
    """

    data: Array
    source: str
    number: int
    mono_ns: int
    wall_ns: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture, in pixels; those of a window say nothing."""
        return self.data.shape[1], self.data.shape[0]


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
    _scale: Array | None = field(init=False, repr=False, default=None)
    """For x1, y1, x2, y2, as the shift and the limit; None where the picture was turned."""
    _shift: Array | None = field(init=False, repr=False, default=None)
    _limit: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        (across, turn_x, left), (turn_y, down, top) = self.matrix.tolist()
        put = object.__setattr__
        put(self, "_limit", np.array([self.width, self.height] * 2, np.float32))
        if turn_x == turn_y == 0 and across > 0 and down > 0:  # as nearly always
            put(self, "_scale", np.array([across, down] * 2, np.float32))
            if left or top:
                put(self, "_shift", np.array([left, top] * 2, np.float32))

    def to_source(self, boxes: Array) -> Array:
        """Boxes xyxy [N, 4] in input pixels -> xyxy [N, 4] in source pixels, clipped to it."""
        if self._scale is not None:
            moved: Array = (boxes * self._scale).astype(np.float32, copy=False)
            if self._shift is not None:
                np.add(moved, self._shift, out=moved)
            np.maximum(moved, 0, out=moved)
            return np.minimum(moved, self._limit, out=moved)
        corners = boxes.reshape(-1, 2) @ self.matrix[:, :2].T + self.matrix[:, 2]
        corners = corners.reshape(-1, 2, 2)
        limit = self._limit[:2]
        low = np.clip(corners.min(axis=1), 0, limit)
        high = np.clip(corners.max(axis=1), 0, limit)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def points_to_source(self, points: Array) -> Array:
        """Points x, y [..., 2] in input pixels -> the same in source pixels, not clipped."""
        moved: Array = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return moved.astype(np.float32)


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
        if self.attributes and any(
            len(one.labels) != count or len(one.scores) != count for one in self.attributes
        ):
            raise ValueError(f"an attribute does not have one label and score for {count} boxes")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Array | slice) -> Detections:
        """A subset: a boolean mask [N], an array of indices or a slice."""
        attributes: tuple[Attribute, ...] = ()
        if self.attributes:
            chosen = np.arange(len(self))[index]
            attributes = tuple(
                Attribute(one.name, tuple(one.labels[i] for i in chosen), one.scores[index])
                for one in self.attributes
            )
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.classes[index],
            self.labels,
            ids=None if self.ids is None else self.ids[index],
            attributes=attributes,
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
class Instances(Detections):
    """Detections with a mask each: bool [h, w], whose cells divide the detection's box evenly."""

    masks: tuple[Array, ...]

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        if len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.masks)} masks for {len(self.boxes)} boxes")

    def __getitem__(self, index: Array | slice) -> Instances:
        """A subset: a boolean mask [N], an array of indices or a slice."""
        rest = Detections.__getitem__(self, index)
        chosen = np.arange(len(self))[index]
        masks = tuple(self.masks[number] for number in chosen)
        return Instances(
            rest.boxes, rest.scores, rest.classes, self.labels, masks,
            ids=rest.ids, attributes=rest.attributes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints(Detections):
    """Detections with named points: points float32 [N, K, 2] as x, y in source pixels, and
    point_scores float32 [N, K] in 0..1."""

    points: Array
    point_scores: Array
    point_names: tuple[str, ...]

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        wanted = (len(self.boxes), len(self.point_names))
        if self.points.shape != (*wanted, 2) or self.point_scores.shape != wanted:
            raise ValueError(
                f"points {self.points.shape} with scores {self.point_scores.shape} for"
                f" {wanted[0]} boxes with {wanted[1]} named points"
            )

    def __getitem__(self, index: Array | slice) -> Keypoints:
        """A subset: a boolean mask [N], an array of indices or a slice."""
        rest = Detections.__getitem__(self, index)
        return Keypoints(
            rest.boxes, rest.scores, rest.classes, self.labels,
            self.points[index], self.point_scores[index], self.point_names,
            ids=rest.ids, attributes=rest.attributes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Oriented(Detections):
    """Detections that lie at an angle: corners float32 [N, 4, 2] in order around the object, in
    source pixels. `boxes` are the upright boxes around them."""

    corners: Array

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        if self.corners.shape != (len(self.boxes), 4, 2):
            raise ValueError(f"corners {self.corners.shape} for {len(self.boxes)} boxes")

    def __getitem__(self, index: Array | slice) -> Oriented:
        """A subset: a boolean mask [N], an array of indices or a slice."""
        rest = Detections.__getitem__(self, index)
        return Oriented(
            rest.boxes, rest.scores, rest.classes, self.labels, self.corners[index],
            ids=rest.ids, attributes=rest.attributes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """One class for the whole frame: scores float32 [C].

    They sum to 1 after a softmax; a multi-label model's scores stand each for itself. `index` is
    that of the highest one.
    """

    scores: Array
    labels: tuple[str, ...]
    index: int = field(init=False)

    def __post_init__(self) -> None:
        # Asked for by every rule.
        if len(self.scores) <= FEW:
            values = self.scores.tolist()
            index = values.index(max(values))
        else:
            index = int(self.scores.argmax())
        object.__setattr__(self, "index", index)

    @property
    def label(self) -> str:
        """Label of the highest score."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores[self.index])


UNSEEN = -1
"""The class of a cell at which the model did not look."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A class for every part of the frame: classes int16 [H, W], indices into `labels`.

    The cells divide the source's picture evenly; `UNSEEN` where the model did not look.
    """

    classes: Array
    labels: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the seen cells that each label has, for labels that are there."""
        seen = self.classes[self.classes != UNSEEN]
        counts = np.bincount(seen.ravel(), minlength=len(self.labels))
        return {
            self.labels[index]: float(counts[index] / max(1, seen.size))
            for index in np.nonzero(counts)[0]
        }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Anomaly:
    """How unusual a frame is: anomalous from `threshold` on.

    `map` float32 [H, W] says where; its cells divide the source's picture evenly, NaN where the
    model did not look. None when the model gives no map.
    """

    score: float
    threshold: float
    map: Array | None = None

    @property
    def anomalous(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Depth:
    """How far away things are: map float32 [H, W], whose cells divide the source's picture evenly,
    NaN where the model did not look. `unit` is "m", or "relative" (the larger the nearer)."""

    map: Array
    unit: str = "relative"


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """Numbers read off a frame: values float32 [K], one a name."""

    values: Array
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What a frame is like: vector float32 [D]; frames that are alike have vectors that are."""

    vector: Array


Prediction = Detections | Classification | Segmentation | Anomaly | Depth | Regression | Embedding
"""Instances, Keypoints and Oriented are Detections with more to them."""


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
