"""The seams of the house: what an adapter must do, and the tables in which adapters are found.

A seam is a Protocol of at most four methods. An adapter is one class in one file, named here as
"module:Class"; its library is imported when the adapter is built, never with the package. Packages
that the device's owner installs add to a table by an entry point of the group `edge.<seam>`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from edge.errors import ConfigError
from edge.happenings import Happening
from edge.types import Array, Detections, Frame, Geometry, Outcome, Prediction, TensorSpec
from edge.wire import Batch, Placement, SourceState, State, StoredEvent, Telemetry

SOURCES = {
    "camera": "edge.sources.camera:Camera",
    "video": "edge.sources.camera:Video",
    "images": "edge.sources.images:Images",
    "csv": "edge.sources.samples:Csv",
    "jsonl": "edge.sources.samples:JsonLines",
    "demo-meter": "edge.sources.synthetic:DemoMeter",
    "demo-wrist": "edge.sources.synthetic:DemoWrist",
}
ENGINES = {
    "onnx": "edge.engines.onnx:OnnxEngine",
    "tflite": "edge.engines.tflite:TfliteEngine",
    "openvino": "edge.engines.openvino:OpenVinoEngine",
}
SINKS = {
    "mqtt": "edge.sinks.mqtt:Mqtt",
    "jsonl": "edge.sinks.jsonl:JsonLines",
}
DECODERS = {
    "anomaly": "edge.postprocess.maps:Anomaly",
    "boxes_scores": "edge.postprocess.ssd:BoxesScores",
    "depth": "edge.postprocess.maps:Depth",
    "detr": "edge.postprocess.ssd:Detr",
    "distribution": "edge.postprocess.distribution:Distribution",
    "embedding": "edge.postprocess.vectors:Embedding",
    "end_to_end": "edge.postprocess.yolo:EndToEnd",
    "fastestdet": "edge.postprocess.distribution:FastestDet",
    "heatmaps": "edge.postprocess.shapes:Heatmaps",
    "listed": "edge.postprocess.ssd:Listed",
    "ltrb_grid": "edge.postprocess.detect:LtrbGrid",
    "movenet": "edge.postprocess.shapes:MoveNet",
    "regression": "edge.postprocess.vectors:Regression",
    "scores": "edge.postprocess.vectors:Scores",
    "semantic": "edge.postprocess.maps:Semantic",
    "sigmoid": "edge.postprocess.vectors:Sigmoid",
    "softmax": "edge.postprocess.vectors:Softmax",
    "ssd_anchors": "edge.postprocess.ssd:SsdAnchors",
    "yolo_oriented": "edge.postprocess.shapes:YoloOriented",
    "yolo_pose": "edge.postprocess.shapes:YoloPose",
    "yolo_segment": "edge.postprocess.shapes:YoloSegment",
    "yolov5": "edge.postprocess.yolo:Yolov5",
    "yolov8": "edge.postprocess.yolo:Yolov8",
    "yolox": "edge.postprocess.yolo:Yolox",
}
RULES = {
    "filter": "edge.rules:Filter",
    "debounce": "edge.rules:Debounce",
    "on_change": "edge.rules:OnChange",
    "reading": "edge.reading:ReadingRule",
    "track": "edge.tracking:Track",
    "entered": "edge.zones:Entered",
    "left": "edge.zones:Left",
    "dwell": "edge.zones:Dwell",
    "count": "edge.zones:Count",
    "line": "edge.lines:Line",
}
_TABLES = {
    "sources": SOURCES,
    "engines": ENGINES,
    "sinks": SINKS,
    "decoders": DECODERS,
    "rules": RULES,
}


class EndOfStream(Exception):
    """The source has given its last frame."""


class Source(Protocol):
    """Gives frames. Built cheaply; it opens its device or file at the first `read`.

    `live`: the newest frame wins and drops are counted; otherwise nothing is dropped and the
    source waits. A lost camera is a `state` of the source, which goes on trying.
    """

    Config: ClassVar[type[Any]]
    live: bool
    state: SourceState

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame; None when none came within `timeout_s`.

        EndOfStream after the last one; FrameError for one that cannot be used (read on);
        SourceError when this source can never work as it is configured.
        """

    def close(self) -> None:
        """Let go of the device or file. May be called twice, and from another thread."""


