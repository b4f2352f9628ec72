"""Counters: rows of wheels or display cells, and rows of single crops, drawn flat and unlit.

The box of a digit is its cell: as high as the digit, as wide as the widest digit of its face, moved
with the digit when its wheel is a little off; the box of a wheel between two digits is the cell in
the middle of its window. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

BETWEEN = 10
MOST_ROLL = 0.13  # pitches: a wheel that is off by no more shows its digit
LEAST_BETWEEN = 0.19  # from here on it stands between two; what lies in the gap is never drawn


def _sibling(name: str) -> ModuleType:
    """Load NAME.py that lies beside this file, once."""
    path = Path(__file__).with_name(f"{name}.py")
    key = f"meter_reader_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[key]


glyphs = _sibling("glyphs")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the digits of one counter are drawn; lengths in pixels of the picture."""

    face: Any
    digit_h: int
    digit_w: int
    cell_w: int
    window_h: int
    pitch: float  # from one digit of a wheel to the next, in digit heights
    upward: bool  # the next digit comes from below
    ink: Array  # float32 [3] BGR
    paper: Array
    ghost: float  # how visible the unlit parts of a display are, 0..1
    curve: float  # how much darker a wheel is at the window's edges, 0..1
    frame: int  # 0 none, else width of the window's outline
    frame_colour: Array
    mechanical: bool
    ticks: int  # marks a digit along the wheel's right edge, 0 for none


def draw_colour(rng: Rng, low: float, high: float, tint: float) -> Array:
    """A colour (BGR, float32 [3]) of a level in low..high; `tint` is how far it is from grey."""
    level = rng.uniform(low, high)
    return np.clip(level + rng.normal(0, tint, 3), 0, 255).astype(np.float32)


def draw_inks(rng: Rng) -> tuple[Array, Array]:
    """Ink and paper with enough contrast to read; either may be the brighter one."""
    tint = rng.choice([4.0, 15.0, 40.0])
    while True:
        dark, bright = draw_colour(rng, 0, 120, tint), draw_colour(rng, 90, 255, tint)
        if rng.random() < 0.15:  # the red wheels of the decimals: B, G, R
            red = np.array([rng.uniform(10, 70), rng.uniform(10, 70), rng.uniform(140, 240)])
            if rng.random() < 0.5:
                dark = red.astype(np.float32)
            else:
                return draw_colour(rng, 200, 255, 10), red.astype(np.float32)
        if abs(float(bright.mean() - dark.mean())) > rng.choice([28, 45, 75]):
            return (dark, bright) if rng.random() < 0.5 else (bright, dark)


def _face(rng: Rng, base_only: bool) -> Any:
    bank = glyphs.faces(base_only=base_only)
    kind = rng.choice(["font", "stroke", "segment", "dots"], p=[0.45, 0.2, 0.23, 0.12])
    return bank[kind][rng.integers(len(bank[kind]))]


