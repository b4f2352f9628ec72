"""Ultralytics: its letterbox, its suppression in torch and its Results, around an ONNX session.

Its own predictor decodes its own families only; these are the parts that it runs for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import ultralytics
from plain_loop import grid
from ultralytics.data.augment import LetterBox
from ultralytics.engine.results import Results
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

from peers.worker import session_of


class Peer:
    """YOLOX at 416."""

    version = f"ultralytics {ultralytics.__version__}"

    def __init__(self, model: str, threshold: float) -> None:
        torch.set_num_threads(1)
        self._session = session_of(model)
        self._input = self._session.get_inputs()[0].name
        self._threshold = threshold
        self._letterbox = LetterBox((416, 416), auto=False, center=False)
        cells, strides = grid(416)
        self._cells, self._strides = (torch.from_numpy(a).float() for a in (cells, strides))

    def __call__(self, picture: Any) -> Any:
        image = self._letterbox(image=picture)
        tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32)
        table = torch.from_numpy(self._session.run(None, {self._input: tensor})[0])
        strides = self._strides[:, None]
        centres = (table[..., :2] + self._cells) * strides
        sizes = table[..., 2:4].exp() * strides
        raw = torch.cat([centres, sizes, table[..., 5:] * table[..., 4:5]], dim=-1)
        (kept,) = non_max_suppression(raw.transpose(1, 2), self._threshold, 0.5)
        kept[:, :4] = scale_boxes((416, 416), kept[:, :4], picture.shape, padding=False)
        names = {number: str(number) for number in range(80)}
        return Results(picture, path="", names=names, boxes=kept)

    def found(self, picture: Any) -> list[Any]:
        """Boxes, scores and classes as plain lists."""
        boxes = self(picture).boxes
        rows = zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
        return [[box, score, int(label)] for box, score, label in rows]
