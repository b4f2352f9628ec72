"""Detections with more to them: masks, key points, and boxes at an angle.

Formulas: Ultralytics' heads for segment, pose and obb; Bolya et al. 2019 (prototypes, eq. 1);
Xiao et al. 2018 (heat maps: a quarter of a cell towards the higher neighbour); MoveNet's card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.manifest import Variant
from edge.postprocess import candidates, maps
from edge.postprocess.candidates import Output
from edge.postprocess.yolo import Table, TableParams
from edge.types import Array, Geometry, Instances, Keypoints, Oriented

MAX_MASK_SIDE = 256


class YoloSegment:
    """A YOLO table with P coefficients a row, and prototypes [1, P, h, w] or [1, h, w, P].

    mask = coefficients @ prototypes >= 0 (that is, sigmoid >= 0.5), within the box.
    """

    class Params(TableParams, frozen=True, kw_only=True):
        """See TableParams; `prototypes` names the other output."""

        prototypes: str

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._prototypes = Output(variant, params.prototypes)
        shape = self._prototypes.shape
        self._size = candidates.picture_size(variant)
        if len(shape) != 4:
            raise BundleError(f"{variant.name}: prototypes {self._prototypes.spec} are not a map")
        # The map has the aspect ratio of the input; the axis of the prototypes is the other one.
        self._last = shape[1] * self._size[0] == shape[2] * self._size[1]
        count = shape[3] if self._last else shape[1]
        self._table = Table(params, variant, classes=len(labels), min_score=min_score, rest=count)
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Instances:
        """One frame's outputs -> its boxes in source pixels with their masks, best first."""
        placed = candidates.placed(geometry)
        rows = self._table.suppressed(self._table(raw))
        found = candidates.detections(placed, rows.boxes, rows.scores, rows.classes, self._labels)
        prototypes = self._prototypes(raw)[0]
        if self._last:
            prototypes = prototypes.transpose(2, 0, 1)
        planes = candidates.finite(np.tensordot(rows.rest, prototypes, axes=1))
        masks = tuple(
            self._mask(values, box, placed) for values, box in zip(planes, found.boxes, strict=True)
        )
        return Instances(found.boxes, found.scores, found.classes, self._labels, masks)

    def _mask(self, values: Array, box: Array, geometry: Geometry) -> Array:
        """The mask over one box of the source, in cells of about the prototypes' size."""
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        pixels = np.abs(geometry.matrix[:, :2]).sum(axis=1)
        density = max(values.shape[1] / self._size[0], values.shape[0] / self._size[1])
        grid = (
            int(np.clip(np.ceil(width / pixels[0] * density), 1, MAX_MASK_SIDE)),
            int(np.clip(np.ceil(height / pixels[1] * density), 1, MAX_MASK_SIDE)),
        )
        window = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        mapped, seen = maps.sample(
            values, geometry, self._size, window=window, grid=grid, smooth=True
        )
        inside: Array = (mapped >= 0) & seen
        return inside


class YoloPose:
    """A YOLO table with K points a row, each x, y and a score, or x, y alone."""

    class Params(TableParams, frozen=True, kw_only=True):
        """See TableParams; `points` are the points' names, `scored` whether they have a score."""

        points: tuple[str, ...]
        scored: bool = True

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._numbers = 3 if params.scored else 2
        rest = self._numbers * len(params.points)
        self._table = Table(params, variant, classes=len(labels), min_score=min_score, rest=rest)
        size = candidates.picture_size(variant) if params.normalised else (1, 1)
        self._scale = np.array(size, np.float32)
        self._names = params.points
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Keypoints:
        """One frame's outputs -> its boxes and points in source pixels, best first."""
        placed = candidates.placed(geometry)
        rows = self._table.suppressed(self._table(raw))
        found = candidates.detections(placed, rows.boxes, rows.scores, rows.classes, self._labels)
        points = rows.rest.reshape(len(found), len(self._names), self._numbers)
        scores = points[..., 2] if self._numbers == 3 else np.ones(points.shape[:2])
        return Keypoints(
            found.boxes, found.scores, found.classes, self._labels,
            placed.points_to_source(points[..., :2] * self._scale),
            scores.astype(np.float32), self._names,
        )  # fmt: skip


