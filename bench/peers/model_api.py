"""OpenVINO model_api: its wrapper of YOLOX, on OpenVINO with one thread and exact precision."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import YOLOX


class _Yolox(YOLOX):
    """Version 0.4 puts the letterbox into the graph, and forgets the scale that it then needs."""

    def postprocess(self, outputs: Any, meta: Any) -> Any:
        height, width = meta["original_shape"][:2]
        meta.setdefault("scale", min(self.w / width, self.h / height))
        return super().postprocess(outputs, meta)


class Peer:
    """The classes are suppressed one by one, as everywhere else here."""

    version = f"openvino-model-api {importlib.metadata.version('openvino-model-api')}"

    def __init__(self, model: str, threshold: float) -> None:
        adapter = OpenvinoAdapter(
            create_core(),
            model,
            device="CPU",
            plugin_config={"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"},
        )
        configuration = {
            "confidence_threshold": threshold, "iou_threshold": 0.5, "agnostic_nms": False,
            "resize_type": "fit_to_window", "pad_value": 114,
        }  # fmt: skip
        self._model = _Yolox(adapter, configuration, preload=True)

    def __call__(self, picture: Any) -> Any:
        return self._model(picture)

    def found(self, picture: Any) -> list[Any]:
        """Boxes, scores and classes as plain lists."""
        found = self._model(picture)
        rows = zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        return [list(row) for row in rows]
