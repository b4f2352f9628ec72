"""Meter reader: a small anchor-free detector of the digits of a utility meter.

This module is what `convert` needs of the recipe: the network, the reference prediction that shares
no code with `edge`, the inputs to calibrate, judge and show it with, and the task's own metrics.
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray[Any, Any]

RECIPE = tomllib.loads(Path(__file__).with_name("recipe.toml").read_text(encoding="utf-8"))
HEIGHT, WIDTH = RECIPE["input"][0]["shape"][2:]
STRIDE = RECIPE["decoder"]["stride"]
CLASSES = len(RECIPE["labels"])
BETWEEN = CLASSES - 1
MAX_REACH = 8.0  # strides: no side of a digit is further than this from its middle
MATCH_IOU = 0.5

# Scenes that the reference reads right with no score below 0.7; the first two have most classes.
GOLDEN_SEEDS = (16, 83, 21, 42, 45, 56, 74, 75, 88, 93, 97, 102)
GOLDEN_SIZE = (480, 240)  # width, height, px


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


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class Residual(nn.Module):
    """A convolution beside a shortcut; float32 [B, C, H, W] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolution finds to `x`."""
        out: Tensor = x + self.conv(x)
        return out


class MeterReader(nn.Module):
    """float32 [B, 3, 128, 320] RGB in 0..1 to `ltrb` [B, 640, 4] and `scores` [B, 640, 11].

    `ltrb` are distances from the centre of a grid cell to the sides of the digit's box in strides
    of 8 px, 0..MAX_REACH; `scores` are in 0..1. Cells are in row-major order (16 rows, 40 columns).
    Boxes and scores have heads and outputs of their own: in int8 a shared tensor would give the
    scores the scale of the boxes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _conv(3, 16, 2), _conv(16, 32, 2), Residual(32), _conv(32, 64, 2), Residual(64)
        )
        self.coarse = nn.Sequential(_conv(64, 64, 2), Residual(64))  # sees a whole large digit
        self.merge = nn.Sequential(Residual(64), _conv(64, 48))
        self.ltrb = nn.Conv2d(48, 4, 1)
        self.scores = nn.Conv2d(48, CLASSES, 1)
        assert self.ltrb.bias is not None and self.scores.bias is not None
        nn.init.constant_(self.ltrb.bias, 2.0)
        nn.init.constant_(self.scores.bias, -4.6)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and scores of every cell."""
        ltrb, logits = self.raw(image)
        return ltrb, logits.sigmoid()

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with the scores' logits: what the loss is taken of."""
        fine = self.fine(image)
        coarse = functional.interpolate(self.coarse(fine), scale_factor=2.0, mode="nearest")
        merged = self.merge(fine + coarse)
        ltrb = self.ltrb(merged).clamp(0.0, MAX_REACH)
        return _rows(ltrb), _rows(self.scores(merged))


def _rows(maps: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H*W, C]."""
    return maps.flatten(2).transpose(1, 2)


def build() -> nn.Module:
    """The network with fresh weights, in training mode."""
    return MeterReader()


def load() -> nn.Module:
    """The network with the recipe's weights, ready to predict."""
    from safetensors.torch import load_file

    module = build()
    module.load_state_dict(load_file(Path(__file__).with_name(RECIPE["model"]["weights"])))
    return module.eval()


def predict(module: nn.Module, raw: Array) -> dict[str, Array]:
    """Find and read the digits of `raw`, uint8 [H, W, 3] BGR.

    Returns boxes float32 [N, 4] xyxy in pixels of `raw`, scores float32 [N] and classes int64 [N],
    the surest first.
    """
    height, width = raw.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    new_w, new_h = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (WIDTH - new_w) // 2, (HEIGHT - new_h) // 2
    rgb = torch.from_numpy(np.ascontiguousarray(raw[:, :, ::-1])).permute(2, 0, 1)[None].float()
    small = functional.interpolate(
        rgb, (new_h, new_w), mode="bilinear", align_corners=False, antialias=False
    )
    image = torch.full((1, 3, HEIGHT, WIDTH), float(RECIPE["preprocess"]["pad"]))
    image[:, :, top : top + new_h, left : left + new_w] = small.round()
    with torch.no_grad():
        ltrb, scores = (out[0].numpy() for out in module.eval()(image / 255.0))
    boxes, best, classes = decode(ltrb, scores)
    boxes = (boxes - np.array([left, top] * 2)) / np.array([new_w / width, new_h / height] * 2)
    boxes = boxes.clip(0, np.array([width, height] * 2)).astype(np.float32)
    return {"boxes": boxes, "scores": best, "classes": classes}