class YoloOriented:
    """A YOLO table with an angle in radians a row: the box is turned about its centre, from x to y.

    Suppression is by the overlap of the turned boxes, within a class.
    """

    class Params(TableParams, frozen=True, kw_only=True):
        """See TableParams; end-to-end rows are x, y, w, h, score, class, angle."""

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._table = Table(params, variant, classes=len(labels), min_score=min_score, rest=1)
        self._params = params
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Oriented:
        """One frame's outputs -> its turned boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        rows = self._table(raw)
        angles = rows.rest[:, 0]
        keep = np.arange(len(rows.scores))
        if not self._params.end_to_end:
            keep = self._suppress(rows.boxes, angles, rows.scores, rows.classes)
        corners = turned(rows.boxes[keep], angles[keep])
        corners = placed.points_to_source(corners)
        upright = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        limit = np.array([placed.width, placed.height] * 2, np.float32)
        return Oriented(
            np.clip(upright, 0, limit), rows.scores[keep].astype(np.float32),
            rows.classes[keep].astype(np.int64), self._labels, corners,
        )  # fmt: skip

    def _suppress(self, boxes: Array, angles: Array, scores: Array, classes: Array) -> Array:
        """Greedy, by the true overlap: cv2.dnn.NMSBoxesRotated takes a small box inside of a large
        one for the same (IoU 1, OpenCV 5.0)."""
        order = np.argsort(-scores, kind="stable")
        if self._params.nms_iou >= 1 or not len(boxes):
            return order
        degrees = np.degrees(angles).tolist()
        places, sizes = boxes[:, :2].tolist(), boxes[:, 2:].tolist()
        rectangles = list(zip(places, sizes, degrees, strict=True))
        reach = np.hypot(boxes[:, 2], boxes[:, 3]) / 2
        kept: list[int] = []
        for index in order.tolist():
            rivals = np.array(kept, np.int64)
            if self._params.class_aware_nms:
                rivals = rivals[classes[rivals] == classes[index]]
            apart = np.hypot(*(boxes[rivals, :2] - boxes[index, :2]).T)
            near = rivals[apart < reach[rivals] + reach[index]].tolist()
            if all(
                turned_iou(rectangles[other], rectangles[index]) <= self._params.nms_iou
                for other in near
            ):
                kept.append(index)
        return np.array(kept, np.int64)


def turned_iou(first: Any, second: Any) -> float:
    """Intersection over union of two rectangles as OpenCV has them: centre, size, degrees."""
    import cv2

    kind, corners = cv2.rotatedRectangleIntersection(first, second)
    if not kind or corners is None:
        return 0.0
    shared = float(cv2.contourArea(cv2.convexHull(corners)))
    union = first[1][0] * first[1][1] + second[1][0] * second[1][1] - shared
    return shared / union if union > 0 else 0.0


def turned(boxes: Array, angles: Array) -> Array:
    """Boxes x, y, w, h [N, 4] about their centres and angles [N] -> corners [N, 4, 2]."""
    cos, sin = np.cos(angles), np.sin(angles)
    along = np.stack([boxes[:, 2] / 2 * cos, boxes[:, 2] / 2 * sin], axis=1)
    across = np.stack([-boxes[:, 3] / 2 * sin, boxes[:, 3] / 2 * cos], axis=1)
    centres = boxes[:, :2]
    around = [along + across, along - across, -along - across, -along + across]
    return np.stack([centres + corner for corner in around], axis=1).astype(np.float32)


def one_body(
    points: Array, scores: Array, names: tuple[str, ...], labels: tuple[str, ...],
    min_score: float, geometry: Geometry,
) -> Keypoints:  # fmt: skip
    """Points [K, 2] in source pixels of the one object there may be, as Keypoints of 0 or 1.

    It is there when a point reaches `min_score`; the box lies around those that do.
    """
    sure = scores >= min_score
    count = int(sure.any())
    limit = np.array([geometry.width, geometry.height] * 2, np.float32)
    seen = points[sure] if count else np.zeros((1, 2), np.float32)
    box = np.concatenate([seen.min(axis=0), seen.max(axis=0)]).clip(0, limit)
    score = scores[sure].mean() if count else 0.0
    return Keypoints(
        box[None, :][:count].astype(np.float32), np.array([score] * count, np.float32),
        np.zeros(count, np.int64), labels, points[None][:count].astype(np.float32),
        scores[None][:count].astype(np.float32), names,
    )  # fmt: skip


class Heatmaps:
    """One map a point [1, K, h, w] or [1, h, w, K], of one object: the point lies at the peak.

    It is moved a quarter of a cell towards the higher neighbour; the peak's value is its score.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`points` are the points' names; the first label names the object."""

        output: str = ""
        points: tuple[str, ...]
        channels: candidates.Channels = "first"

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        count = len(params.points)
        first = params.channels == "first"
        self._output = Output(
            variant, params.output, (1, count, None, None) if first else (1, None, None, count)
        )
        self._size = np.array(candidates.picture_size(variant), np.float32)
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Keypoints:
        """One frame's outputs -> its points in source pixels."""
        placed = candidates.placed(geometry)
        heat = candidates.finite(self._output(raw)[0])
        if self._params.channels == "last":
            heat = heat.transpose(2, 0, 1)
        count, height, width = heat.shape
        flat = heat.reshape(count, -1)
        peaks = flat.argmax(axis=1)
        y, x = np.divmod(peaks, width)
        points: Array = np.stack([x, y], axis=1).astype(np.float32)
        inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
        x, y = x[inside], y[inside]
        maps_inside, rows = heat[inside], np.arange(len(x))
        right = maps_inside[rows, y, x + 1] - maps_inside[rows, y, x - 1]
        down = maps_inside[rows, y + 1, x] - maps_inside[rows, y - 1, x]
        points[inside] += np.stack([np.sign(right), np.sign(down)], axis=1) * np.float32(0.25)
        points = (points + 0.5) * (self._size / np.array([width, height], np.float32))
        return one_body(
            placed.points_to_source(points), flat.max(axis=1).clip(0, 1),
            self._params.points, self._labels, self._min_score, placed,
        )  # fmt: skip


