"""The best plain loop that we know by hand: YOLOX, from a picture to boxes, with nothing checked.

    python bench/plain_loop.py MODEL PICTURE       # prints what it finds: the yardstick of a start

It resizes into a view of a kept letterbox, binds kept arrays to the session, looks at boxes behind
objectness only, and gives OpenCV's suppression lists. Shares nothing with edge.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import cv2
import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


class PlainLoop:
    """`threads` threads; boxes float [N, 4] xyxy in source pixels, scores [N] and classes [N]."""

    def __init__(self, model: str, *, threads: int = 1, size: int = 416, score: float = 0.25):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        (given,), (answer,) = self.session.get_inputs(), self.session.get_outputs()
        self._size, self._score = size, score
        self._canvas = np.full((size, size, 3), 114, np.uint8)
        self._tensor = np.zeros((1, 3, size, size), np.float32)
        self._output = np.zeros(answer.shape, np.float32)
        self._binding = self.session.io_binding()
        self._binding.bind_input(
            given.name, "cpu", 0, np.float32, self._tensor.shape, self._tensor.ctypes.data
        )
        self._binding.bind_output(
            answer.name, "cpu", 0, np.float32, self._output.shape, self._output.ctypes.data
        )
        self._cells, self._strides = grid(size)
        self._shape: tuple[int, ...] = ()

    def __call__(self, picture: Any) -> tuple[Any, Any, Any]:
        height, width = picture.shape[:2]
        scale = min(self._size / height, self._size / width)
        if picture.shape != self._shape:
            self._shape = picture.shape
            self._canvas[:] = 114
        to = (round(width * scale), round(height * scale))
        cv2.resize(picture, to, dst=self._canvas[: to[1], : to[0]])
        np.copyto(self._tensor[0], self._canvas.transpose(2, 0, 1))
        self.session.run_with_iobinding(self._binding)
        return self.decode(self._output[0], 1 / scale, width, height)

    def decode(self, table: Any, scale: float, width: int, height: int) -> tuple[Any, Any, Any]:
        """A raw output [3549, 85]; `scale` is source pixels for one of the model's."""
        (rows,) = np.nonzero(table[:, 4] >= self._score)
        found = table[rows]
        scores = found[:, 5:] * found[:, 4:5]
        classes = scores.argmax(axis=1)
        best = scores[np.arange(len(rows)), classes]
        kept = best >= self._score
        found, rows, best, classes = found[kept], rows[kept], best[kept], classes[kept]
        strides = self._strides[rows, None]
        sizes = np.exp(found[:, 2:4]) * strides
        corners = (found[:, :2] + self._cells[rows]) * strides - sizes / 2
        boxes = np.concatenate([corners, sizes], axis=1)  # xywh, as the suppression wants them
        keep = cv2.dnn.NMSBoxesBatched(
            boxes.tolist(), best.tolist(), classes.tolist(), self._score, 0.5
        )
        boxes = boxes[keep]
        boxes[:, 2:] += boxes[:, :2]
        return np.clip(boxes * scale, 0, [width, height] * 2), best[keep], classes[keep]


def grid(size: int) -> tuple[Any, Any]:
    """Column and row of each cell of YOLOX, and its stride."""
    places, strides = [], []
    for stride in (8, 16, 32):
        side = size // stride
        y, x = np.mgrid[0:side, 0:side]
        places.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full(side * side, stride))
    return np.concatenate(places), np.concatenate(strides)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    loop, shown = PlainLoop(sys.argv[1]), cv2.imread(sys.argv[2])
    print(*(found.tolist() for found in loop(shown)), flush=True)
    if "--stay" in sys.argv:  # for whoever looks at its memory
        for _ in range(20):
            loop(shown)
        print("stays", flush=True)
        sys.stdin.read()
