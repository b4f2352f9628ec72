"""What decoders share: outputs as real numbers, the threshold, grids, distributions, suppression.

Invariant: candidates below the threshold are dropped before anything else is computed on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from edge.errors import BundleError, FrameError
from edge.finite import all_finite
from edge.manifest import Variant
from edge.types import FEW, Array, Detections, Geometry, TensorSpec

Activation = Literal["none", "sigmoid", "softmax"]
BoxForm = Literal["xyxy", "yxyx", "cxcywh"]
Channels = Literal["first", "last"]


_FLOAT32 = np.dtype(np.float32)


class Output:
    """One output of a variant, named, or the only one there is. Quantised ones become real."""

    def __init__(self, variant: Variant, name: str, *shapes: tuple[int | None, ...]) -> None:
        """`shapes` are those that the decoder can read; None stands for any size.

        BundleError when there is no such output or it has another shape.
        """
        specs = {spec.name: spec for spec in variant.outputs}
        if not name and len(specs) == 1:
            (name,) = specs
        if not name:
            raise BundleError(
                f"{variant.name}: the model has {len(specs)} outputs ({', '.join(specs)});"
                " the decoder's params must name one"
            )
        if name not in specs:
            raise BundleError(f"{variant.name}: no output {name!r}; there are {', '.join(specs)}")
        self.spec: TensorSpec = specs[name]
        self.shape = self.spec.shape
        if shapes and not any(_fits(self.shape, shape) for shape in shapes):
            wanted = " or ".join(
                "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
                for shape in shapes
            )
            raise BundleError(f"{variant.name}: output {self.spec}, where {wanted} is needed")
        self._shapes = shapes

    def stored(self, raw: Mapping[str, Array]) -> Array:
        """The tensor as the engine gave it."""
        tensor: Array = raw[self.spec.name]
        if tensor.shape == self.shape:
            return tensor
        if self._shapes and not any(_fits(tensor.shape, shape) for shape in self._shapes):
            raise FrameError(f"output {self.spec.name} has shape {list(tensor.shape)} this time")
        return tensor

    def real(self, stored: Array) -> Array:
        """Stored values -> float32: scale * (stored - zero_point)."""
        if stored.dtype is _FLOAT32:
            return stored
        quantization = self.spec.quantization
        if quantization is None or stored.dtype.kind not in "iu":
            return stored.astype(np.float32, copy=False)
        shifted = stored.astype(np.float32) - quantization.zero_point
        return np.asarray(shifted * np.float32(quantization.scale))

    def __call__(self, raw: Mapping[str, Array]) -> Array:
        """The whole tensor as float32."""
        return self.real(self.stored(raw))


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether the sizes are those; -1 in `shape` is not known before a run, None is any."""
    return len(shape) == len(wanted) and all(
        size in (-1, want) or want is None for size, want in zip(shape, wanted, strict=True)
    )


def picture_size(variant: Variant) -> tuple[int, int]:
    """Width and height of the variant's picture input. BundleError without one."""
    for spec in variant.inputs:
        if len(spec.shape) == 4 and spec.layout in ("nchw", "nhwc"):
            height, width = spec.shape[2:] if spec.layout == "nchw" else spec.shape[1:3]
            return width, height
    raise BundleError(f"{variant.name}: this decoder needs an input that is a picture")


def box_scale(variant: Variant, *, normalised: bool) -> Array:
    """What boxes [N, 4] are multiplied by to be in input pixels: float32 [4].

    BundleError when the variant takes no picture.
    """
    width, height = picture_size(variant)
    return np.array([width, height] * 2 if normalised else [1] * 4, np.float32)


def placed(geometry: Geometry | None) -> Geometry:
    """The geometry of a picture. FrameError for a window of samples, which has none."""
    if geometry is None:
        raise FrameError("this prediction needs a picture, not a window of samples")
    return geometry


def finite(values: Array) -> Array:
    """The same values. FrameError when one is not finite."""
    if not all_finite(values):
        raise FrameError("the model's output is not finite")
    return values


def known_classes(values: Array, count: int) -> Array:
    """Class numbers as the graph gave them. FrameError for one that has no label."""
    classes = values.round().astype(np.int64)
    if ((classes < 0) | (classes >= count)).any():
        raise FrameError(f"the model names class {int(classes.max())}, there are {count} labels")
    return classes


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)))


def softmax(values: Array) -> Array:
    """exp(x - max) / sum(exp(x - max)) over the last axis."""
    if values.ndim == 1 and 0 < values.size <= FEW:
        given = values.tolist()
        highest = max(given)
        exps = [math.exp(value - highest) for value in given]
        total = sum(exps)
        return np.array([value / total for value in exps], values.dtype)
    with np.errstate(invalid="ignore"):  # what is not finite gives NaN, and is refused later
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def logit(score: float) -> float:
    """The value whose sigmoid is `score`; infinite at 0 and 1."""
    if score <= 0:
        return -math.inf
    return math.inf if score >= 1 else math.log(score / (1 - score))


