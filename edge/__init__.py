"""Edgewright on the device: a verified bundle in, predictions and durable events out.

Read a picture with a bundle:

    import edge

    with edge.load("builtin:meter_reader") as model:
        detections = model.predict(picture)        # uint8 [H, W, 3], BGR
        print(detections.names, detections.scores, detections.boxes)   # xyxy in pixels

Watch a source, frame by frame:

    with edge.Pipeline("gate", bundle="builtin:meter_reader",
                       source={"type": "camera", "url": "rtsp://cam/1"}) as pipeline:
        for step in pipeline:
            print(step.frame.number, step.prediction, step.outcome)

Everything beyond that (several pipelines, MQTT, the outbox) is `edge run edge.toml`.
Importing this package imports next to nothing: names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.errors import (
        BundleError,
        ConfigError,
        EdgeError,
        EngineError,
        FrameError,
        OutboxError,
        SinkError,
        SourceError,
    )
    from edge.model import Model, load
    from edge.pipeline import Pipeline, Step
    from edge.types import (
        Anomaly,
        Classification,
        Depth,
        Detections,
        Embedding,
        Frame,
        Instances,
        Keypoints,
        Oriented,
        Reading,
        Regression,
        Segmentation,
    )
    from edge.wire import Event

__all__ = [
    "Anomaly",
    "Bundle",
    "BundleError",
    "Classification",
    "ConfigError",
    "Depth",
    "Detections",
    "EdgeError",
    "Embedding",
    "EngineError",
    "Event",
    "Frame",
    "FrameError",
    "Instances",
    "Keypoints",
    "Model",
    "Oriented",
    "OutboxError",
    "Pipeline",
    "Reading",
    "Regression",
    "Segmentation",
    "SinkError",
    "SourceError",
    "Step",
    "load",
]

_HOMES = {
    "Bundle": "bundle",
    "Model": "model",
    "load": "model",
    "Pipeline": "pipeline",
    "Step": "pipeline",
    "Anomaly": "types",
    "Classification": "types",
    "Depth": "types",
    "Detections": "types",
    "Embedding": "types",
    "Frame": "types",
    "Instances": "types",
    "Keypoints": "types",
    "Oriented": "types",
    "Reading": "types",
    "Regression": "types",
    "Segmentation": "types",
    "Event": "wire",
}


def __getattr__(name: str) -> object:
    """A public name at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edge.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
