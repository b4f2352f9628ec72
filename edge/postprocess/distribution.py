"""Heads that say a box's sides as distributions over distances, or one box a cell on one grid.

Formulas: Generalized Focal Loss (Li et al. 2020, eq. 6) for NanoDet and PicoDet; FastestDet's own
`handle_preds` (dog-qiuqiu/FastestDet).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.postprocess.candidates import Activation, Output
from edge.types import Array, Detections, Geometry


class Distribution:
    """NanoDet and PicoDet: C class values and 4 * bins logits of each cell, grid by grid.

    They stand side by side in one output [1, N, C + 4 * bins], or in outputs of their own: one pair
    [1, n, C] and [1, n, 4 * bins] for all grids or for each.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`output` for both, or `scores` and `boxes`, one name a grid or one for all.

        `offset` is where in its cell a place lies: 0 (NanoDet-Plus) or 0.5 (NanoDet, PicoDet).
        """

        output: str = ""
        scores: tuple[str, ...] = ()
        boxes: tuple[str, ...] = ()
        strides: tuple[int, ...] = (8, 16, 32, 64)
        bins: int = 8
        offset: float = 0.5
        activation: Activation = "none"
        nms_iou: float = 0.6
        class_aware_nms: bool = True
        max_candidates: int = 1000

        def __post_init__(self) -> None:
            if not self.strides or min(self.strides) < 1 or self.bins < 2:
                raise ValueError("strides must be 1 or more, bins 2 or more")
            if len(self.scores) != len(self.boxes):
                raise ValueError("as many names of scores as of boxes")
            if len(self.scores) > 1 and len(self.scores) != len(self.strides):
                raise ValueError("one name of scores and boxes a stride, or one for all")

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        size = candidates.picture_size(variant)
        self._places, self._strides = candidates.cells(size, params.strides, offset=params.offset)
        columns = 4 * params.bins
        counts = [len(candidates.cells(size, (stride,), offset=0)[1]) for stride in params.strides]
        if len(params.scores) < 2:
            counts = [sum(counts)]
        if params.scores:
            self._outputs = [
                (Output(variant, scores, (1, count, len(labels))),
                 Output(variant, boxes, (1, count, columns)))
                for scores, boxes, count in zip(params.scores, params.boxes, counts, strict=True)
            ]  # fmt: skip
        else:
            both = Output(variant, params.output, (1, counts[0], len(labels) + columns))
            self._outputs = [(both, both)]
        self._together = not params.scores
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        params, classes = self._params, len(self._labels)
        scores, boxes_raw = [], []
        for score_output, box_output in self._outputs:
            table = score_output.stored(raw)[0]
            scores.append(score_output.real(table[:, :classes]))
            sides = table[:, classes:] if self._together else box_output.stored(raw)[0]
            boxes_raw.append(box_output.real(sides))
        best = candidates.best_of(
            np.concatenate(scores),
            min_score=self._min_score,
            most=params.max_candidates,
            activation=params.activation,
        )
        logits = candidates.finite(np.concatenate(boxes_raw)[best.rows])
        distances = candidates.expected_distances(logits, params.bins)
        boxes = candidates.around(
            self._places[best.rows], distances * self._strides[best.rows, None]
        )
        keep = candidates.suppress(
            boxes, best.scores, best.classes, iou=params.nms_iou, class_aware=params.class_aware_nms
        )
        return candidates.detections(
            placed, boxes[keep], best.scores[keep], best.classes[keep], self._labels
        )


class FastestDet:
    """One box a cell on one grid [1, 5 + C, h, w]: objectness, 4 raw numbers, C class chances.

    score = objectness^0.6 * class^0.4; centre = (cell + tanh(x, y)) / grid; size = sigmoid(w, h)
    of the input.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`output` may be left out where there is only one."""

        output: str = ""
        nms_iou: float = 0.45
        class_aware_nms: bool = True
        max_candidates: int = 1000

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._output = Output(variant, params.output, (1, 5 + len(labels), None, None))
        self._size = np.array(candidates.picture_size(variant), np.float32)
        if not labels:
            raise BundleError(f"{variant.name}: a detector needs labels")
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        params = self._params
        stored = self._output.stored(raw)[0]
        columns = stored.shape[2]
        table = stored.reshape(stored.shape[0], -1).T
        objectness = candidates.finite(self._output.real(table[:, 0])).clip(0, 1)
        # A class chance is at most 1, so that objectness alone drops nearly everything.
        (rows,) = np.nonzero(objectness**0.6 >= self._min_score)
        values = candidates.finite(self._output.real(table[rows]))
        classes = values[:, 5:].argmax(axis=1)
        chances = values[np.arange(len(rows)), 5 + classes].clip(0, 1)
        scores = objectness[rows] ** 0.6 * chances**0.4
        (kept,) = np.nonzero(scores >= self._min_score)
        kept = candidates.best_rows(scores, kept, params.max_candidates)
        rows, values, scores, classes = rows[kept], values[kept], scores[kept], classes[kept]
        y, x = np.divmod(rows, columns)
        cells = np.stack([x, y], axis=1)
        grid = np.array([columns, stored.shape[1]], np.float32)
        centres = (cells + np.tanh(values[:, 1:3])) / grid * self._size
        sizes = candidates.sigmoid(values[:, 3:5]) * self._size
        boxes = candidates.corners(np.concatenate([centres, sizes], axis=1), "cxcywh")
        keep = candidates.suppress(
            boxes, scores, classes, iou=params.nms_iou, class_aware=params.class_aware_nms
        )
        return candidates.detections(placed, boxes[keep], scores[keep], classes[keep], self._labels)
