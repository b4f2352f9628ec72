"""Small valid things from which tests start, to use them or to break them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from broker import wait_until as wait_until

from edge.manifest import FORMAT, Decoder, Manifest, Variant, WindowPreprocess
from edge.payloads import ClassificationData
from edge.seams import Decode
from edge.types import Array, Detections, Frame, Geometry, Prediction, TensorSpec
from edge.wire import Event, ModelRef, SourceRef, Time

DIGITS = (*"0123456789", "between")
MODEL_FILES = {
    "models/a.onnx": b"the first model " * 40,
    "models/b.tflite": b"the other model " * 40,
    "golden/input.npy": b"numbers",
}


def manifest(**changes: Any) -> Manifest:
    """Two variants of a classifier of windows; its files are those of MODEL_FILES."""
    spec = {
        "inputs": (TensorSpec(name="window", shape=(1, 4, 2), layout="ntc"),),
        "outputs": (TensorSpec(name="logits", shape=(1, 2)),),
    }
    fields: dict[str, Any] = {
        "format": FORMAT,
        "name": "toy",
        "version": "1.2.0",
        "task": "classify",
        "labels": ("still", "moving"),
        "preprocess": WindowPreprocess(
            length=4, hop=2, rate_hz=10, channels=("x", "y"), mean=(0, 0), std=(1, 1)
        ),
        "decoder": Decoder(name="softmax"),
        "variants": (
            Variant(
                name="onnx-fp32", format="onnx", precision="fp32", file="models/a.onnx", **spec
            ),
            Variant(
                name="tflite-int8",
                format="tflite",
                precision="int8",
                file="models/b.tflite",
                **spec,
            ),
        ),
        "files": {name: {"size": 0, "sha256": ""} for name in MODEL_FILES},
    }
    return msgspec.convert(
        {**{key: msgspec.to_builtins(value) for key, value in fields.items()}, **changes}, Manifest
    )


def draft(label: str = "walking", *, pipeline: str = "wrist") -> Event:
    """An event as a pipeline hands it to the outbox."""
    data = ClassificationData(label=label, score=0.75, scores={label: 0.75, "other": 0.25})
    return Event(
        kind="classification",
        pipeline=pipeline,
        time=Time(wall="2026-11-23T12:00:00.123Z", mono_ns=5, boot="b00t"),
        source=SourceRef(name=pipeline, frame=991),
        model=ModelRef(name="toy", version="1.2.0", bundle="sha256:00", variant="onnx-fp32"),
        engine="onnx:cpu",
        data=msgspec.Raw(msgspec.json.encode(data)),
    )


def frame(data: Array, number: int = 0) -> Frame:
    return Frame(data=data, source="test", number=number, mono_ns=number, wall_ns=number)


def row(text: str, *, score: float = 0.9, y: float = 100.0, height: float = 20.0) -> Detections:
    """Digits in a row from left to right; "_" is a wheel between two digits."""
    names = ["between" if name == "_" else name for name in text]
    left = np.arange(len(text), dtype=np.float32) * 15
    boxes = np.stack([left, left * 0 + y, left + 12, left * 0 + y + height], axis=1)
    return Detections(
        boxes,
        np.full(len(text), score, np.float32),
        np.array([DIGITS.index(name) for name in names], np.int64),
        DIGITS,
    )


class Running:
    """A worker's `run(stop)` in a thread; left with `stop` set and the thread joined."""

    def __init__(self, run: Callable[[threading.Event], None]) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=run, args=(self.stop,), daemon=True)

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the worker does not end when it is asked to"


def apart(decode: Decode) -> Decode:
    """The same decoder, which fails when a prediction shares memory with the outputs: a stream
    writes the next frame's there."""

    class Checked:
        Params = decode.Params

        def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Prediction:
            prediction = decode(raw, geometry)
            for field in dataclasses.fields(prediction):
                value = getattr(prediction, field.name)
                for array in value if isinstance(value, tuple) else (value,):
                    if isinstance(array, np.ndarray):
                        assert not any(np.shares_memory(array, given) for given in raw.values())
            return prediction

    return Checked()
