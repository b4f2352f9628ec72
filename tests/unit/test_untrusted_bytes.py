"""Whoever may publish can send anything: every parser answers, soon and in bounded memory."""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import draft
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.fleet import arrivals
from edge.fleet.store import Heard, Poison, Received, SqliteStore
from edge.sinks.mqtt import Mqtt
from edge.wire import (
    MAX_BATCH_EVENTS,
    Ack,
    Batch,
    GapData,
    StoredEvent,
    decode_batch,
    encode,
    encode_batch,
    event_of,
)

EPOCH = "0123456789abcdef"
TOPICS = st.one_of(
    st.sampled_from(
        [f"edge/v1/gate-07/{what}" for what in ("event/a", "batch", "telemetry", "state", "ack")]
    ),
    st.text(max_size=60),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
MUCH = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def valid(**changes: Any) -> bytes:
    event = msgspec.structs.replace(draft(), device="gate-07", epoch=EPOCH, seq=5)
    return json.dumps({**json.loads(encode(event)), **changes}).encode()


def a_gap() -> bytes:
    data = GapData(epoch=EPOCH, ranges=[(1, 3), (7, 9)], count=6, reason="store full")
    event = event_of(data, time=draft().time)
    return encode(msgspec.structs.replace(event, device="gate-07", epoch=EPOCH, seq=5))


def stored_event(payload: bytes) -> StoredEvent:
    return StoredEvent(seq=1, pipeline="a", payload=payload)


SEEDS = st.sampled_from(
    [
        valid(),
        a_gap(),
        encode_batch(Batch([stored_event(valid()), stored_event(a_gap())])),
        b'{"device":"gate-07","epoch":"0123456789abcdef","last_seq":7}',
        encode(Ack(epoch=EPOCH, hi=3, ranges=[(5, 6)])),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with something cut out, doubled, overwritten or put in."""
    data = bytearray(draw(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        piece = draw(
            st.binary(max_size=12)
            | st.sampled_from([b"null", b"-1", b"1e999", b"[", b"{", b'"', b"\n", b"\\ud800"])
        )
        data[place : place + length] = piece
    return bytes(data)


def check(found: list[Any]) -> None:
    """Arrivals that a store can take."""
    for arrival in found:
        if isinstance(arrival, Poison):
            assert len(arrival.payload) <= 1 << 16 and len(arrival.reason) <= 500
        elif isinstance(arrival, Received):
            assert arrival.device == "gate-07" and 1 <= arrival.seq <= 1 << 53
        else:
            assert isinstance(arrival, Heard)
    store = SqliteStore(Path(":memory:"))
    store.commit(found)
    store.accounts(), store.days()
    store.close()


@MUCH
@given(TOPICS, st.binary(max_size=300))
def test_any_bytes_on_any_topic(topic: str, payload: bytes) -> None:
    check(arrivals.read(topic, payload, prefix="edge/v1"))


@MUCH
@given(st.sampled_from(["event/a", "batch", "telemetry", "state"]), mutated())
def test_almost_valid_messages(what: str, payload: bytes) -> None:
    check(arrivals.read(f"edge/v1/gate-07/{what}", payload, prefix="edge/v1"))


@MUCH
@given(st.sampled_from(["seq", "epoch", "device", "kind", "pipeline", "time", "data", "v"]), JSON)
def test_an_event_with_any_value_in_any_field(field: str, value: Any) -> None:
    payload = valid(**{field: value})
    check(arrivals.read("edge/v1/gate-07/event/a", payload, prefix="edge/v1"))


@MUCH
@given(JSON)
def test_a_gap_with_any_content(data: Any) -> None:
    payload = valid(kind="gap", data=data)
    check(arrivals.read("edge/v1/gate-07/event/a", payload, prefix="edge/v1"))


@MUCH
@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(-5, 1 << 70))
def test_a_batch_of_anything_is_a_batch_or_a_value_error(
    header: bytes, body: bytes, count: int
) -> None:
    for data in (
        header,
        header + b"\n" + body,
        b'{"v":1,"count":%d,"encoding":"zlib"}\n' % count + body,
        b'{"v":1,"count":%d,"encoding":"zlib"}\n' % count + zlib.compress(body),
    ):
        try:
            assert all(isinstance(event, bytes) for event in decode_batch(data))
        except ValueError:
            pass


def bomb(size: int, *, unit: bytes, count: int) -> bytes:
    header = msgspec.json.encode({"v": 1, "count": count, "encoding": "zlib"})
    return header + b"\n" + zlib.compress(unit * (size // len(unit)), 9)


@pytest.mark.parametrize(
    "data",
    [
        bomb(1 << 28, unit=b"\0", count=1),
        bomb(16 << 20, unit=b"\n", count=(16 << 20) + 1),
        bomb(16 << 20, unit=b"{}\n", count=(16 << 20) // 3 + 1),
        bomb(1 << 20, unit=b"[" * 1024 + b"\n", count=1025),
        valid(data=0)[:-2] + b"[" * 900_000,
        b'{"device":' * 50_000,
    ],
)
def test_bombs_do_not_go_off(data: bytes) -> None:
    tracemalloc.start()
    began_s = time.monotonic()
    for what in ("batch", "event/a", "state"):
        found = arrivals.read(f"edge/v1/gate-07/{what}", data, prefix="edge/v1")
        assert len(found) <= MAX_BATCH_EVENTS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20
    assert time.monotonic() - began_s < 5


@MUCH
@given(st.binary(max_size=200) | mutated() | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_acknowledgement_is_ranges_or_nothing(payload: bytes) -> None:
    sink = Mqtt(Mqtt.Config(url="mqtt://nowhere", confirm="ingest"), device="gate-07")
    sink._epoch = EPOCH
    for low, high in sink._acknowledged(payload):
        assert isinstance(low, int) and isinstance(high, int)
