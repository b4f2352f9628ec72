"""Maps over the picture: class maps, anomaly and depth -> the same over the source.

A model's map covers its input; the prediction's covers the source, in cells of about the same size,
with nothing where the model did not look (outside of a crop or of the region of interest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from edge.errors import BundleError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.postprocess.candidates import Activation, Channels, Output
from edge.types import UNSEEN, Array, Geometry, Segmentation
from edge.types import Anomaly as Unusual
from edge.types import Depth as Distances

MAX_SIDE = 1024


def sample(
    values: Array,
    geometry: Geometry,
    input_size: tuple[int, int],
    *,
    window: tuple[float, float, float, float],
    grid: tuple[int, int],
    smooth: bool,
) -> tuple[Array, Array]:
    """A map [h, w] over the input, seen through a window of the source cut into `grid` cells.

    `window` is x1, y1, x2, y2 in source pixels, `grid` columns and rows. Returns the values
    [rows, columns] (linear between cells when `smooth`, else of the nearest) and which cells the
    model has seen.
    """
    import cv2

    (columns, rows), (x1, y1, x2, y2) = grid, window
    to_input = np.linalg.inv(geometry.matrix[:, :2].astype(np.float64))
    step = np.array([[(x2 - x1) / columns, 0], [0, (y2 - y1) / rows]])
    first = np.array([x1, y1]) + step.sum(axis=0) / 2
    turn = to_input @ step  # a cell of the grid -> input pixels
    start = to_input @ (first - geometry.matrix[:, 2])
    per_cell = np.array(
        [values.shape[1] / input_size[0], values.shape[0] / input_size[1]], np.float64
    )
    affine = np.concatenate([turn * per_cell[:, None], (start * per_cell - 0.5)[:, None]], axis=1)
    mapped = cv2.warpAffine(
        np.ascontiguousarray(values),
        affine,
        (columns, rows),
        flags=(cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    ends = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]])
    reached = ends @ turn.T + start
    if ((reached >= 0) & (reached <= input_size)).all():
        return mapped, np.ones((rows, columns), bool)
    y, x = np.mgrid[0:rows, 0:columns]
    places = np.stack([x, y], axis=-1) @ turn.T + start
    return mapped, ((places >= 0) & (places <= input_size)).all(axis=-1)


def over_source(
    values: Array, geometry: Geometry, input_size: tuple[int, int], *, smooth: bool
) -> tuple[Array, Array]:
    """A map over the input -> a map over the whole source, and which of its cells were seen."""
    pixels = np.abs(geometry.matrix[:, :2]).sum(axis=1)  # source pixels for one of the input
    density = values.shape[1] / input_size[0], values.shape[0] / input_size[1]
    turned = abs(geometry.matrix[0, 0]) < abs(geometry.matrix[0, 1])
    density = density[::-1] if turned else density
    columns, rows = (
        int(np.clip(round(side / float(step) * dense), 1, min(side, MAX_SIDE)))
        for side, step, dense in zip(
            (geometry.width, geometry.height), pixels, density, strict=True
        )
    )
    window = (0.0, 0.0, float(geometry.width), float(geometry.height))
    return sample(values, geometry, input_size, window=window, grid=(columns, rows), smooth=smooth)


def plane(output: Output, raw: Mapping[str, Array]) -> Array:
    """A map [h, w] out of [1, h, w], [1, 1, h, w] or [1, h, w, 1], finite."""
    values = output(raw)
    shape = values.shape[1:-1] if values.shape[-1] == 1 else values.shape[-2:]
    return candidates.finite(values).reshape(shape)


class Semantic:
    """Class values of every cell [1, C, h, w] or [1, h, w, C], or class numbers [1, h, w].

    The class is the one with the highest value. One plane for two labels is the chance of the
    second one: `activation` makes it lie in 0..1, the score threshold decides.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`form`: values of all classes, one plane of chances, or class numbers."""

        output: str = ""
        form: Literal["values", "chance", "numbers"] = "values"
        channels: Channels = "first"
        activation: Activation = "none"

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        planes = len(labels) if params.form == "values" else 1
        first = params.channels == "first"
        shapes: list[tuple[int | None, ...]] = [
            (1, planes, None, None) if first else (1, None, None, planes)
        ]
        if planes == 1:
            shapes.append((1, None, None))
        if params.form == "chance" and len(labels) != 2:
            raise BundleError(f"{variant.name}: one plane of chances needs two labels")
        self._output = Output(variant, params.output, *shapes)
        self._size = candidates.picture_size(variant)
        self._params = params
        self._labels = labels
        self._min_score = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Segmentation:
        """One frame's outputs -> the class of every cell of the source."""
        placed = candidates.placed(geometry)
        params = self._params
        if params.form == "values":
            values = candidates.finite(self._output(raw)[0])
            classes = values.argmax(axis=0 if params.channels == "first" else 2)
        else:
            values = plane(self._output, raw)
            if params.form == "chance":
                chances = candidates.sigmoid(values) if params.activation == "sigmoid" else values
                classes = chances >= self._min_score
            else:
                classes = values.round().clip(0, len(self._labels) - 1)
        mapped, seen = over_source(classes.astype(np.int16), placed, self._size, smooth=False)
        return Segmentation(np.where(seen, mapped, np.int16(UNSEEN)), self._labels)


class Anomaly:
    """A score [1] or [1, 1] in 0..1, a map [1, h, w] of scores, or both.

    Without a score the map's highest value is it. Anomalous from the score threshold on.
    """

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """Names of the outputs; one of them at least."""

        score: str = ""
        map: str = ""

        def __post_init__(self) -> None:
            if not self.score and not self.map:
                raise ValueError("anomaly needs the name of a score, of a map, or of both")

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._score = Output(variant, params.score) if params.score else None
        self._map = None
        if params.map:
            self._map = Output(
                variant, params.map, (1, None, None), (1, 1, None, None), (1, None, None, 1)
            )
            self._size = candidates.picture_size(variant)
        self._threshold = min_score

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Unusual:
        """One frame's outputs -> how unusual it is, and where."""
        score = None if self._score is None else candidates.finite(self._score(raw)).reshape(-1)
        if self._map is None:
            assert score is not None  # one of them is there
            return Unusual(score=float(score[0]), threshold=self._threshold)
        placed = candidates.placed(geometry)
        values = plane(self._map, raw)
        mapped, seen = over_source(values, placed, self._size, smooth=True)
        return Unusual(
            score=float(values.max() if score is None else score[0]),
            threshold=self._threshold,
            map=np.where(seen, mapped, np.float32(np.nan)),
        )


class Depth:
    """A map [1, h, w], [1, 1, h, w] or [1, h, w, 1] of distances, or of nearness."""

    class Params(
        msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
    ):
        """`unit` of the values: m, or relative (the larger the nearer)."""

        output: str = ""
        unit: Literal["relative", "m"] = "relative"

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._output = Output(
            variant, params.output, (1, None, None), (1, 1, None, None), (1, None, None, 1)
        )
        self._size = candidates.picture_size(variant)
        self._unit = params.unit

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Distances:
        """One frame's output -> the depth of every cell of the source."""
        placed = candidates.placed(geometry)
        mapped, seen = over_source(plane(self._output, raw), placed, self._size, smooth=True)
        return Distances(map=np.where(seen, mapped, np.float32(np.nan)), unit=self._unit)
