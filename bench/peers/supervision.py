"""roboflow supervision: the loop that its users write, with its Detections and its suppression."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import supervision
from plain_loop import grid

from peers.worker import session_of


class Peer:
    """YOLOX at 416."""

    version = f"supervision {supervision.__version__}"

    def __init__(self, model: str, threshold: float) -> None:
        self._session = session_of(model)
        self._input = self._session.get_inputs()[0].name
        self._threshold = threshold
        self._cells, self._strides = grid(416)

    def __call__(self, picture: Any) -> Any:
        height, width = picture.shape[:2]
        scale = min(416 / height, 416 / width)
        letterbox = np.full((416, 416, 3), 114, np.uint8)
        small = cv2.resize(picture, (round(width * scale), round(height * scale)))
        letterbox[: small.shape[0], : small.shape[1]] = small
        tensor = letterbox.transpose(2, 0, 1)[None].astype(np.float32)
        (output,) = self._session.run(None, {self._input: tensor})
        table = output[0]
        scores = table[:, 5:] * table[:, 4:5]
        classes = scores.argmax(axis=1)
        best = scores.max(axis=1)
        kept = best >= self._threshold
        strides = self._strides[kept, None]
        centres = (table[kept, :2] + self._cells[kept]) * strides
        sizes = np.exp(table[kept, 2:4]) * strides
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) / scale
        found = supervision.Detections(
            xyxy=np.clip(boxes, 0, [width, height] * 2),
            confidence=best[kept],
            class_id=classes[kept],
        )
        return found.with_nms(threshold=0.5)

    def found(self, picture: Any) -> list[Any]:
        """Boxes, scores and classes as plain lists."""
        found = self(picture)
        rows = zip(
            found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
        )
        return [list(row) for row in rows]
