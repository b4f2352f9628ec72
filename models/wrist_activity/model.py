"""Wrist activity: standing, running, walking or badminton from ten seconds of wrist motion.

Invariant: the graph sees channels that are already normalised; the mean and standard deviation
stand in recipe.toml alone, and both predict() and train.py read them from there.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
RECIPE: dict[str, Any] = tomllib.loads((HERE / "recipe.toml").read_text(encoding="utf-8"))
LABELS: list[str] = RECIPE["labels"]
LENGTH: int = RECIPE["preprocess"]["length"]
RATE_HZ: float = RECIPE["preprocess"]["rate_hz"]
CHANNELS: int = len(RECIPE["preprocess"]["channels"])

# One number per use of the generator, so that no two uses can share a random stream.
TRAINING, CALIBRATION, EVALUATION, GOLDEN = range(4)


def _sibling(name: str) -> ModuleType:
    """Load `name`.py of this folder by its location, leaving sys.path alone."""
    spec = importlib.util.spec_from_file_location(f"wrist_activity_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples = _sibling("samples")


class WristNet(nn.Module):
    """Three strided convolutions, a mean over time and one linear layer; 4,548 parameters.

    Input: float32 [N, 100, 6], normalised. Output: logits, float32 [N, 4].
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._stage(channels, 16, kernel=7),
            *self._stage(16, 24, kernel=5),
            *self._stage(24, 24, kernel=3),
        )
        self.head = nn.Linear(24, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, *, kernel: int) -> tuple[nn.Module, ...]:
        # The batch norm folds into the convolution at export; no bias of its own is needed.
        return (
            nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
        )

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4] of normalised windows [N, T, C]."""
        features: torch.Tensor = self.features(window.transpose(1, 2))
        logits: torch.Tensor = self.head(features.mean(dim=2))
        return logits


def build() -> nn.Module:
    """The architecture with fresh weights, in training mode."""
    return WristNet(CHANNELS, len(LABELS))


def normalise(windows: np.ndarray) -> np.ndarray:
    """(x - mean) / std per channel; [..., 6] in m/s² and rad/s -> float32 [..., 6]."""
    mean = np.asarray(RECIPE["preprocess"]["mean"], dtype=np.float32)
    std = np.asarray(RECIPE["preprocess"]["std"], dtype=np.float32)
    return (windows.astype(np.float32) - mean) / std


def predict(module: nn.Module, raw: np.ndarray) -> dict[str, np.ndarray]:
    """The reference prediction of one window.

    raw: float32 [100, 6], acceleration without gravity in m/s² and rotation rate in rad/s.
    Returns {"scores": float32 [4]}, the softmax over the labels.
    """
    if raw.shape != (LENGTH, CHANNELS):
        raise ValueError(f"a window is [{LENGTH}, {CHANNELS}], not {list(raw.shape)}")
    with torch.inference_mode():
        logits = module.eval()(torch.from_numpy(normalise(raw))[None])
        return {"scores": logits.softmax(dim=1)[0].numpy()}


def basicmotions(part: str) -> tuple[np.ndarray, np.ndarray]:
    """BasicMotions "TRAIN" or "TEST" as the package aeon carries it.

    Returns windows, float32 [40, 100, 6], and classes, int64 [40], as indices into LABELS.
    The text is read directly: importing aeon would need numba, scikit-learn and more.
    Raises FileNotFoundError when aeon is not installed.
    """
    # find_spec only locates a top-level package; it does not import it.
    spec = importlib.util.find_spec("aeon")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("aeon")
    path = folder / "datasets" / "data" / "BasicMotions" / f"BasicMotions_{part}.ts"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: wrist_activity is trained and judged on BasicMotions, which the package "
            "aeon carries; install it with: pip install --no-deps aeon"
        )
    windows, classes = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#@":
            *series, label = line.split(":")
            windows.append([[float(value) for value in one.split(",")] for one in series])
            classes.append(LABELS.index(label.strip().lower()))
    return np.array(windows, dtype=np.float32).transpose(0, 2, 1), np.array(classes)


def synthetic(count: int, *, use: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Generated windows, float32 [100, 6], and their classes; the activities take turns."""
    rng = np.random.default_rng([seed, use])
    for index in range(count):
        which = index % len(LABELS)
        yield samples.window(LABELS[which], LENGTH, rng), which


def calibration(count: int, seed: int) -> Iterator[np.ndarray]:
    """Raw windows for quantisation: up to half from the real training set, the rest generated."""
    windows, _ = basicmotions("TRAIN")
    order = np.random.default_rng(seed).permutation(len(windows))[: (count + 1) // 2]
    for index in order:
        yield windows[index]
    for window, _ in synthetic(count - len(order), use=CALIBRATION, seed=seed):
        yield window


def evaluation(count: int, seed: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Raw windows and truths {"class": int, "origin": str}.

    The 40 real test windows come first, in an order drawn from the seed ("basicmotions"), then
    generated ones ("synthetic").
    """
    windows, classes = basicmotions("TEST")
    order = np.random.default_rng(seed).permutation(len(windows))[:count]
    for index in order:
        yield windows[index], {"class": int(classes[index]), "origin": "basicmotions"}
    for window, which in synthetic(count - len(order), use=EVALUATION, seed=seed):
        yield window, {"class": which, "origin": "synthetic"}


def golden(count: int) -> Iterator[np.ndarray]:
    """Generated windows, float32 [100, 6]: ours, so free to redistribute, unlike the data set."""
    for window, _ in synthetic(count, use=GOLDEN, seed=0):
        yield window


def metrics(predictions: list[dict[str, Any]], truths: list[dict[str, Any]]) -> dict[str, float]:
    """Share of right windows: over all, and over each origin that occurs."""
    right = np.array(
        [
            int(np.argmax(prediction["scores"])) == truth["class"]
            for prediction, truth in zip(predictions, truths, strict=True)
        ]
    )
    origins = np.array([truth["origin"] for truth in truths])
    result = {"accuracy": float(right.mean())}
    for origin in sorted(set(origins.tolist())):
        result[f"accuracy_{origin}"] = float(right[origins == origin].mean())
    return result
