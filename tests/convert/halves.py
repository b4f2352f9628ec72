"""A classifier that needs no training, as ONNX, and pictures for it: which half is lit, and how.

Logits of (left, top) x (red, blue), from the means of the four quarters. Left and top, and red and
blue, are told apart, so that a transposed input and exchanged colours show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("left-red", "top-red", "left-blue", "top-blue")
SIDE = 32


def classes(kinds: Sequence[int] = (0, 1, 2, 3)) -> np.ndarray:
    """What each class wants of the quarters: float32 [4 classes, 3 x 2 x 2]."""
    wanted = np.zeros((4, 3, 2, 2), np.float32)
    for index in range(4):
        light = np.array([[1, -1], [1, -1]] if index % 2 == 0 else [[1, 1], [-1, -1]])
        wanted[index, 0 if index < 2 else 2] = 6 * light
    return wanted.reshape(4, 12)[list(kinds)]


def model(
    kinds: Sequence[int] = (0, 1, 2, 3), *, before: Sequence[Any] = (), **attributes: Any
) -> bytes:
    """RGB in 0..1, float32 [1, 3, 32, 32] -> logits [1, 4].

    `kinds` puts the classes into another order; `before` are nodes image -> seen that change what
    the network sees; `weights` takes the place of what the last layer has learned.
    """
    from onnx import TensorProto, helper, numpy_helper

    look = np.zeros((6, 3, 16, 16), np.float32)
    for channel in range(3):
        look[channel, channel] = 1 / 256
        look[3 + channel, channel] = 1 / 256
    wanted = attributes.get("weights")
    if wanted is None:
        wanted = np.concatenate([classes(kinds).reshape(4, 3, 4)] * 2, axis=1).reshape(4, 24) / 2
    nodes = [
        *(before or [helper.make_node("Identity", ["image"], ["seen"], "see")]),
        helper.make_node("Conv", ["seen", "look"], ["quarters"], "look", strides=[16, 16]),
        helper.make_node("Relu", ["quarters"], ["light"], "relu"),
        helper.make_node("Flatten", ["light"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "wanted"], ["logits"], "decide", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(look, "look"),
            numpy_helper.from_array(np.asarray(wanted, np.float32), "wanted"),
            *attributes.get("constants", ()),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return made


def picture(kind: int, rng: np.random.Generator, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """uint8 [H, W, 3] BGR of one class, in noise."""
    height, width = size
    shade = np.full((height, width, 3), 30.0)
    half = np.s_[:, : width // 2] if kind % 2 == 0 else np.s_[: height // 2]
    shade[half] += np.array([20, 20, 150] if kind < 2 else [150, 20, 20]) * rng.uniform(0.6, 1.3)
    return (shade + rng.normal(0, 8, shade.shape)).clip(0, 255).astype(np.uint8)


def pictures(folder: Path, count: int = 48, seed: int = 0) -> Path:
    """PNG files, a folder a class."""
    import cv2

    rng = np.random.default_rng(seed)
    for index in range(count):
        place = folder / LABELS[index % 4]
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index}.png"), picture(index % 4, rng))
    return folder


def noise(folder: Path, count: int = 24) -> Path:
    """PNG files on which there is nothing to be seen."""
    import cv2

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    return folder
