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

Any .onnx or .tflite runs in the place of a bundle; `edge.Hints` says what its file does not:

    with edge.load("model.onnx", hints=edge.Hints(labels=("cat", "dog"))) as model:
        ...

Everything beyond that (several pipelines, MQTT, the outbox) is `edge run edge.toml`.
Importing this package imports next to nothing: names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

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
    from edge.hints import Hints
    from edge.model import Model, load
    from edge.pipeline import Pipeline, Step
    from edge.types import Classification, Detections, Frame, Reading
    from edge.wire import Event

__all__ = [
    "Bundle",
    "BundleError",
    "Classification",
    "ConfigError",
    "Detections",
    "EdgeError",
    "EngineError",
    "Event",
    "Frame",
    "FrameError",
    "Hints",
    "Model",
    "OutboxError",
    "Pipeline",
    "Reading",
    "SinkError",
    "SourceError",
    "Step",
    "load",
]

_HOMES = {
    "Bundle": "bundle",
    "Model": "model",
    "load": "model",
    "Hints": "hints",
    "Pipeline": "pipeline",
    "Step": "pipeline",
    "Classification": "types",
    "Detections": "types",
    "Frame": "types",
    "Reading": "types",
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
