"""Scenes: rendered pictures of meter counters, with the box and the class of every digit.

Everything that the model learns from, is calibrated with and is judged on by `convert` comes from
`scene`. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

INPUT_SIZE = (320, 128)  # width, height of the model's input, px
DIGIT_RANGE = (14.0, 105.0)  # digit heights to learn, px of the model's input
LEAST_PITCH = 8.5  # px of the input from digit to digit: two in one cell of 8 px are not told apart
LABELS = "kWh Gas Volt Hz Qmax Type EN min WATER heat made in"  # letters, never digits


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


counters = _sibling("counters")


@dataclass(frozen=True)
class Scene:
    """A picture and what is to be read in it, left to right."""

    image: Array  # uint8 [H, W, 3] BGR
    boxes: Array  # float32 [N, 4] xyxy, pixels of `image`
    classes: Array  # int64 [N], 0..9 or counters.BETWEEN

    @property
    def reading(self) -> str:
        """The digits from left to right, "?" for a wheel between two."""
        return "".join("?" if c == counters.BETWEEN else str(c) for c in self.classes)


def scene(rng: Rng, *, base_only: bool = False) -> Scene:
    """Any picture of the kind that the model is made for: crops, a tight strip, or a whole meter.

    `base_only` keeps to the fonts of two packages (`glyphs.BASE_FONTS`).
    """
    kind = rng.choice(["crops", "strip", "meter"], p=[0.42, 0.18, 0.4])
    if kind == "crops":
        height = int(rng.integers(70, 180))
        width = round(height * rng.uniform(2.0, 3.6))
        drawn = counters.crops(rng, (width, height), base_only=base_only)
        return _finish(rng, np.clip(drawn[0], 0, 255).astype(np.uint8), *drawn[1:])
    if kind == "strip":
        return _strip(rng, base_only)
    aspect = rng.choice(
        [1.0, 4 / 3, 16 / 9, 2.0, rng.uniform(1.0, 3.2)], p=[0.1, 0.2, 0.3, 0.2, 0.2]
    )
    scale = min(INPUT_SIZE[0] / aspect, INPUT_SIZE[1])  # height of the content in the input
    oversample = 1.0 if rng.random() < 0.3 else rng.uniform(1.0, 3.0)
    size = (round(scale * aspect * oversample), round(scale * oversample))
    return meter(rng, size, base_only=base_only)


def meter(rng: Rng, size: tuple[int, int], *, base_only: bool = False) -> Scene:
    """A counter somewhere in a picture of `size` (width, height)."""
    width, height = size
    scale = min(INPUT_SIZE[0] / width, INPUT_SIZE[1] / height)
    count = int(rng.integers(3, 9))
    cell_limit = 0.9 * width / count
    most = min(DIGIT_RANGE[1] / scale, 0.85 * height, 1.9 * cell_limit)
    least = min(DIGIT_RANGE[0] / scale, most)
    digit_h = round(np.exp(rng.uniform(np.log(least), np.log(most))))
    look = counters.draw_look(rng, max(digit_h, 8), cell_limit, base_only=base_only)
    look = replace(look, cell_w=max(look.cell_w, round(LEAST_PITCH / scale)))
    plate, boxes, classes = counters.counter(rng, look, count, between=_between(rng))
    backdrop = _backdrop(rng, width, height, plate.shape[:2])
    return _place(rng, backdrop, plate, boxes, classes)


def _strip(rng: Rng, base_only: bool) -> Scene:
    """A picture that is hardly more than the counter."""
    count = int(rng.integers(3, 9))
    look = counters.draw_look(rng, int(rng.integers(24, 110)), np.inf, base_only=base_only)
    plate, boxes, classes = counters.counter(rng, look, count, between=_between(rng))
    width = round(plate.shape[1] * rng.uniform(0.95, 1.25))
    height = round(plate.shape[0] * rng.uniform(0.95, 1.4))
    return _place(rng, _backdrop(rng, width, height, plate.shape[:2]), plate, boxes, classes)


def _between(rng: Rng) -> float:
    """Half of the counters stand still; in the others some wheels are between digits."""
    return 0.0 if rng.random() < 0.5 else 0.2


def _backdrop(rng: Rng, width: int, height: int, plate_size: tuple[int, ...]) -> Array:
    """What lies around a counter: a wall, a face plate, lines and lettering; uint8 [h, w, 3]."""
    cells = (int(rng.integers(2, 5)), int(rng.integers(2, 7)))
    spread = rng.choice([0.0, 12.0, 35.0])
    wall = counters.draw_colour(rng, 0, 255, 15) + rng.normal(0, spread, (*cells, 3))
    image = cv2.resize(wall.clip(0, 255).astype(np.uint8), (width, height))
    if rng.random() < 0.65:
        face = counters.draw_colour(rng, 120 if rng.random() < 0.7 else 0, 255, 10).tolist()
        rim = counters.draw_colour(rng, 0, 255, 15).tolist()
        cx, cy = int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.4, 0.6))
        grow = rng.uniform(1.05, 2.2, 2) / 2
        half = (int(plate_size[1] * grow[0]), int(plate_size[0] * grow[1] * 1.5))
        thick = int(rng.integers(1, 3 + height // 30))
        if rng.random() < 0.4:
            radius = int(np.hypot(*half) * 0.9)
            cv2.circle(image, (cx, cy), radius, face, -1, cv2.LINE_AA)
            cv2.circle(image, (cx, cy), radius, rim, thick, cv2.LINE_AA)
        else:
            low, high = (cx - half[0], cy - half[1]), (cx + half[0], cy + half[1])
            cv2.rectangle(image, low, high, face, -1)
            cv2.rectangle(image, low, high, rim, thick)
    for _ in range(rng.integers(0, 6)):
        colour = counters.draw_colour(rng, 0, 255, 25).tolist()
        x, y = int(rng.integers(width)), int(rng.integers(height))
        if rng.random() < 0.6:
            word = rng.choice(LABELS.split())
            size = height * rng.uniform(0.0015, 0.005)
            face = int(rng.integers(0, 5))
            cv2.putText(image, word, (x, y), face, size, colour, max(1, round(size * 2)), 16)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            thick = int(rng.integers(1, 2 + height // 50))
            if rng.random() < 0.5:
                cv2.line(image, (x, y), end, colour, thick, cv2.LINE_AA)
            else:  # lying, for an upright one is a 0
                low = y + min(abs(end[1] - y), abs(end[0] - x) // 2)
                cv2.rectangle(image, (x, y), (end[0], low), colour, thick)
    return image


def _place(rng: Rng, image: Array, plate: Array, boxes: Array, classes: Array) -> Scene:
    """Lay the plate into the picture, a little turned and in perspective, and finish it."""
    height, width = image.shape[:2]
    plate_h, plate_w = plate.shape[:2]
    corners = np.array([[0, 0], [plate_w, 0], [plate_w, plate_h], [0, plate_h]], np.float32)
    angle = np.radians(np.clip(rng.normal(0, 2.2), -7, 7)) if rng.random() < 0.8 else 0.0
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = (corners - [plate_w / 2, plate_h / 2]) @ turn
    moved += rng.uniform(-1, 1, (4, 2)) * plate_h * rng.choice([0.0, 0.03, 0.08])
    room = np.array([width - plate_w, height - plate_h]) / 2
    reach = np.where(room > 0, room, 0)  # a plate that is larger than the picture stays centred
    moved += np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * reach * 0.97
    warp = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    flat = np.clip(plate, 0, 255).astype(np.uint8)
    image = cv2.warpPerspective(
        flat, warp, (width, height), dst=image, borderMode=cv2.BORDER_TRANSPARENT
    )
    if not len(boxes):
        return _finish(rng, image, boxes, classes)
    points = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 1, 2)
    x, y = cv2.perspectiveTransform(points, warp).reshape(-1, 4, 2).transpose(2, 1, 0)
    sides = [(x[0] + x[3]) / 2, (y[0] + y[1]) / 2, (x[1] + x[2]) / 2, (y[2] + y[3]) / 2]
    return _finish(rng, image, np.stack(sides, 1), classes)


@functools.cache
def _grain() -> Array:
    """Noise to cut pieces from: float32 [1100, 1500, 3], standard normal."""
    return np.random.default_rng(3).standard_normal((1100, 1500, 3), np.float32)


def _finish(rng: Rng, image: Array, boxes: Array, classes: Array) -> Scene:
    """Light, blur, noise, compression and channel order; drops boxes that are mostly outside."""
    height, width = image.shape[:2]
    if rng.random() < 0.7:
        light = rng.uniform(0.45, 1.25, (int(rng.integers(1, 4)), int(rng.integers(2, 5))))
        field = cv2.resize(
            light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        image = cv2.multiply(image, cv2.merge([field] * 3), dtype=cv2.CV_8U)
    if rng.random() < 0.15:
        glare = np.zeros((height // 4 + 1, width // 4 + 1), np.uint8)
        centre = (int(rng.integers(glare.shape[1])), int(rng.integers(glare.shape[0])))
        axes = (int(rng.integers(2, 2 + width // 20)), int(rng.integers(2, 2 + height // 16)))
        cv2.ellipse(
            glare, centre, axes, rng.uniform(0, 180), 0, 360, int(rng.integers(40, 150)), -1
        )
        glare = cv2.resize(cv2.GaussianBlur(glare, (0, 0), 2.0), (width, height))
        image = cv2.add(image, cv2.merge([glare] * 3))
    if rng.random() < 0.35:  # haze: less contrast
        low = rng.uniform(0, 90)
        image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.5, 0.9), beta=low)
    if rng.random() < 0.5:
        digit_h = float(np.mean(boxes[:, 3] - boxes[:, 1])) if len(boxes) else 20.0
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.01, 0.05) * digit_h)
    if rng.random() < 0.5 and height < 1100 and width < 1500:
        grain = _grain()
        y, x = int(rng.integers(1100 - height)), int(rng.integers(1500 - width))
        noise = grain[y : y + height, x : x + width] * np.float32(rng.uniform(1, 11))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    if rng.random() < 0.4:
        image = np.ascontiguousarray(image[:, :, rng.permutation(3)])
    inside = boxes.copy()
    inside[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width)
    inside[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = np.prod(inside[:, 2:] - inside[:, :2], axis=1) > 0.6 * area
    return Scene(image, inside[kept].astype(np.float32), classes[kept])
