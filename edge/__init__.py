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
Importing this package imports no engine, no cv2 and no command line.
"""

from __future__ import annotations

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
    "Model",
    "OutboxError",
    "Pipeline",
    "Reading",
    "SinkError",
    "SourceError",
    "Step",
    "load",
]
