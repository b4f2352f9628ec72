"""Fashion CNN: ten kinds of clothes on grey pictures of 28x28 pixels, a Keras model.

Invariant: pictures are read from the Debian package dataset-fashion-mnist, never copied; the ten
thousand test pictures are for judging alone.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIZE = 28
HEADER = {"images-idx3": 16, "labels-idx1": 8}  # bytes before the data of an IDX file


@functools.cache
def read(part: str) -> tuple[Array, Array]:
    """Pictures uint8 [N, 28, 28], the object brighter than its ground, and classes uint8 [N].

    `part` is "train" (60,000) or "t10k" (10,000). FileNotFoundError names the package to install.
    """
    found = []
    for kind, header in HEADER.items():
        path = FOLDER / f"{part}-{kind}-ubyte.gz"
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: apt-get install dataset-fashion-mnist")
        found.append(np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8))
    return found[0].reshape(-1, SIZE, SIZE), found[1]


def as_frame(picture: Array) -> Array:
    """A grey picture [28, 28] as a camera gives it: uint8 [28, 28, 3] BGR."""
    return np.repeat(picture[:, :, None], 3, axis=2)


def predict(module: Any, raw: Array) -> dict[str, Array]:
    """The reference: uint8 [28, 28, 3] BGR -> {"scores": float32 [10]}, the softmax."""
    blue, green, red = raw.astype(np.float32).transpose(2, 0, 1)
    grey = (0.114 * blue + 0.587 * green + 0.299 * red).round()  # ITU-R BT.601
    logits = np.asarray(module(grey[None, :, :, None] / np.float32(255)).detach())[0]
    odds = np.exp(logits - logits.max())
    return {"scores": odds / odds.sum()}


def _pictures(part: str, count: int, seed: int) -> Iterator[tuple[Array, int]]:
    pictures, classes = read(part)
    for index in np.random.default_rng(seed).permutation(len(pictures))[:count]:
        yield as_frame(pictures[index]), int(classes[index])


def calibration(count: int, seed: int) -> Iterator[Array]:
    """Training pictures."""
    for raw, _ in _pictures("train", count, seed):
        yield raw


def evaluation(count: int, seed: int) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Test pictures and {"class": int}."""
    for raw, kind in _pictures("t10k", count, seed):
        yield raw, {"class": kind}


def golden(count: int) -> Iterator[Array]:
    """Test pictures; the data set's licence (Expat) lets us give them away."""
    for raw, _ in _pictures("t10k", count, 1):
        yield raw
