"""The wire: events and reports as they travel and rest. Plain structs, JSON, no arrays.

An event's bytes never change once committed: what is learned later travels beside it. Readers
ignore fields that they do not know; numbers are finite.
"""

from __future__ import annotations

import datetime
import zlib
from typing import Any, Literal

import msgspec

from edge.happenings import CountData, CrossingData, Happening, ZoneData
from edge.payloads import (
    AnomalyData,
    ClassificationData,
    Content,
    DepthData,
    DetectionsData,
    EmbeddingData,
    InstancesData,
    KeypointsData,
    OrientedData,
    ReadingData,
    RegressionData,
    SegmentationData,
)

VERSION = 1
DEVICE_PIPELINE = "device"
"""The pipeline under which events travel that no pipeline made."""
MAX_BATCH_BYTES = 16 << 20
MAX_BATCH_EVENTS = 10_000
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes from anybody may raise."""


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """When the frame was captured: wall clock (UTC) and monotonic clock of this boot.

    `clock` says whether the kernel holds the wall clock for synchronised, as far as it can tell.
    """

    wall: str
    mono_ns: int
    boot: str
    clock: Literal["synced", "unsynced", "unknown"] = "unknown"


class SourceRef(msgspec.Struct, frozen=True, kw_only=True):
    """The source and the number of the frame that an event speaks of."""

    name: str
    frame: int


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which model said it: `bundle` is the bundle's identity, `variant` e.g. onnx-int8."""

    name: str
    version: str
    bundle: str
    variant: str


class GapData(msgspec.Struct, frozen=True, kw_only=True):
    """Events of `epoch` that are declared lost: inclusive `ranges` of seqs, their count, and why.

    Of a store that was lost as a whole only the upper bound is known: what turns out to be stored
    counts as stored.
    """

    epoch: str
    ranges: list[tuple[int, int]]
    count: int
    reason: str


class ClockData(msgspec.Struct, frozen=True, kw_only=True):
    """The wall clock jumped by `offset_ms` at `mono_ns` of `boot`.

    Events of that boot from before `mono_ns` were stamped by the old clock: their true wall time is
    theirs plus `offset_ms`, if the new clock is to be believed.
    """

    boot: str
    mono_ns: int
    offset_ms: int


class AlarmData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a person has to look at: a `code` for machines, a `detail` for people.

    `facts` are the numbers behind it, such as `frames_lost` and `down_s`.
    """

    code: str
    detail: str
    facts: dict[str, float] = {}


Payload = Content | Happening | GapData | ClockData | AlarmData

PAYLOADS: dict[str, type[Payload]] = {
    "detections": DetectionsData,
    "instances": InstancesData,
    "keypoints": KeypointsData,
    "oriented": OrientedData,
    "classification": ClassificationData,
    "segmentation": SegmentationData,
    "anomaly": AnomalyData,
    "depth": DepthData,
    "regression": RegressionData,
    "embedding": EmbeddingData,
    "reading": ReadingData,
    "zone": ZoneData,
    "crossing": CrossingData,
    "count": CountData,
    "gap": GapData,
    "clock": ClockData,
    "alarm": AlarmData,
}
_KINDS = {payload: kind for kind, payload in PAYLOADS.items()}


Context = dict[str, dict[str, float]]
"""The latest sample of each sensor beside a pipeline, by channel, and its age."""
AGE = "age_s"
"""How many seconds a sample is older than the frame; below 0 when it came later."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What is reported and kept. (device, epoch, seq) is unique for ever.

    All three are given by the outbox inside its commit; before that they are empty. `context` is
    there where a pipeline has sensors beside its source.
    """

    v: int = VERSION
    device: str = ""
    epoch: str = ""
    seq: int = 0
    kind: str
    pipeline: str
    time: Time
    source: SourceRef | None = None
    model: ModelRef | None = None
    engine: str | None = None
    context: Context | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw

    @property
    def payload(self) -> Payload | dict[str, Any]:
        """`data` decoded by `kind`; a plain dict for a kind that this version does not know."""
        known = PAYLOADS.get(self.kind)
        if known is None:
            return msgspec.json.decode(self.data, type=dict[str, Any])
        return msgspec.json.decode(self.data, type=known)


class _BatchHeader(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    count: int
    encoding: Literal["zlib"]


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver has committed: everything of `epoch` up to `hi`, and `ranges` above it."""

    v: int = VERSION
    epoch: str
    hi: int
    ranges: list[tuple[int, int]] = []


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the outbox holds it: its number, its pipeline, and its unchanging bytes."""

    seq: int
    pipeline: str
    payload: bytes


class Batch(msgspec.Struct, frozen=True):
    """Committed events that travel as one message, because they are old: the backlog."""

    events: list[StoredEvent]


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """The source of one pipeline: starting, running, lost, ended or failed."""

    state: str
    detail: str = ""


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the nodes of a model run, counted by the runtime itself: {"openvino": 94, "cpu": 2}.

    `nodes` is empty where the runtime cannot tell: unknown. `elsewhere` counts by operator those
    that are not on the accelerator that was asked for.
    """

    nodes: dict[str, int] = {}
    elsewhere: dict[str, int] = {}

    def __str__(self) -> str:
        counted = ", ".join(f"{count} on {place}" for place, count in self.nodes.items())
        return f"nodes: {counted}" if counted else "nodes: unknown"