def draw_look(rng: Rng, digit_h: int, cell_limit: float, *, base_only: bool) -> Look:
    """Draw a look whose cells are no wider than `cell_limit` (px)."""
    face = _face(rng, base_only)
    ink, paper = draw_inks(rng)
    mechanical = face.kind in ("font", "stroke") and rng.random() < 0.8
    if mechanical and rng.random() < 0.35:  # bright digits on dark wheels, the commonest counter
        ink, paper = draw_colour(rng, 190, 255, 8), draw_colour(rng, 5, 60, 6)
    aspect = face.aspect * rng.uniform(0.82, 1.2)
    spacing = rng.uniform(1.08, 2.1) if mechanical else rng.uniform(1.1, 1.6)
    cell_w = min(digit_h * aspect * spacing, cell_limit)
    digit_w = max(4, round(min(digit_h * aspect, cell_w * 0.96)))
    return Look(
        face=face,
        digit_h=digit_h,
        digit_w=digit_w,
        cell_w=max(digit_w + 1, round(cell_w)),
        window_h=round(
            digit_h * (rng.uniform(1.03, 1.9) if mechanical else rng.uniform(1.05, 1.5))
        ),
        pitch=rng.uniform(1.08, 1.5),
        upward=bool(rng.random() < 0.75),
        ink=ink,
        paper=paper,
        ghost=float(rng.choice([0.0, rng.uniform(0.03, 0.16)])),
        curve=float(rng.choice([0.0, rng.uniform(0.1, 0.8)])) if mechanical else 0.0,
        frame=int(rng.integers(1, 2 + digit_h // 16)) if rng.random() < 0.55 else 0,
        frame_colour=draw_colour(rng, 0, 255, 20),
        mechanical=mechanical,
        ticks=draw_ticks(rng, 0.12) if mechanical else 0,
    )


def draw_ticks(rng: Rng, chance: float) -> int:
    """How many marks a digit the edge of a wheel has, mostly none: the fastest wheel has them."""
    return int(rng.choice([2, 5, 10])) if rng.random() < chance else 0


def _paste(alpha: Array, mask: Array, x: float, y: float) -> None:
    """Lay a mask over `alpha` (uint8 [H, W]) with its top left corner at x, y; brighter wins."""
    x0, y0 = round(x), round(y)
    left, top = max(x0, 0), max(y0, 0)
    right, low = min(x0 + mask.shape[1], alpha.shape[1]), min(y0 + mask.shape[0], alpha.shape[0])
    if right > left and low > top:
        part = alpha[top:low, left:right]
        np.maximum(part, mask[top - y0 : low - y0, left - x0 : right - x0], out=part)


def _wheel(rng: Rng, look: Look, digit: int, roll: float) -> tuple[Array, Array]:
    """One window with its digit: float32 [window_h, cell_w, 3] and the box of the digit in it.

    `roll` is how far the wheel is from showing `digit` in the middle, in pitches, -0.5..0.5.
    """
    height, width = look.window_h, look.cell_w
    alpha = np.zeros((height, width), np.uint8)
    size = (look.digit_w, look.digit_h)
    left = (width - look.digit_w) / 2
    top = (height - look.digit_h) / 2 + roll * look.pitch * look.digit_h
    mark_w = min(round(0.3 * look.digit_w), width - look.digit_w - 1)
    if look.ticks and mark_w > 1:  # they roll with the digits and push these to the left
        left -= mark_w / 2
        period = look.pitch * look.digit_h / look.ticks
        marked = (np.arange(height) - top) % period < 0.5 * period
        alpha[marked, width - mark_w :] = 255
    if look.face.all_lit is not None and look.ghost:
        mask = cv2.resize(look.face.all_lit, size, interpolation=cv2.INTER_AREA)
        _paste(alpha, (mask * look.ghost).astype(np.uint8), left, top)
    for step in (-1, 0, 1) if look.mechanical else (0,):
        y = top + step * look.pitch * look.digit_h
        if -look.digit_h < y < height:
            shown = (digit + (step if look.upward else -step)) % 10
            mask = cv2.resize(look.face.masks[shown], size, interpolation=cv2.INTER_AREA)
            _paste(alpha, mask, left, y)
    cover = alpha[:, :, None].astype(np.float32) / 255
    patch = look.paper + (look.ink - look.paper) * cover
    if look.curve:
        across = np.linspace(-1, 1, height, dtype=np.float32) + rng.uniform(-0.3, 0.3)
        patch *= (1 - look.curve * np.minimum(across**2, 1))[:, None, None]
    if look.frame:
        corner = (width - 1, height - 1)
        cv2.rectangle(patch, (0, 0), corner, look.frame_colour.tolist(), look.frame)
    box_top = top if abs(roll) < LEAST_BETWEEN else (height - look.digit_h) / 2
    box = np.array([left, box_top, left + look.digit_w, box_top + look.digit_h], np.float32)
    return patch, box


def _turn(rng: Rng, look: Look, between: float) -> tuple[int, int, float]:
    """What a wheel shows: digit, class, roll. `between` is the chance to stand between digits."""
    digit = int(rng.integers(10))
    if not look.mechanical:
        return digit, digit, 0.0
    if rng.random() < between:
        return digit, BETWEEN, float(rng.choice([-1, 1]) * rng.uniform(LEAST_BETWEEN, 0.5))
    rolls = [0.0, rng.normal(0, 0.05), rng.uniform(-MOST_ROLL, MOST_ROLL)]
    roll = rng.choice(rolls, p=[0.3, 0.45, 0.25])
    return digit, digit, float(np.clip(roll, -MOST_ROLL, MOST_ROLL))


def _junk(rng: Rng, height: int, width: int) -> Array:
    """A cell with nothing to read: blank, stripes, a blot or bits of lines; float32 [h, w, 3]."""
    ink, paper = draw_inks(rng)
    patch = np.tile(paper, (height, width, 1)).astype(np.float32)
    kind = rng.integers(5)
    if kind == 1:
        period, axis = rng.uniform(3, height), rng.integers(2)
        along = np.arange((height, width)[axis]) % period < period * rng.uniform(0.1, 0.6)
        patch[along if axis == 0 else (slice(None), along)] = ink
    elif kind == 2:
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(patch, centre, int(rng.integers(2, 3 + height // 3)), ink.tolist(), -1)
    elif kind >= 3:
        for _ in range(rng.integers(1, 5)):
            ends = rng.integers(0, (width, height), (2, 2)).tolist()
            cv2.line(patch, ends[0], ends[1], ink.tolist(), int(rng.integers(1, 2 + height // 12)))
    return patch


def counter(rng: Rng, look: Look, count: int, *, between: float) -> tuple[Array, Array, Array]:
    """A row of wheels on a plate: float32 [h, w, 3], boxes and classes."""
    shared_frame = rng.random() < 0.5
    gap = 0 if shared_frame else int(rng.integers(0, 2 + look.cell_w // 5))
    if shared_frame and rng.random() < 0.6:
        look = replace(look, frame=0)
    border_x, border_y = (int(look.digit_h * v) for v in rng.uniform(0.04, 0.6, 2))
    height = look.window_h + 2 * border_y
    width = count * (look.cell_w + gap) - gap + 2 * border_x
    plate = np.tile(draw_colour(rng, 0, 255, 15), (height, width, 1)).astype(np.float32)
    if rng.random() < 0.3:
        plate[:] = look.paper
    decimals = int(rng.integers(1, 4)) if rng.random() < 0.3 else 0
    red = draw_colour(rng, 30, 60, 15) + np.array([0, 0, rng.uniform(80, 170)], np.float32)
    boxes, classes = [], []
    for i in range(count):
        x = border_x + i * (look.cell_w + gap)
        area = plate[border_y : border_y + look.window_h, x : x + look.cell_w]
        if rng.random() < 0.02:
            area[:] = _junk(rng, look.window_h, look.cell_w)
            continue
        own = look
        if count - i <= decimals:
            own = replace(look, paper=red) if look.ink.mean() > 120 else replace(look, ink=red)
        last = i == count - 1
        if last and own.mechanical and not own.ticks:
            own = replace(own, ticks=draw_ticks(rng, 0.2))
        digit, kind, roll = _turn(rng, own, between * (3 if last else 0.7))
        patch, box = _wheel(rng, own, digit, roll)
        area[:] = patch
        boxes.append(box + np.array([x, border_y] * 2, np.float32))
        classes.append(kind)
        if rng.random() < 0.1 and gap:  # a decimal mark or ticks beside the wheel
            centre = (x - gap // 2, border_y + round(look.window_h * rng.uniform(0.6, 0.95)))
            cv2.circle(plate, centre, max(1, look.digit_h // 14), look.ink.tolist(), -1)
    if shared_frame and rng.random() < 0.7:
        low = (border_x - 1, border_y - 1)
        high = (width - border_x, height - border_y)
        thick = int(rng.integers(1, 2 + look.digit_h // 16))
        cv2.rectangle(plate, low, high, look.frame_colour.tolist(), thick)
    return plate, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)


def crops(rng: Rng, size: tuple[int, int], *, base_only: bool) -> tuple[Array, Array, Array]:
    """Crops of different meters side by side, loose or tight: one face and light for each."""
    width, height = size
    count = int(rng.integers(3, 8))
    edges = np.round(np.linspace(0, width, count + 1)).astype(int)
    sheet = np.zeros((height, width, 3), np.float32)
    boxes, classes = [], []
    for x0, x1 in itertools.pairwise(edges.tolist()):
        cell = sheet[:, x0:x1]
        cell_w = x1 - x0
        if rng.random() < 0.06:
            cell[:] = _junk(rng, height, cell_w)
            continue
        digit_h = round(height * rng.uniform(0.42, 0.92))
        look = draw_look(rng, digit_h, cell_w * rng.uniform(0.75, 1.15), base_only=base_only)
        alone = rng.random() < 0.6
        if not alone:  # wide enough that no whole neighbour comes into the crop
            look = replace(look, cell_w=max(look.cell_w, round(0.75 * cell_w)))
        digit, kind, roll = _turn(rng, look, 0.25)
        middle, box = _wheel(rng, look, digit, roll)
        backdrop = look.paper if rng.random() < 0.5 else draw_colour(rng, 0, 255, 20)
        if alone:
            pad_x = cell_w
            strip = np.tile(backdrop, (middle.shape[0], middle.shape[1] + 2 * pad_x, 1))
            strip[:, pad_x:-pad_x] = middle
        else:  # its neighbours left and right are cut by the crop
            pad_x = look.cell_w
            others = [_wheel(rng, look, int(d), 0.0)[0] for d in rng.integers(0, 10, 2)]
            strip = np.concatenate([others[0], middle, others[1]], axis=1)
        pad_y = height
        tall = np.tile(backdrop, (strip.shape[0] + 2 * pad_y, strip.shape[1], 1)).astype(np.float32)
        tall[pad_y : pad_y + strip.shape[0]] = strip
        window_top = pad_y + (middle.shape[0] - digit_h) / 2
        box = box + np.array([pad_x, pad_y] * 2, np.float32)
        slack_x, slack_y = cell_w - look.digit_w, height - digit_h
        left = round((box[0] + box[2] - cell_w) / 2 + rng.uniform(-0.3, 0.3) * max(slack_x, 0))
        if rng.random() < 0.65:  # cut once for all digits, around the window
            above = window_top - slack_y / 2 + rng.uniform(-0.15, 0.15) * slack_y
        else:
            above = (box[1] + box[3] - height) / 2 + rng.uniform(-0.4, 0.4) * slack_y
        top = round(above)
        left = min(max(left, 0), max(strip.shape[1] - cell_w, 0))
        view = tall[max(top, 0) : max(top, 0) + height, left : left + cell_w]
        cell[:] = backdrop
        cell[: view.shape[0], : view.shape[1]] = view
        cell *= np.linspace(*rng.uniform(0.5, 1.15, 2), cell_w, dtype=np.float32)[:, None]
        if rng.random() < 0.4:  # a camera of few pixels
            few_h = int(rng.integers(26, 50))
            few = (max(8, round(cell_w * few_h / height)), few_h)
            few_pixels = cv2.resize(cell, few, interpolation=cv2.INTER_AREA)
            cell[:] = cv2.resize(few_pixels, (cell_w, height), interpolation=cv2.INTER_LINEAR)
        box = box + np.array([x0 - left, -max(top, 0)] * 2, np.float32)
        box[[0, 2]] = box[[0, 2]].clip(x0, x1)
        boxes.append(box)
        classes.append(kind)
    return sheet, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)
