"""The YOLO family: one table of candidates, a row each, -> Detections.

Boxes are decoded by the graph except for YOLOX. Formulas: Ultralytics' detection head and
`non_max_suppression` (v5 to v12), Wang et al. 2024 (v10, no suppression), Ge et al. 2021 (YOLOX).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.postprocess.candidates import BoxForm, Channels, Output
from edge.types import Array, Detections, Geometry

_LARGEST = np.float32(20)
"""A box of e^20 cells is larger than any picture; more would overflow."""
_HALF = np.float32(0.5)


class TableParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How a table of candidates lies in its output.

    `channels` first is [1, columns, N], last [1, N, columns]. `normalised` boxes lie in 0..1.
    `end_to_end` rows are x1, y1, x2, y2, score, class, …, chosen by the graph; else x, y, w, h, C
    class scores, …. `nms_iou` 1 suppresses nothing.
    """

    output: str = ""
    channels: Channels = "first"
    normalised: bool = False
    end_to_end: bool = False
    nms_iou: float = 0.5
    class_aware_nms: bool = True
    max_candidates: int = 1000

    def __post_init__(self) -> None:
        if self.max_candidates < 1 or not 0 <= self.nms_iou <= 1:
            raise ValueError("max_candidates must be 1 or more, nms_iou in 0..1")


class Rows(NamedTuple):
    """Candidates above the threshold: boxes as the table has them, and the rest of their rows."""

    boxes: Array
    scores: Array
    classes: Array
    rest: Array


class Table:
    """Reads the rows of a head that reach the threshold; the boxes come in input pixels."""

    def __init__(
        self,
        params: TableParams,
        variant: Variant,
        *,
        classes: int,
        min_score: float,
        rest: int = 0,
    ) -> None:
        """`rest` columns follow the classes. BundleError when the output is not such a table."""
        columns = (6 if params.end_to_end else 4 + classes) + rest
        if params.end_to_end:
            shapes: tuple[tuple[int | None, ...], ...] = ((1, None, columns), (None, columns))
        else:
            first = params.channels == "first"
            shapes = ((1, columns, None) if first else (1, None, columns),)
        self._output = Output(variant, params.output, *shapes)
        self._params = params
        self._classes = classes
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=params.normalised)

    def __call__(self, raw: Mapping[str, Array]) -> Rows:
        """The rows worth decoding, boxes as xyxy (end to end) or x, y, w, h about the centre."""
        params = self._params
        stored = self._output.stored(raw)
        table = stored if stored.ndim == 2 else stored[0]
        if params.end_to_end:
            return self._chosen(table)
        if params.channels == "first":
            table = table.T
        scores = self._output.real(table[:, 4 : 4 + self._classes])
        best = candidates.best_of(scores, min_score=self._min_score, most=params.max_candidates)
        rows = candidates.finite(self._output.real(table[best.rows]))
        return Rows(
            rows[:, :4] * self._scale, best.scores, best.classes, rows[:, 4 + self._classes :]
        )

    def _chosen(self, table: Array) -> Rows:
        scores = candidates.finite(self._output.real(table[:, 4]))
        (rows,) = np.nonzero(scores >= self._min_score)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        found = candidates.finite(self._output.real(table[rows]))
        classes = candidates.known_classes(found[:, 5], self._classes)
        return Rows(found[:, :4] * self._scale, found[:, 4], classes, found[:, 6:])

    def suppressed(self, rows: Rows) -> Rows:
        """Boxes as xyxy, without those that a better one covers; best first."""
        params = self._params
        if params.end_to_end:
            return rows
        boxes = candidates.corners(rows.boxes, "cxcywh")
        keep = candidates.suppress(
            boxes,
            rows.scores,
            rows.classes,
            iou=params.nms_iou,
            class_aware=params.class_aware_nms,
        )
        return Rows(boxes[keep], rows.scores[keep], rows.classes[keep], rows.rest[keep])


class Yolov8:
    """Anchor-free heads without objectness (YOLOv8, v9, v11, v12, and RT-DETR by Ultralytics).

    Rows x, y, w, h and C class scores in 0..1: [1, 4 + C, N] or its transpose.
    """

    class Params(TableParams, frozen=True, kw_only=True):
        """See TableParams."""

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._table = Table(params, variant, classes=len(labels), min_score=min_score)
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        found = self._table.suppressed(self._table(raw))
        return candidates.detections(placed, found.boxes, found.scores, found.classes, self._labels)