class MoveNet:
    """MoveNet: [1, 1, K, 3] of one body, or [1, n, 3 K + 5] of several with boxes.

    Points are y, x, score; a body's row ends with y1, x1, y2, x2, score. All lie in 0..1.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`points` are the points' names; the first label names the object."""

        output: str = ""
        points: tuple[str, ...]
        form: Literal["one", "several"] = "one"

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        count = len(params.points)
        self._output = Output(
            variant,
            params.output,
            (1, 1, count, 3) if params.form == "one" else (1, None, 3 * count + 5),
        )
        self._size = np.array(candidates.picture_size(variant), np.float32)
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Keypoints:
        """One frame's outputs -> its bodies in source pixels, best first."""
        placed = candidates.placed(geometry)
        table = candidates.finite(self._output(raw))
        if self._params.form == "one":
            body = table[0, 0]
            points = placed.points_to_source(body[:, [1, 0]] * self._size)
            return one_body(
                points, body[:, 2], self._params.points, self._labels, self._min_score, placed
            )
        rows = table[0]
        rows = rows[rows[:, -1] >= self._min_score]
        rows = rows[np.argsort(-rows[:, -1], kind="stable")]
        boxes = rows[:, [-4, -5, -2, -3]] * np.tile(self._size, 2)
        bodies = rows[:, :-5].reshape(len(rows), len(self._params.points), 3)
        found = candidates.detections(placed, boxes, rows[:, -1], np.zeros(len(rows)), self._labels)
        return Keypoints(
            found.boxes, found.scores, found.classes, self._labels,
            placed.points_to_source(bodies[..., [1, 0]] * self._size),
            bodies[..., 2].copy(), self._params.points,
        )  # fmt: skip