class PipelineState(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline runs: model, variant, engine in use and where it runs, and its source.

    `fallback` says why it is not the engine that was asked for; empty when it is. `sensors` are
    those beside the source.
    """

    model: ModelRef
    engine: str
    source: SourceState
    placement: Placement = Placement()
    fallback: str = ""
    sensors: dict[str, SourceState] = {}


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The retained `state` message: birth when online, will when not.

    `connection` counts the connections of this outbox: a reader drops a message whose number is
    lower than one it has seen (the will of an old connection can arrive late).
    """

    v: int = VERSION
    device: str
    online: bool
    connection: int
    version: str = ""
    epoch: str = ""
    last_seq: int = 0
    pipelines: dict[str, PipelineState] = {}


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds over the last frames: median, 95th and 99th percentile."""

    p50: float
    p95: float
    p99: float


class PipelineTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start of the agent, and latencies from capture to rules by stage.

    Of what was `received` from the source every one is in `frames`, `drops`, `bad_frames` or
    `idle`, or is being worked on. `idle` frames were skipped by the motion gate; `state_resets`
    says how often a recurrent model had to start anew after a gap. `source` is what the source
    counts itself, such as samples that came late.
    """

    frames: int
    drops: int
    bad_frames: int
    events: int
    fps: float
    latency_ms: dict[str, Latency]
    idle: int = 0
    state_resets: int = 0
    received: int = 0
    source: dict[str, int] = {}
    sensors: dict[str, dict[str, int]] = {}


class EngineTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One engine: its runs for all `streams`, how long they took and how long they waited for it.

    Counted are outputs that were not finite, checks because the output stood still, and runs that
    took longer than they may.
    """

    streams: int
    runs: int
    infer_ms: Latency | None
    wait_ms: Latency | None
    not_finite: int
    still: int
    over_time: int


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """How the device is doing: counters, the outbox and what the board shows of itself."""

    v: int = VERSION
    device: str
    time: Time
    pipelines: dict[str, PipelineTelemetry]
    epoch: str
    last_seq: int
    outbox: dict[str, int]
    outbox_drops: int
    memory_mb: float
    temperature_c: float | None = None
    engines: dict[str, EngineTelemetry] = {}


def event_of(payload: Payload, *, time: Time, pipeline: str = DEVICE_PIPELINE) -> Event:
    """A draft of an event that speaks of the device itself, not of a frame."""
    return Event(
        kind=kind_of(payload),
        pipeline=pipeline,
        time=time,
        data=msgspec.Raw(msgspec.json.encode(payload)),
    )


def kind_of(payload: Payload) -> str:
    """The event kind under which a payload travels."""
    return _KINDS[type(payload)]


def wall_text(wall_ns: int) -> str:
    """Nanoseconds since 1970 -> ISO 8601 in UTC: 2026-11-23T12:00:00.123Z."""
    moment = datetime.datetime.fromtimestamp(wall_ns // 1_000_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns // 1_000_000 % 1000:03d}Z"


def encode(message: Event | State | Telemetry | Ack) -> bytes:
    """JSON bytes of a message."""
    return msgspec.json.encode(message)


def decode_event(data: bytes) -> Event:
    """An event from its JSON bytes; msgspec.DecodeError when it is not one."""
    return msgspec.json.decode(data, type=Event)


def encode_batch(batch: Batch) -> bytes:
    """A header line of JSON, then the events' JSON lines, compressed by zlib."""
    header = {"v": VERSION, "historical": True, "count": len(batch.events), "encoding": "zlib"}
    lines = b"\n".join(event.payload for event in batch.events)
    return msgspec.json.encode(header) + b"\n" + zlib.compress(lines, 6)


def decode_batch(data: bytes, *, max_bytes: int = MAX_BATCH_BYTES) -> list[bytes]:
    """The events' bytes of a batch. ValueError when it is not one, or unpacks to too much."""
    header, _, body = data.partition(b"\n")
    try:
        facts = msgspec.json.decode(header, type=_BatchHeader)
        unpacker = zlib.decompressobj()
        lines = unpacker.decompress(body, max_bytes)
    except (*MALFORMED, zlib.error) as error:
        raise ValueError(f"not a batch: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"a batch is cut off, or unpacks to more than {max_bytes} bytes")
    count = lines.count(b"\n") + 1
    if count != facts.count or count > MAX_BATCH_EVENTS:
        raise ValueError(f"a batch says {facts.count} events and holds {count}")
    return lines.split(b"\n")


def event_schema() -> dict[str, Any]:
    """JSON Schema of an event: `data` as the payload that `kind` names."""
    payloads, components = msgspec.json.schema_components(
        PAYLOADS.values(), ref_template="#/$defs/{name}"
    )
    (root,), event_components = msgspec.json.schema_components(
        [Event], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "$defs": {**event_components, **components},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}},
                "then": {"properties": {"data": schema}},
            }
            for kind, schema in zip(PAYLOADS, payloads, strict=True)
        ],
    }
