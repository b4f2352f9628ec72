"""What a message from the broker is: events, a batch of them, how far a device has come, or poison.

Pure. Whatever the bytes are, the answer is a list of arrivals; nothing here raises.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from edge.fleet.store import Arrival, Heard, Poison, Received
from edge.wire import MALFORMED, GapData, decode_batch

MAX_EVENT_BYTES = 1 << 20
_MAX_KEPT_BYTES = 1 << 16
_MAX_SEQ = 1 << 53
_MAX_GAP_RANGES = 100_000
_TOPIC = re.compile(r"(?P<device>[^/]+)/(?P<what>event/[^/]+|batch|telemetry|state)\Z")

_Seq = Annotated[int, msgspec.Meta(ge=1, le=_MAX_SEQ)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]


class _Time(msgspec.Struct, frozen=True):
    wall: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}T")]


class _Header(msgspec.Struct, frozen=True):
    """What an event is filed under; the rest of it is kept as it came."""

    device: _Name
    epoch: _Epoch
    seq: _Seq
    kind: _Name
    pipeline: _Name
    time: _Time
    data: msgspec.Raw


class _Progress(msgspec.Struct, frozen=True):
    """The part of telemetry and state that an ingest reads."""

    device: _Name
    epoch: str = ""
    last_seq: Annotated[int, msgspec.Meta(ge=0, le=_MAX_SEQ)] = 0


def read(topic: str, payload: bytes, *, prefix: str) -> list[Arrival]:
    """A message -> what to store. `prefix` is what devices' topics start with."""
    match = _TOPIC.match(topic.removeprefix(f"{prefix}/"))
    if match is None:
        return [_poison(topic, "an unknown topic", payload)]
    device, what = match["device"], match["what"]
    if what == "batch":
        try:
            events = decode_batch(payload)
        except ValueError as error:
            return [_poison(topic, str(error), payload)]
        return [_event(topic, device, event) for event in events]
    if what in ("telemetry", "state"):
        return _progress(topic, device, payload)
    return [_event(topic, device, payload)]


def _event(topic: str, device: str, payload: bytes) -> Arrival:
    if len(payload) > MAX_EVENT_BYTES:
        return _poison(topic, f"larger than {MAX_EVENT_BYTES} bytes", payload)
    try:
        header = msgspec.json.decode(payload, type=_Header)
        gap = msgspec.json.decode(header.data, type=GapData) if header.kind == "gap" else None
    except MALFORMED as error:
        return _poison(topic, f"not an event: {error}", payload)
    if header.device != device:
        return _poison(topic, f"speaks for another device, {header.device}", payload)
    if gap is not None and not _plausible(gap):
        return _poison(topic, "a gap with impossible ranges", payload)
    return Received(
        device=device,
        epoch=header.epoch,
        seq=header.seq,
        kind=header.kind,
        pipeline=header.pipeline,
        day=header.time.wall[:10],
        payload=payload,
        gap=gap,
    )


def _plausible(gap: GapData) -> bool:
    return len(gap.ranges) <= _MAX_GAP_RANGES and all(
        1 <= low <= high <= _MAX_SEQ for low, high in gap.ranges
    )


def _progress(topic: str, device: str, payload: bytes) -> list[Arrival]:
    try:
        progress = msgspec.json.decode(payload, type=_Progress)
    except MALFORMED as error:
        return [_poison(topic, f"not a report: {error}", payload)]
    if progress.device != device or not progress.epoch:
        return []
    return [Heard(device=device, epoch=progress.epoch, last_seq=progress.last_seq)]


def _poison(topic: str, reason: str, payload: bytes) -> Poison:
    return Poison(topic=topic[:1000], reason=reason[:500], payload=payload[:_MAX_KEPT_BYTES])
