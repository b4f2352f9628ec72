"""What is measured of one picture to tell whether it is any good. Pure, and cheap.

Of a 1080p picture 48 pairs of rows are looked at, halved to 960 grey columns: enough for noise to
cancel out, while edges as sharp as a good lens draws them stay edges.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edge.quality.view import GRID
from edge.types import Array

_BANDS, _LEAST_COLUMNS = 48, 640
_LEAST_WIDTH = 32
_SMALL = (160, 48)
_COARSE = 1 / 71
"""The share of the width over which an edge is taken as a whole."""
_CLIPPED = 250
_MOST = 0.995
_LEAST_CONTRAST = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """`brightness`: the 95th percentile of grey. `clipped`: the share at the white end. `contrast`:
    the grey levels by which the strongest edges differ. `sharpness`: how much of that lies between
    two neighbours; None where there are no edges to speak of. `structure` float32 [blocks, cells]:
    the small picture less its surroundings. `grey` uint8: what was looked at."""

    brightness: float
    clipped: float
    contrast: float
    sharpness: float | None
    structure: Array
    grey: Array


def measure(picture: Array) -> Measures:
    """One picture, uint8 [H, W, 3] BGR."""
    import cv2

    grey = _grey(picture)
    small = cv2.resize(grey, _SMALL, interpolation=cv2.INTER_AREA)
    levels = _cumulative(small)
    edges = grey[::2]
    near = cv2.absdiff(edges[:, 1:], edges[:, :-1])
    step = max(3, round(grey.shape[1] * _COARSE))
    wide = cv2.blur(edges, (step, 1))
    far = cv2.absdiff(wide[:, step:], wide[:, :-step])
    contrast = _percentile(_cumulative(far), _MOST)
    sharpness = None
    if contrast >= _LEAST_CONTRAST:
        sharpness = _percentile(_cumulative(near), _MOST) / contrast
    return Measures(
        brightness=_percentile(levels, 0.95),
        clipped=float(1 - levels[_CLIPPED - 1]),
        contrast=contrast,
        sharpness=sharpness,
        structure=_structure(small),
        grey=grey,
    )


def _grey(picture: Array) -> Array:
    """Pairs of rows spread evenly over the picture, each averaged to one: uint8 [48, columns], with
    640 to 1279 columns, or those that there are."""
    import cv2

    height, width = picture.shape[:2]
    firsts = ((np.arange(_BANDS) + 0.5) * height / _BANDS).astype(int)
    rows = np.stack([firsts - 1, firsts], axis=1).clip(0, height - 1).ravel()
    halvings = max(0, (width // _LEAST_COLUMNS).bit_length() - 1)
    size = (max(_LEAST_WIDTH, width >> halvings), _BANDS)
    taken = cv2.resize(picture[rows], size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(taken, cv2.COLOR_BGR2GRAY))


def _structure(small: Array) -> Array:
    import cv2

    smooth = cv2.GaussianBlur(small, (5, 5), 1.0)
    detail = smooth.astype(np.float32) - cv2.blur(smooth, (25, 11))
    rows, columns = GRID
    blocks = detail.reshape(rows, _SMALL[1] // rows, columns, _SMALL[0] // columns)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(rows * columns, -1)


def _cumulative(values: Array) -> Array:
    """The share of values up to each level: float [256]."""
    import cv2

    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
    return np.asarray(counts.cumsum() / values.size)


def _percentile(cumulative: Array, share: float) -> float:
    """The level below which `share` of the values lie, between two levels in proportion."""
    level = int(np.searchsorted(cumulative, share))
    below = float(cumulative[level - 1]) if level else 0.0
    inside = float(cumulative[level]) - below
    return max(0.0, level - 0.5 + (share - below) / inside) if inside else float(level)