class Engine(Protocol):
    """Runs one variant on one accelerator; stateless, not thread-safe (see EngineHost).

    Built as `(model: bytes, *, accelerator: str, options: Options | None, precision: str,
    threads: int)`; EngineError when it cannot run the model there. `formats` are the variants that
    it takes; `name` is where it runs, e.g. onnx:cpu; `placement` what the runtime says of it;
    `version` names the runtime.
    """

    formats: ClassVar[tuple[str, ...]]
    name: str
    version: str
    placement: Placement
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """Named tensors in, named tensors out. The outputs belong to the caller.

        `into` holds arrays, kept by the caller, for outputs of fixed shape: those are written in
        place and returned, and the engine may keep both them and the inputs bound. Any other
        output is a fresh array.

        EngineError for what does not fit, and when the runtime fails.
        """

    def close(self) -> None:
        """Free what the runtime holds."""


Message = StoredEvent | Batch | State | Telemetry


class Answers(NamedTuple):
    """What a sink's receiver said: inclusive ranges of seqs that it holds for good, and seqs that
    it will not have, with the reason."""

    confirmed: list[tuple[int, int]]
    refused: Sequence[tuple[int, str]] = ()


class Sink(Protocol):
    """Publishes messages and says what was confirmed. Used by one sender thread.

    `room` is how many messages `send` would take now; `batches` whether a Batch may be among them.
    """

    Config: ClassVar[type[Any]]
    room: int
    batches: bool

    def open(self, state: State | None) -> None:
        """Connect and announce `state`; with None only try the connection.

        SinkError when that fails.
        """

    def send(self, messages: Sequence[Message]) -> None:
        """Start publishing. Events will be confirmed by `poll`; state and telemetry are not kept.

        SinkError when the connection is gone: whatever was not confirmed will be sent again.
        """

    def poll(self, timeout_s: float) -> Answers:
        """What was confirmed and refused since the last call; waits for the first of it.

        SinkError when the connection is gone.
        """

    def close(self) -> None:
        """Say good-bye and let go; idempotent."""


class Decode(Protocol):
    """Raw tensors -> a prediction in source coordinates. Pure."""

    Params: ClassVar[type[Any]]

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Prediction:
        """One frame's outputs -> its prediction. FrameError when they are not finite."""


class Rule(Protocol):
    """One step from predictions to what is worth an event. Keeps state, does no I/O."""

    Config: ClassVar[type[Any]]

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """What goes on to the next rule, or None when there is nothing to report."""


@runtime_checkable
class Watcher(Protocol):
    """A rule that looks on and reports events of its own. Keeps state, does no I/O.

    `needs_ids`: it sees tracked objects only, so that the rule `track` must come before it.
    """

    Config: ClassVar[type[Any]]
    needs_ids: bool

    def watch(self, found: Detections, mono_ns: int, size: tuple[int, int]) -> Sequence[Happening]:
        """What is noticed of one frame; `size` is the width and height of the source's picture."""


@functools.cache
def _installed(seam: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"edge.{seam}")}


def names(seam: str) -> list[str]:
    """The names that a seam's table knows, installed packages included."""
    return sorted({*_TABLES[seam], *_installed(seam)})


def find(seam: str, name: str) -> Any:
    """The adapter class of that name. ConfigError with the known names when there is none."""
    if name in _TABLES[seam]:
        module, _, attribute = _TABLES[seam][name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name in _installed(seam):
        return _installed(seam)[name].load()
    raise ConfigError(f"no {seam[:-1]} is called {name!r}; there are {', '.join(names(seam))}")
