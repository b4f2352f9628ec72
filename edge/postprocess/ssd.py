"""Boxes and scores in outputs of their own: chosen by the graph, decoded by it, or as offsets from
anchors. Formulas: Liu et al. 2016 (SSD, eq. 2), Carion et al. 2020 (DETR), Bazarevsky et al. 2019
(BlazeFace, linear sizes and points).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.postprocess.candidates import Activation, BoxForm, Channels, Output
from edge.types import Array, Detections, Geometry, Keypoints

Background = Literal["none", "first", "last"]


class Listed:
    """A finished list: boxes [1, n, 4], scores [1, n], classes [1, n] and perhaps their count [1],
    as TFLite_Detection_PostProcess and graphs with suppression inside give it.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """Names of the outputs; `form` of the boxes, `normalised` ones lie in 0..1.

        Class numbers count from `first_class`; what lies below it is no object.
        """

        boxes: str
        scores: str
        classes: str
        count: str = ""
        form: BoxForm = "yxyx"
        normalised: bool = True
        first_class: int = 0

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._boxes = Output(variant, params.boxes, (1, None, 4), (None, 4))
        self._scores = Output(variant, params.scores, (1, None), (None,), (1, None, 1))
        self._classes = Output(variant, params.classes, (1, None), (None,), (1, None, 1))
        self._count = Output(variant, params.count) if params.count else None
        self._params = params
        self._labels = labels
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=params.normalised)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        scores = self._scores(raw).reshape(-1)
        if self._count is not None:
            count = candidates.finite(self._count(raw)).reshape(-1)
            scores = scores[: max(0, int(count[0]))] if count.size else scores
        (rows,) = np.nonzero(candidates.finite(scores) >= self._min_score)
        classes = candidates.finite(self._classes(raw).reshape(-1)[rows]) - self._params.first_class
        rows, classes = rows[classes > -0.5], classes[classes > -0.5]
        order = np.argsort(-scores[rows], kind="stable")
        rows, classes = rows[order], candidates.known_classes(classes[order], len(self._labels))
        boxes = candidates.finite(self._boxes(raw).reshape(-1, 4)[rows])
        boxes = candidates.corners(boxes, self._params.form) * self._scale
        return candidates.detections(placed, boxes, scores[rows], classes, self._labels)


class BoxesScores:
    """Decoded boxes [1, N, 4] beside class values [1, N, C] (UltraFace, heads in two parts)."""

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """Names of the outputs; `channels` first is [1, 4, N] and [1, C, N].

        `background` says whether the first or last class means no object.
        """

        boxes: str
        scores: str
        form: BoxForm = "xyxy"
        normalised: bool = True
        channels: Channels = "last"
        activation: Activation = "none"
        background: Background = "none"
        nms_iou: float = 0.5
        class_aware_nms: bool = True
        max_candidates: int = 1000

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        columns = len(labels) + (params.background != "none")
        last = params.channels == "last"
        self._boxes = Output(variant, params.boxes, (1, None, 4) if last else (1, 4, None))
        self._scores = Output(
            variant, params.scores, (1, None, columns) if last else (1, columns, None)
        )
        self._params = params
        self._labels = labels
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=params.normalised)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        params = self._params
        scores, stored = self._scores(raw)[0], self._boxes.stored(raw)[0]
        if params.channels == "first":
            scores, stored = scores.T, stored.T
        best = class_best(scores, params.activation, params.background, self._min_score,
                          params.max_candidates)  # fmt: skip
        boxes = candidates.finite(self._boxes.real(stored[best.rows]))
        boxes = candidates.corners(boxes, params.form) * self._scale
        keep = candidates.suppress(
            boxes, best.scores, best.classes, iou=params.nms_iou, class_aware=params.class_aware_nms
        )
        return candidates.detections(
            placed, boxes[keep], best.scores[keep], best.classes[keep], self._labels
        )


def class_best(
    values: Array, activation: Activation, background: Background, min_score: float, most: int
) -> candidates.Best:
    """As candidates.best_of, for values of which one class may be the background."""
    if activation == "softmax":
        values, activation = candidates.softmax(values), "none"
    if background == "first":
        values = values[:, 1:]
    elif background == "last":
        values = values[:, :-1]
    return candidates.best_of(values, min_score=min_score, most=most, activation=activation)