class EndToEnd:
    """Heads that choose for themselves (YOLOv10, YOLO26, graphs with suppression inside).

    Rows x1, y1, x2, y2, score, class in [1, n, 6] or [n, 6]; with `batch_first` rows of
    [n, 7]: image, x1, y1, x2, y2, class, score (YOLOv7's end-to-end export).
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`normalised` boxes lie in 0..1; `boxes` is their form."""

        output: str = ""
        normalised: bool = False
        boxes: BoxForm = "xyxy"
        batch_first: bool = False

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        columns = 7 if params.batch_first else 6
        self._output = Output(variant, params.output, (1, None, columns), (None, columns))
        self._params = params
        self._labels = labels
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=params.normalised)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        table = self._output(raw)
        if table.ndim == 3:
            table = table[0]
        if self._params.batch_first:
            table = table[:, [1, 2, 3, 4, 6, 5]]
        scores = candidates.finite(table[:, 4])
        (rows,) = np.nonzero(scores >= self._min_score)
        found = candidates.finite(table[rows[np.argsort(-scores[rows], kind="stable")]])
        boxes = candidates.corners(found[:, :4], self._params.boxes) * self._scale
        classes = candidates.known_classes(found[:, 5], len(self._labels))
        return candidates.detections(placed, boxes, found[:, 4], classes, self._labels)


class Yolov5:
    """Heads with objectness, decoded by the graph (YOLOv5, v6, v7; YOLOX with decoding inside).

    Rows x, y, w, h, objectness and C class scores, all in 0..1; score = objectness * class.
    """

    class Params(TableParams, frozen=True, kw_only=True):
        """See TableParams; `end_to_end` is not for this head."""

        channels: Channels = "last"

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        if params.end_to_end:
            raise BundleError(f"{variant.name}: an end-to-end head is decoded by end_to_end")
        columns = 5 + len(labels)
        last = params.channels == "last"
        count = self._count(params, variant)
        self._output = Output(
            variant, params.output, (1, count, columns) if last else (1, columns, count)
        )
        self._params = params
        self._labels = labels
        self._min_score = min_score
        self._scale = candidates.box_scale(variant, normalised=params.normalised)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        placed = candidates.placed(geometry)
        table = self._output.stored(raw)[0]
        if self._params.channels == "first":
            table = table.T
        rows, found, classes = self._best(table)
        sized = self._sized(found[:4], rows)
        keep = candidates.suppress_sized(
            sized,
            found[4],
            classes,
            iou=self._params.nms_iou,
            class_aware=self._params.class_aware_nms,
        )
        boxes = sized.take(keep, axis=1)
        boxes[2:] += boxes[:2]
        return candidates.detections(
            placed, boxes.T, found[4].take(keep), classes.take(keep), self._labels
        )

    def _count(self, params: Params, variant: Variant) -> int | None:
        """How many candidates there must be, where that can be told."""
        return None

    def _best(self, table: Array) -> tuple[Array, Array, Array]:
        """The candidates that reach the threshold: their rows [n], x, y, w, h and score [5, n], and
        classes [n]. Columns become rows, since arithmetic on [2, n] costs less than on [n, 2]."""
        # A class score is at most 1, so that objectness alone drops nearly everything. What is
        # not a number is not below the threshold either: its row stays, and is refused.
        (rows,) = (~(self._output.real(table[:, 4]) < self._min_score)).nonzero()
        values = self._output.real(table[rows])
        classes = values[:, 5:].argmax(axis=1)
        found = values.T[:5].copy()
        found[4] *= values.ravel().take(classes + np.arange(5, values.size, values.shape[1]))
        candidates.finite(found)
        (kept,) = (found[4] >= self._min_score).nonzero()
        kept = candidates.best_rows(found[4], kept, self._params.max_candidates)
        return rows.take(kept), found.take(kept, axis=1), classes.take(kept)

    def _sized(self, boxes: Array, rows: Array) -> Array:
        """Raw boxes [4, n] of these rows -> x1, y1, width, height in input pixels."""
        boxes *= self._scale[:, None]
        boxes[:2] -= boxes[2:] * _HALF
        return boxes


class Yolox(Yolov5):
    """YOLOX without decoding in the graph: x, y = (raw + cell) * stride, w, h = exp(raw) * stride.

    Cells of all strides follow one another, row by row.
    """

    class Params(Yolov5.Params, frozen=True, kw_only=True):
        """See TableParams; `strides` in input pixels."""

        strides: tuple[int, ...] = (8, 16, 32)

        def __post_init__(self) -> None:
            Yolov5.Params.__post_init__(self)
            if not self.strides or min(self.strides) < 1:
                raise ValueError("strides must be 1 or more")

    def _count(self, params: Yolov5.Params, variant: Variant) -> int:
        strides = params.strides if isinstance(params, Yolox.Params) else ()
        size = candidates.picture_size(variant)
        cells, lengths = candidates.cells(size, strides, offset=0)
        self._grid = np.stack([*cells.T, lengths])
        return len(cells)

    def _sized(self, boxes: Array, rows: Array) -> Array:
        corner, size, grid = boxes[:2], boxes[2:], self._grid.take(rows, axis=1)
        np.minimum(size, _LARGEST, out=size)
        np.exp(size, out=size)
        size *= grid[2]
        corner *= grid[2]
        corner += grid[:2]
        corner -= size * _HALF
        return boxes
