"""Faces: ten digit masks each, from installed fonts or drawn: strokes, segments and dots.

A mask is uint8 [GLYPH_HEIGHT, width], 255 is ink. Within a face all masks have one size, the cell
of its widest digit, so that the cell of a "1" is as wide as that of an "8".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GLYPH_HEIGHT = 96
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))

# Debian package -> files. Evaluation and golden scenes use the first two packages alone, so that
# they need nothing but what a plain desktop has; training uses them all.
BASE_FONTS = {
    "fonts-dejavu": (
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "DejaVuSansCondensed.ttf",
        "DejaVuSansCondensed-Bold.ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSansMono-Bold.ttf",
    ),
    "fonts-liberation": (
        "LiberationSans-Regular.ttf",
        "LiberationSans-Bold.ttf",
        "LiberationSansNarrow-Regular.ttf",
        "LiberationSansNarrow-Bold.ttf",
        "LiberationMono-Bold.ttf",
    ),
}
MORE_FONTS = {
    "fonts-freefont-ttf": ("FreeSans.ttf", "FreeSansBold.ttf", "FreeMonoBold.ttf"),
    "fonts-roboto-unhinted": (
        "Roboto-Medium.ttf",
        "RobotoCondensed-Regular.ttf",
        "RobotoCondensed-Bold.ttf",
    ),
    "fonts-open-sans": ("OpenSans-Semibold.ttf", "OpenSans-CondBold.ttf", "OpenSans-CondLight.ttf"),
    "fonts-lato": ("Lato-Medium.ttf", "Lato-Bold.ttf"),
}

# The segments that are lit: a top, b upper right, c lower right, d bottom, e lower left,
# f upper left, g middle. Some displays leave the tails of 6 and 9 out or give 7 a hook.
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
SEGMENT_VARIANTS = {6: "fgedc", 7: "fabc", 9: "abcfg"}
INNER_SIDE = {"a": 1, "b": 1, "c": 1, "d": -1, "e": -1, "f": -1}  # of a mitred segment; g has none

DOTS = (
    ("01110", "10001", "10011", "10101", "11001", "10001", "01110"),
    ("00100", "01100", "00100", "00100", "00100", "00100", "01110"),
    ("01110", "10001", "00001", "00010", "00100", "01000", "11111"),
    ("11111", "00010", "00100", "00010", "00001", "10001", "01110"),
    ("00010", "00110", "01010", "10010", "11111", "00010", "00010"),
    ("11111", "10000", "11110", "00001", "00001", "10001", "01110"),
    ("00110", "01000", "10000", "11110", "10001", "10001", "01110"),
    ("11111", "00001", "00010", "00100", "01000", "01000", "01000"),
    ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
    ("01110", "10001", "10001", "01111", "00001", "00010", "01100"),
)
# Other shapes of the same digits, and how often a face has one of them instead.
DOT_VARIANTS = {
    0: (("01110", "10001", "10001", "10001", "10001", "10001", "01110"),),
    1: (
        ("00100", "01100", "10100", "00100", "00100", "00100", "11111"),
        ("00100", "01100", "00100", "00100", "00100", "00100", "00100"),
    ),
    2: (("01110", "10001", "00001", "00110", "01000", "10000", "11111"),),
    3: (
        ("01110", "10001", "00001", "00110", "00001", "10001", "01110"),
        ("11111", "00001", "00010", "00110", "00001", "10001", "01110"),
    ),
    4: (("00001", "00011", "00101", "01001", "11111", "00001", "00001"),),
    5: (("11111", "10000", "10000", "11110", "00001", "00001", "11110"),),
    6: (("01110", "10001", "10000", "11110", "10001", "10001", "01110"),),
    7: (
        ("11111", "00001", "00010", "00100", "01000", "10000", "10000"),
        ("11111", "10001", "00010", "00100", "00100", "00100", "00100"),
        ("11111", "00001", "00001", "00010", "00100", "01000", "10000"),
    ),
    9: (("01110", "10001", "10001", "01111", "00001", "10001", "01110"),),
}
DOT_VARIANT_SHARE = 0.45


@dataclass(frozen=True)
class Face:
    """Ten digit masks of one size, and for displays the mask with everything lit."""

    name: str
    kind: str  # "font", "stroke", "segment" or "dots"
    masks: tuple[np.ndarray[Any, Any], ...]
    all_lit: np.ndarray[Any, Any] | None = None

    @property
    def aspect(self) -> float:
        """Width of the cell over its height."""
        return float(self.masks[0].shape[1] / self.masks[0].shape[0])


def missing_packages(*, base_only: bool = False) -> list[str]:
    """Debian packages to install before `faces` can work."""
    wanted = BASE_FONTS if base_only else BASE_FONTS | MORE_FONTS
    found = _font_files()
    return [package for package, names in wanted.items() if any(n not in found for n in names)]


@functools.cache
def faces(*, base_only: bool = False) -> dict[str, tuple[Face, ...]]:
    """All faces by kind. Raises FileNotFoundError that names the packages that are missing."""
    if missing := missing_packages(base_only=base_only):
        raise FileNotFoundError(f"fonts are missing: apt-get install {' '.join(missing)}")
    wanted = BASE_FONTS if base_only else BASE_FONTS | MORE_FONTS
    files = _font_files()
    rng = np.random.default_rng(7)
    return {
        "font": tuple(_font_face(files[name]) for names in wanted.values() for name in names),
        "stroke": tuple(_stroke_face(rng, i) for i in range(48)),
        "segment": tuple(_segment_face(rng, i) for i in range(48)),
        "dots": tuple(_dot_face(rng, i) for i in range(32)),
    }


@functools.cache
def _font_files() -> dict[str, Path]:
    return {path.name: path for folder in FONT_FOLDERS for path in sorted(folder.rglob("*.ttf"))}


def _font_face(path: Path) -> Face:
    font = ImageFont.truetype(str(path), 2 * GLYPH_HEIGHT)
    drawn = []
    for digit in "0123456789":
        sheet = Image.new("L", (4 * GLYPH_HEIGHT, 4 * GLYPH_HEIGHT))
        ImageDraw.Draw(sheet).text((GLYPH_HEIGHT, GLYPH_HEIGHT), digit, font=font, fill=255)
        drawn.append(np.asarray(sheet))
    inked = np.max(drawn, axis=0)
    rows = np.flatnonzero(inked.any(1))
    columns = [np.flatnonzero(one.any(0)) for one in drawn]
    width = max(c[-1] + 1 - c[0] for c in columns)
    masks = []
    for one, column in zip(drawn, columns, strict=True):
        left = (column[0] + column[-1] + 1 - width) // 2
        cell = one[rows[0] : rows[-1] + 1, left : left + width]
        size = (round(width * GLYPH_HEIGHT / cell.shape[0]), GLYPH_HEIGHT)
        masks.append(cv2.resize(cell, size, interpolation=cv2.INTER_AREA))
    return Face(path.stem, "font", tuple(masks))


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> list[Any]:
    """Points of an ellipse arc; degrees, clockwise on the screen from the right."""
    angles = np.radians(np.linspace(start, end, 17))
    return [(cx + rx * np.cos(a), cy + ry * np.sin(a)) for a in angles]


def _strokes(rng: np.random.Generator) -> list[list[list[Any]]]:
    """Poly-lines of the ten digits in the unit square; shapes that differ by maker are drawn."""
    waist = rng.uniform(0.42, 0.52)
    top, low = waist / 2, (1 + waist) / 2
    rt, rl = waist / 2, (1 - waist) / 2
    small = rng.uniform(0.4, 0.5)
    six_start = rng.uniform(280, 340)
    loop = rng.uniform(0.26, 0.32)
    six_arc = _arc(0.5, 0.5, 0.5, 0.5, 180, six_start)[::-1]
    six_loop = _arc(0.5, 1 - loop, 0.5, loop, 180, 540)
    if rng.random() < 0.4:  # a straight-backed 6, and the 9 that is its half turn
        six_arc = [(0.62, 0.0), (0.3, 0.3), (0.0, 1 - loop)]
    six = [[*six_arc, (0.0, 1 - loop)], six_loop]
    nine = [[(1 - x, 1 - y) for x, y in line] for line in six]
    one = (
        [[(0.2, 0.22), (0.55, 0.0), (0.55, 1.0)]] if rng.random() < 0.6 else [[(0.5, 0), (0.5, 1)]]
    )
    if rng.random() < 0.3:
        one.append([(0.25, 1.0), (0.85, 1.0)])
    three = [[*_arc(0.5, top, small, rt, 200, 450), *_arc(0.5, low, 0.5, rl, 270, 520)]]
    if rng.random() < 0.35:
        three = [[(0.05, 0), (0.95, 0), (0.45, 0.4), *_arc(0.5, 0.7, 0.5, 0.3, 270, 520)]]
    bar = rng.uniform(0.66, 0.78)
    if rng.random() < 0.4:  # an open 4
        stem = rng.uniform(0.65, 0.85)
        four = [[(0.35, 0), (0.0, bar), (1, bar)], [(stem, 0.4), (stem, 1)]]
    else:
        four = [[(0.75, 1), (0.75, 0), (0.0, bar), (1, bar)]]
    five = [[(0.92, 0), (0.1, 0), (0.05, 0.47), *_arc(0.45, 0.68, 0.55, 0.32, 235, 510)]]
    seven = [[(0, 0), (1, 0), (rng.uniform(0.25, 0.45), 1)]]
    if rng.random() < 0.25:
        seven.append([(0.3, 0.5), (0.85, 0.5)])
    return [
        [_arc(0.5, 0.5, 0.5, 0.5, 0, 360)],
        one,
        [[*_arc(0.5, 0.28, 0.47, 0.28, 190, 380), (0.0, 1.0), (1.0, 1.0)]],
        three,
        four,
        five,
        six,
        seven,
        [_arc(0.5, top, small, rt, 0, 360), _arc(0.5, low, 0.5, rl, 0, 360)],
        nine,
    ]


def _stroke_face(rng: np.random.Generator, index: int) -> Face:
    width = int(rng.integers(46, 74))
    pen = int(rng.integers(7, 19))
    square = rng.random() < 0.3  # superellipse: bowls become straight-sided
    span = np.array([width - pen - 2, GLYPH_HEIGHT - pen - 2])
    masks = []
    for lines in _strokes(rng):
        mask = np.zeros((GLYPH_HEIGHT, width), np.uint8)
        for line in lines:
            points = np.array(line, float)
            if square:
                centred = points - 0.5
                points[:, 0] = 0.5 + np.sign(centred[:, 0]) * np.minimum(
                    np.abs(centred[:, 0]) * 1.15, 0.5
                )
            pixels = np.round((points.clip(0, 1) * span + pen / 2 + 1) * 16).astype(np.int32)
            cv2.polylines(mask, [pixels], False, 255, pen, cv2.LINE_AA, shift=4)
        masks.append(mask)
    return Face(f"stroke{index}", "stroke", tuple(masks))


def _segment_face(rng: np.random.Generator, index: int) -> Face:
    width = int(rng.integers(40, 66))
    thick = rng.uniform(5, 17)
    gap = rng.uniform(0.5, 5.0)
    mitred = rng.random() < 0.45  # the ends are cut at 45 degrees, the outer side is the longer one
    bevel = rng.uniform(0.0, 0.5) * thick
    slant = rng.choice([0.0, rng.uniform(0.03, 0.16)])
    variants = {digit: lit for digit, lit in SEGMENT_VARIANTS.items() if rng.random() < 0.25}
    pad = int(np.ceil(slant * GLYPH_HEIGHT / 2))
    x0, x1 = thick / 2, width - thick / 2
    y0, y1, y2 = thick / 2, GLYPH_HEIGHT / 2, GLYPH_HEIGHT - thick / 2
    ends = {
        "a": (x0, y0, x1, y0),
        "b": (x1, y0, x1, y1),
        "c": (x1, y1, x1, y2),
        "d": (x0, y2, x1, y2),
        "e": (x0, y1, x0, y2),
        "f": (x0, y0, x0, y1),
        "g": (x0, y1, x1, y1),
    }

    def draw(lit: str) -> np.ndarray[Any, Any]:
        mask = np.zeros((GLYPH_HEIGHT, width + 2 * pad), np.uint8)
        for name in lit:
            start, end = np.array(ends[name][:2]), np.array(ends[name][2:])
            along = (end - start) / np.linalg.norm(end - start)
            side = np.array([-along[1], along[0]]) * thick / 2
            tip = thick / 2 - gap  # the corner belongs to both neighbours, less the gap
            a, b = start - along * tip * 0.5 + along * gap, end + along * tip * 0.5 - along * gap
            inner = along * bevel
            outline = np.array(
                [a, a + inner + side, b - inner + side, b, b - inner - side, a + inner - side]
            )
            if mitred and name in INNER_SIDE:
                side = side * INNER_SIDE[name]
                reach, space = along * thick / 2, along * gap
                over_a = reach if start[1] != y1 else 0 * reach  # the middle has no corner
                over_b = reach if end[1] != y1 else 0 * reach
                near, far = start + space, end - space
                outer = [near - over_a - side, far + over_b - side]
                inner_ends = [far - reach + side, near + reach + side]
                outline = np.array([*outer, *inner_ends])
            outline[:, 0] += pad + slant * (GLYPH_HEIGHT / 2 - outline[:, 1])
            cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        return mask

    masks = tuple(draw(variants.get(digit, lit)) for digit, lit in enumerate(SEGMENTS))
    return Face(f"segment{index}", "segment", masks, draw("abcdefg"))


def _dot_face(rng: np.random.Generator, index: int) -> Face:
    step_y = GLYPH_HEIGHT / 7
    step_x = step_y * rng.uniform(0.7, 1.05)
    fill = rng.uniform(0.72, 1.0)
    round_dots = rng.random() < 0.35

    rows_of = list(DOTS)
    for digit, shapes in DOT_VARIANTS.items():
        if rng.random() < DOT_VARIANT_SHARE:
            rows_of[digit] = shapes[int(rng.integers(len(shapes)))]

    def draw(rows: tuple[str, ...]) -> np.ndarray[Any, Any]:
        mask = np.zeros((GLYPH_HEIGHT, round(5 * step_x)), np.uint8)
        for y, row in enumerate(rows):
            for x, lit in enumerate(row):
                if lit == "0":
                    continue
                cx, cy = (x + 0.5) * step_x, (y + 0.5) * step_y
                if round_dots:
                    radius = round(min(step_x, step_y) * fill * 8)
                    cv2.circle(mask, (round(cx * 16), round(cy * 16)), radius, 255, -1, 16, 4)
                else:
                    half = np.array([step_x, step_y]) * fill / 2
                    low = np.round(np.array([cx, cy]) - half).astype(int)
                    high = np.round(np.array([cx, cy]) + half).astype(int)
                    mask[max(low[1], 0) : high[1], max(low[0], 0) : high[0]] = 255
        return mask

    return Face(f"dots{index}", "dots", tuple(draw(r) for r in rows_of), draw(("11111",) * 7))