def decode(ltrb: Array, scores: Array) -> tuple[Array, Array, Array]:
    """Boxes (float32 [N, 4] xyxy, input px), scores and classes of the outputs of one image."""
    classes = scores.argmax(1)
    best = scores.max(1)
    sure = np.flatnonzero(best >= RECIPE["thresholds"]["score"])
    sure = sure[np.argsort(-best[sure], kind="stable")]
    columns = WIDTH // STRIDE
    centre = np.stack([sure % columns, sure // columns], 1) + 0.5
    boxes = np.concatenate([centre - ltrb[sure, :2], centre + ltrb[sure, 2:]], 1) * STRIDE
    kept: list[int] = []
    for i in range(len(sure)):
        overlaps = box_iou(boxes[i], boxes[kept])
        if (overlaps <= RECIPE["decoder"]["nms_iou"]).all():
            kept.append(i)
    return (
        boxes[kept].astype(np.float32).reshape(-1, 4),
        best[sure[kept]].astype(np.float32),
        classes[sure[kept]].astype(np.int64),
    )


def box_iou(box: Array, others: Array) -> Array:
    """Intersection over union of a box [4] with each of [N, 4]."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


def calibration(count: int, seed: int) -> Iterator[Array]:
    """Rendered pictures, uint8 [H, W, 3] BGR, other ones than for training and evaluation."""
    render = _sibling("render")
    for i in range(count):
        yield render.scene(np.random.default_rng((2, seed, i)), base_only=True).image


def evaluation(count: int, seed: int) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Rendered pictures with their truth: boxes (xyxy px), classes and the reading, as "0172?"."""
    render = _sibling("render")
    for i in range(count):
        scene = render.scene(np.random.default_rng((1, seed, i)), base_only=True)
        truth = {"boxes": scene.boxes, "classes": scene.classes, "reading": scene.reading}
        yield scene.image, truth


def golden(count: int) -> Iterator[Array]:
    """Rendered pictures, uint8 [240, 480, 3] BGR, ours to give away; at most len(GOLDEN_SEEDS)."""
    render = _sibling("render")
    for seed in GOLDEN_SEEDS[:count]:
        yield render.meter(np.random.default_rng((3, seed)), GOLDEN_SIZE, base_only=True).image


def metrics(predictions: list[dict[str, Any]], truths: list[dict[str, Any]]) -> dict[str, float]:
    """Digits found, digits made up, digits found and read right, whole counters read right.

    A prediction finds the digit that it covers best with an IoU of at least MATCH_IOU, whatever
    its class; the first three are shares of all true digits ("between" is a class as any other).
    A counter is right when the classes from left to right are the truth's, none more, none less.
    """
    digits = found = right = extra = readings = 0
    for prediction, truth in zip(predictions, truths, strict=True):
        free = np.ones(len(truth["boxes"]), bool)
        for box, kind in zip(prediction["boxes"], prediction["classes"], strict=True):
            overlap = box_iou(box, truth["boxes"]) * free
            if not free.any() or overlap.max() < MATCH_IOU:
                extra += 1
                continue
            match = int(overlap.argmax())
            free[match] = False
            found += 1
            right += int(truth["classes"][match] == kind)
        digits += len(free)
        readings += int(reading(prediction) == truth["reading"])
    return {
        "digit_recall": found / max(digits, 1),
        "extra_boxes_per_digit": extra / max(digits, 1),
        "digit_accuracy": right / max(digits, 1),
        "reading_accuracy": readings / max(len(truths), 1),
    }


def reading(prediction: dict[str, Any]) -> str:
    """The classes of a prediction from left to right, "?" for between."""
    order = np.argsort(prediction["boxes"][:, 0] + prediction["boxes"][:, 2], kind="stable")
    return "".join("?" if c == BETWEEN else str(c) for c in prediction["classes"][order])