class Detr:
    """Queries: class logits [1, Q, C] and boxes x, y, w, h in 0..1 [1, Q, 4]; no suppression.

    `activation` sigmoid (RT-DETR, D-FINE, Deformable DETR): every class of a query stands for
    itself. softmax (DETR): one class a query, and the last logit means no object.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """Names of the outputs."""

        logits: str
        boxes: str
        activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
        max_candidates: int = 300

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        columns = len(labels) + (params.activation == "softmax")
        self._logits = Output(variant, params.logits, (1, None, columns))
        self._boxes = Output(variant, params.boxes, (1, None, 4))
        self._params = params
        self._labels = labels
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=True)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        logits = candidates.finite(self._logits(raw)[0])
        activation, most = self._params.activation, self._params.max_candidates
        if activation == "softmax":
            best = class_best(logits, "softmax", "last", self._min_score, most)
        else:
            # Every (query, class) pair is a candidate of its own.
            pairs = candidates.best_of(
                logits.reshape(-1, 1), min_score=self._min_score, most=most, activation=activation
            )
            queries, classes = np.divmod(pairs.rows, logits.shape[1])
            best = candidates.Best(queries, classes, pairs.scores)
        order = np.argsort(-best.scores, kind="stable")
        rows = best.rows[order]
        boxes = candidates.finite(self._boxes.real(self._boxes.stored(raw)[0][rows])) * self._scale
        return candidates.detections(
            placed,
            candidates.corners(boxes, "cxcywh"),
            best.scores[order],
            best.classes[order],
            self._labels,
        )


class Anchors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anchors of one grid: centres of cells of `stride` input pixels, and `sizes` [w, h] there."""

    stride: float
    sizes: tuple[tuple[float, float], ...]


class SsdAnchors:
    """Offsets from anchors [1, N, 4 + 2 K] and class values [1, N, C], as a raw SSD head gives.

    `exp`: centre = anchor + offset * variance * size, size = anchor size * exp(offset * variance).
    `linear` (BlazeFace): both are offset * variance * size. K points follow the box there.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """Names of the outputs; `anchors` grid by grid, cell by cell, size by size.

        `order` of the four offsets, `variances` in that of x, y, w, h. With `points` named, each
        detection has them.
        """

        boxes: str
        scores: str
        anchors: tuple[Anchors, ...]
        coding: Literal["exp", "linear"] = "exp"
        order: Literal["xywh", "yxhw"] = "xywh"
        variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
        points: tuple[str, ...] = ()
        activation: Activation = "softmax"
        background: Background = "first"
        nms_iou: float = 0.5
        class_aware_nms: bool = True
        max_candidates: int = 1000

        def __post_init__(self) -> None:
            if not self.anchors or any(
                level.stride <= 0 or not level.sizes for level in self.anchors
            ):
                raise ValueError("anchors need grids with a stride above 0 and sizes")

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._anchors = anchor_table(candidates.picture_size(variant), params.anchors)
        count = len(self._anchors)
        columns = len(labels) + (params.background != "none")
        self._boxes = Output(variant, params.boxes, (1, count, 4 + 2 * len(params.points)))
        self._scores = Output(variant, params.scores, (1, count, columns), (1, count * columns))
        if params.points and params.coding == "exp":
            raise BundleError(f"{variant.name}: points are known beside linear boxes only")
        self._shape = (count, columns)
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        params = self._params
        values = self._scores(raw).reshape(self._shape)
        best = class_best(values, params.activation, params.background, self._min_score,
                          params.max_candidates)  # fmt: skip
        offsets = candidates.finite(self._boxes.real(self._boxes.stored(raw)[0][best.rows]))
        anchors = self._anchors[best.rows]
        boxes = candidates.corners(self._decoded(offsets[:, :4], anchors), "cxcywh")
        keep = candidates.suppress(
            boxes, best.scores, best.classes, iou=params.nms_iou, class_aware=params.class_aware_nms
        )
        found = candidates.detections(
            placed, boxes[keep], best.scores[keep], best.classes[keep], self._labels
        )
        if not params.points:
            return found
        variance = np.array(params.variances[:2], np.float32)
        points = offsets[keep, 4:].reshape(len(keep), len(params.points), 2)
        if params.order == "yxhw":
            points = points[..., ::-1]
        points = points * variance * anchors[keep, None, 2:] + anchors[keep, None, :2]
        return Keypoints(
            found.boxes, found.scores, found.classes, self._labels,
            placed.points_to_source(points),
            np.repeat(found.scores[:, None], len(params.points), axis=1),
            params.points,
        )  # fmt: skip

    def _decoded(self, offsets: Array, anchors: Array) -> Array:
        if self._params.order == "yxhw":
            offsets = offsets[:, [1, 0, 3, 2]]
        moved = offsets * np.array(self._params.variances, np.float32)
        centres = anchors[:, :2] + moved[:, :2] * anchors[:, 2:]
        with np.errstate(over="ignore"):
            raised = np.exp(moved[:, 2:]) if self._params.coding == "exp" else moved[:, 2:]
        return candidates.finite(np.concatenate([centres, raised * anchors[:, 2:]], axis=1))


def anchor_table(size: tuple[int, int], levels: tuple[Anchors, ...]) -> Array:
    """Anchors x, y, w, h [N, 4] in input pixels over a picture of width and height `size`."""
    tables = []
    for level in levels:
        centres, _ = candidates.cells(size, (level.stride,), offset=0.5)
        sizes = np.array(level.sizes, np.float32)
        tables.append(
            np.concatenate(
                [np.repeat(centres, len(sizes), axis=0), np.tile(sizes, (len(centres), 1))], axis=1
            )
        )
    return np.concatenate(tables)