class Best(NamedTuple):
    """The candidates that reach the threshold, at most `most`: their rows, classes and scores."""

    rows: Array
    classes: Array
    scores: Array


def best_of(values: Array, *, min_score: float, most: int, activation: Activation = "none") -> Best:
    """Class values [N, C] -> candidates whose best class reaches `min_score`.

    In order of their rows; when there are more than `most`, the best ones, best first.
    """
    if activation == "softmax":
        values = softmax(values)
    best = finite(values.max(axis=1))
    (rows,) = np.nonzero(best >= (logit(min_score) if activation == "sigmoid" else min_score))
    rows = best_rows(best, rows, most)
    scores = best[rows]
    return Best(
        rows, values[rows].argmax(axis=1), sigmoid(scores) if activation == "sigmoid" else scores
    )


def best_rows(scores: Array, rows: Array, most: int) -> Array:
    """`rows`, or the `most` of them with the highest scores."""
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.argsort(-scores[rows], kind="stable")[:most]])


def corners(boxes: Array, form: BoxForm) -> Array:
    """Boxes [N, 4] of a form -> xyxy."""
    if form == "xyxy":
        return boxes
    if form == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    half = boxes[:, 2:] / 2
    whole = np.empty_like(boxes)
    np.subtract(boxes[:, :2], half, out=whole[:, :2])
    np.add(boxes[:, :2], half, out=whole[:, 2:])
    return whole


def cells(size: tuple[int, int], strides: Sequence[float], *, offset: float) -> tuple[Array, Array]:
    """Places of all cells of grids with these strides over a picture of width and height `size`.

    Row by row, grid by grid: x, y [N, 2] in input pixels, `offset` cells from a cell's corner, and
    the stride [N] of each. A grid covers the picture: ceil(side / stride) cells.
    """
    places, lengths = [], []
    for stride in strides:
        columns, rows = (math.ceil(side / stride - 1e-6) for side in size)
        y, x = np.divmod(np.arange(columns * rows, dtype=np.float32), columns)
        places.append((np.stack([x, y], axis=1) + offset) * stride)
        lengths.append(np.full(columns * rows, stride, np.float32))
    return np.concatenate(places).astype(np.float32), np.concatenate(lengths)


def expected_distances(values: Array, bins: int) -> Array:
    """Distributions over 0 .. bins-1 as logits [N, 4 * bins] -> their means [N, 4].

    The integral of Generalized Focal Loss (Li et al. 2020, eq. 6).
    """
    chances = softmax(values.reshape(-1, 4, bins))
    return np.asarray(chances @ np.arange(bins, dtype=np.float32))


def around(places: Array, distances: Array) -> Array:
    """Places [N, 2] and distances to left, top, right, bottom [N, 4] -> boxes xyxy."""
    return np.concatenate([places - distances[:, :2], places + distances[:, 2:]], axis=1)


def suppress(
    boxes: Array, scores: Array, classes: Array, *, iou: float, class_aware: bool = True
) -> Array:
    """Greedy non-maximum suppression of boxes xyxy; indices in falling order of score.

    Of boxes that overlap by more than `iou` (in the same class) the best one stays; `iou` 1 keeps
    them all.
    """
    sized = boxes.T.copy()
    sized[2:] -= sized[:2]
    return suppress_sized(sized, scores, classes, iou=iou, class_aware=class_aware)


def suppress_sized(
    sized: Array, scores: Array, classes: Array, *, iou: float, class_aware: bool = True
) -> Array:
    """The same of boxes that are given as x1, y1, width, height: [4, N]."""
    if iou >= 1 or len(scores) < 2:
        return np.argsort(-scores, kind="stable")
    import cv2

    if not class_aware:
        return np.asarray(cv2.dnn.NMSBoxes(sized.T.tolist(), scores.tolist(), 0.0, iou))
    # The library tells classes apart by moving them by the largest coordinate, which is right only
    # for coordinates that are not negative.
    lowest = np.minimum.reduce(sized, axis=None)
    if lowest < 0:
        sized = sized.copy()
        sized[:2] -= lowest
    keep = cv2.dnn.NMSBoxesBatched(
        sized.T.tolist(), scores.tolist(), classes.tolist(), 0.0, iou
    )  # its own threshold drops what is equal to it
    return np.asarray(keep)


def detections(
    geometry: Geometry, boxes: Array, scores: Array, classes: Array, labels: tuple[str, ...]
) -> Detections:
    """Boxes xyxy in input pixels -> Detections in source pixels.

    Scores and classes are taken as they are where they are float32 and int64: they must not lie in
    an output.
    """
    return Detections(
        geometry.to_source(boxes),
        scores.astype(np.float32, copy=False),
        classes.astype(np.int64, copy=False),
        labels,
    )
