"""Detection by a grid of cells, as our own recipes emit it: boxes and class scores -> Detections.

Candidates below the threshold are dropped before anything else is computed on them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from edge.errors import BundleError, FrameError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.types import Array, Detections, Geometry


class LtrbGrid:
    """Anchor-free single-scale head, as in FCOS (Tian et al. 2019, eq. 1).

    The input is seen as a grid of cells of `stride` pixels, rows first. The output `boxes`
    [1, cells, 4] holds the distances from a cell's centre to the box's left, top, right and
    bottom, in strides; `scores` [1, cells, C] lie in 0..1.
    """

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`stride` in input pixels; `boxes` and `scores` name the two outputs."""

        stride: int
        boxes: str = "ltrb"
        scores: str = "scores"
        nms_iou: float = 0.5
        class_aware_nms: bool = True
        max_candidates: int = 1000

        def __post_init__(self) -> None:
            if self.stride < 1 or self.max_candidates < 1:
                raise ValueError("stride and max_candidates must be 1 or more")

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        if len(variant.inputs) != 1 or len(variant.inputs[0].shape) != 4:
            raise BundleError(f"{variant.name}: ltrb_grid needs one input, a picture")
        (spec,) = variant.inputs
        height, width = spec.shape[2:] if spec.layout == "nchw" else spec.shape[1:3]
        columns = width // params.stride
        cells = columns * (height // params.stride)
        shapes = {output.name: output.shape for output in variant.outputs}
        wanted = {params.boxes: (1, cells, 4), params.scores: (1, cells, len(labels))}
        for name, shape in wanted.items():
            if shapes.get(name) != shape:
                raise BundleError(
                    f"{variant.name}: output {name} has shape {shapes.get(name)}, not {shape}"
                )
        self._params = params
        self._labels = labels
        self._min_score = min_score
        y, x = np.divmod(np.arange(cells, dtype=np.float32), columns)
        self._centres = np.stack([x + 0.5, y + 0.5], axis=1)

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Detections:
        """One frame's outputs -> its boxes in source pixels, best first."""
        if geometry is None:
            raise FrameError("detections need a picture, not a window of samples")
        scores = raw[self._params.scores][0]
        best = candidates.finite(np.maximum.reduce(scores, axis=1))
        (cells,) = (best >= self._min_score).nonzero()
        cells = candidates.best_rows(best, cells, self._params.max_candidates)
        if not len(cells):
            return Detections.empty(self._labels)
        distances = candidates.finite(raw[self._params.boxes][0][cells])
        boxes = candidates.around(self._centres[cells], distances)
        boxes = (boxes * self._params.stride).astype(np.float32)
        classes, best = scores[cells].argmax(axis=1), best[cells]
        keep = candidates.suppress(
            boxes,
            best,
            classes,
            iou=self._params.nms_iou,
            class_aware=self._params.class_aware_nms,
        )
        return candidates.detections(geometry, boxes[keep], best[keep], classes[keep], self._labels)
