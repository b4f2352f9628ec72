"""A plain loop for quantised TFLite models: stretch, RGB, invoke, and only the numbers needed.

Shares nothing with edge.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


class PlainTflite:
    """One interpreter; `prepare` fills its input, `answers` gives its outputs in their order."""

    def __init__(self, model: str, *, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=model, num_threads=threads)
        self.interpreter.allocate_tensors()
        (given,) = self.interpreter.get_input_details()
        self._input = given["index"]
        self._outputs = self.interpreter.get_output_details()
        _, self._height, self._width, _ = given["shape"]
        self._small = np.zeros((self._height, self._width, 3), np.uint8)
        self._tensor = np.zeros(tuple(given["shape"]), np.uint8)

    def bare(self) -> None:
        """The interpreter's own calls on a kept input."""
        self.interpreter.set_tensor(self._input, self._tensor)
        self.interpreter.invoke()
        for output in self._outputs:
            self.interpreter.get_tensor(output["index"])

    def answers(self, picture: Any) -> list[Any]:
        """The outputs for a picture uint8 [H, W, 3] BGR."""
        cv2.resize(picture, (self._width, self._height), dst=self._small)
        cv2.cvtColor(self._small, cv2.COLOR_BGR2RGB, dst=self._tensor[0])
        self.interpreter.set_tensor(self._input, self._tensor)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(output["index"]) for output in self._outputs]

    def best(self, picture: Any) -> tuple[int, float]:
        """A classifier's class and its score."""
        (scores,) = self.answers(picture)
        index = int(scores[0].argmax())
        scale, zero = self._outputs[0]["quantization"]
        return index, (float(scores[0, index]) - zero) * scale

    def boxes(self, picture: Any, score: float) -> tuple[Any, Any, Any]:
        """An SSD's boxes xyxy in pixels of the picture, scores and classes."""
        height, width = picture.shape[:2]
        boxes, classes, scores, _ = self.answers(picture)
        kept = scores[0] >= score
        placed = boxes[0][kept][:, [1, 0, 3, 2]] * [width, height, width, height]
        return np.clip(placed, 0, [width, height] * 2), scores[0][kept], classes[0][kept]
