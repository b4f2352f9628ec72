"""The ingest is killed, doubled, locked out and poisoned: nothing is lost or counted twice."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from broker import HOST, wait_until

from edge.wire import Batch, StoredEvent, encode, encode_batch

from .device import detection
from .stage import Stage

EPOCH = "0123456789abcdef"


def message(seq: int, device: str = "gate-99", **changes: object) -> bytes:
    """A valid event of a device that nobody runs."""
    from edge.clock import Clock

    event = msgspec.structs.replace(
        detection("life", seq, Clock()), device=device, epoch=EPOCH, seq=seq
    )
    return json.dumps({**json.loads(encode(event)), **changes}).encode()


POISON: list[tuple[str, bytes]] = [
    ("event/meter", b""),
    ("event/meter", b"\xff\xfe\x00"),
    ("event/meter", b"[]"),
    ("event/meter", b"[" * 100_000),
    ("event/meter", b'{"seq":1}'),
    ("event/meter", message(0)),
    ("event/meter", message(2**63)),
    ("event/meter", message(1, epoch="../../etc")),
    ("event/meter", message(1, device="gate-00")),  # speaks for another one
    ("event/meter", message(1, kind="gap", data={"epoch": EPOCH, "ranges": [[9, 3]], "count": 1,
                                                 "reason": "forged"})),
    ("event/meter", message(1, kind="gap", data={"ranges": "none"})),
    ("event/meter", message(1, time={"wall": "yesterday"})),
    ("event/meter", message(1)[:-1]),
    ("event/meter", message(1, kind="alarm", data={"code": "x" * (1 << 20), "detail": ""})),
    ("batch", b"\x00" * 100),
    ("batch", b'{"v":1,"count":1,"encoding":"zlib"}\nnot compressed'),
    ("batch", b'{"v":1,"count":1000000000,"encoding":"zlib"}\n'),
    ("batch", encode_batch(Batch([StoredEvent(seq=1, pipeline="m", payload=b"nonsense")]))),
    ("batch", encode_batch(Batch([StoredEvent(seq=1, pipeline="m", payload=bytes(17 << 20))]))),
    ("batch", encode_batch(Batch([StoredEvent(seq=1, pipeline="m", payload=b"\n" * 100_000)]))),
    ("telemetry", b"{"),
    ("telemetry", b'{"device":"gate-99","last_seq":-4}'),
    ("state", b"null"),
]  # fmt: skip


class Talker:
    """Somebody who may publish, and says anything."""

    def __init__(self, port: int) -> None:
        from paho.mqtt import client as paho

        self.acks: list[bytes] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _, __, message: self.acks.append(message.payload)
        self._client.connect(HOST, port)
        self._client.loop_start()
        self._client.subscribe("edge/v1/gate-99/ack", 1)

    def say(self, what: str, payload: bytes, device: str = "gate-99") -> None:
        self._client.publish(f"edge/v1/{device}/{what}", payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def talker(stage: Stage) -> Iterator[Talker]:
    it = Talker(stage.broker.port)
    yield it
    it.close()


def test_poison_of_every_kind_is_kept_aside_and_blocks_nobody(stage: Stage, talker: Talker) -> None:
    ingest = stage.ingest()
    device = stage.device(per_s=300.0)
    stage.more(50)
    for what, payload in POISON:
        talker.say(what, payload)
    wait_until(lambda: stage.ask("SELECT count(*) FROM poison")[0][0] >= len(POISON), 20)
    stage.more(50)
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["poisoned"] == len(POISON)
    assert [account["device"] for account in ledger["devices"]] == ["gate-07"]
    assert ingest.alive
    (largest,) = stage.ask("SELECT max(length(payload)) FROM poison")[0]
    assert largest <= 1 << 16, "kept aside, not kept whole"


def test_a_duplicate_is_removed_and_counted_once_whichever_way_it_comes(
    stage: Stage, talker: Talker
) -> None:
    stage.ingest()
    one, two = message(1), message(2)
    talker.say("event/meter", one)
    talker.say("event/meter", one)
    both = [StoredEvent(seq=1, pipeline="meter", payload=one),
            StoredEvent(seq=2, pipeline="meter", payload=two)]  # fmt: skip
    talker.say("batch", encode_batch(Batch(both)))
    talker.say("event/meter", two)
    wait_until(lambda: b'"hi":2' in b"".join(talker.acks), 10, "the acknowledgement")
    ledger = stage.reckon()
    assert (ledger["stored"], ledger["captured"]) == (2, 2)
    assert sum(day["duplicates"] for day in ledger["days"]) == 3
    assert stage.ask("SELECT payload FROM event ORDER BY seq") == [(one,), (two,)]


def test_nothing_is_acknowledged_that_is_not_committed(stage: Stage, talker: Talker) -> None:
    """While somebody else holds the database, events wait unacknowledged, and then are stored."""
    stage.ingest()
    talker.say("event/meter", message(1))
    wait_until(lambda: talker.acks, 10)
    heard = len(talker.acks)
    locker = sqlite3.connect(stage.db, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    talker.say("event/meter", message(2))
    time.sleep(1.0)
    assert len(talker.acks) == heard
    locker.execute("ROLLBACK")
    locker.close()
    wait_until(lambda: b'"hi":2' in talker.acks[-1], 20)
    assert stage.stored() == 2


@pytest.mark.timeout(120)
def test_a_database_that_is_locked_for_long_costs_no_event(stage: Stage) -> None:
    """Longer than SQLite waits by itself; the queue of the ingest runs full on the way."""
    ingest = stage.ingest(more=["--busy-s", "0.5"])
    device = stage.device(per_s=1500.0)
    stage.more(50)
    locker = sqlite3.connect(stage.db, isolation_level=None, timeout=20)
    locker.execute("BEGIN IMMEDIATE")
    time.sleep(6)
    assert "locked; trying again" in ingest.output
    locker.execute("ROLLBACK")
    locker.close()
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq


@pytest.mark.timeout(120)
def test_two_ingests_on_one_file_share_the_load_and_one_may_die(stage: Stage) -> None:
    first, second = stage.ingest("first"), stage.ingest("second")
    device = stage.device(per_s=500.0)
    stage.more(500)
    log = (stage.folder / "mosquitto.log").read_text()
    names = {*re.findall(r"Sending PUBLISH to (edgewright-ingest-\w+)", log)}
    shares = [log.count(f"Sending PUBLISH to {name} ") for name in names]
    assert len(shares) == 2 and min(shares) > sum(shares) / 4, shares
    for ingest in (first, second):
        ingest.kill()
        stage.more(200)
        ingest.start()
        wait_until(lambda ingest=ingest: ingest.output.count("listening") == 2, 20)
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq


def test_without_mqtt_5_one_ingest_does_it_alone(stage: Stage) -> None:
    stage.ingest(more=["--mqtt-version", "3.1.1"])
    device = stage.device(per_s=300.0, mqtt={"version": "3.1.1"})
    stage.more(200)
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq


def test_the_ledger_says_what_is_missing(stage: Stage, talker: Talker) -> None:
    """A device says that it has come to 5, and 3 never arrives: exit code 1, and its number."""
    stage.ingest()
    for seq in (1, 2, 4, 5):
        talker.say("event/meter", message(seq))
    wait_until(lambda: stage.stored() == 4, 10)
    ledger = stage.ledger()
    assert ledger["unexplained"] == 1
    assert ledger["devices"][0]["missing"] == [[3, 3]]
    gap = {"epoch": EPOCH, "ranges": [[3, 3]], "count": 1, "reason": "store full"}
    talker.say("event/device", message(6, kind="gap", data=gap))
    wait_until(lambda: stage.stored() == 5, 10)
    assert stage.reckon()["declared"] == 1
    talker.say("event/meter", message(3))
    wait_until(lambda: stage.stored() == 6, 10)
    ledger = stage.reckon()
    assert (ledger["declared"], ledger["stored"]) == (0, 6), "declared and stored is stored"
    assert json.loads(talker.acks[-1])["hi"] == 6


def test_a_file_of_a_newer_ingest_is_refused(tmp_path: Path) -> None:
    from edge.errors import OutboxError
    from edge.fleet.store import SqliteStore

    SqliteStore(tmp_path / "fleet.db").close()
    db = sqlite3.connect(tmp_path / "fleet.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(OutboxError, match="newer"):
        SqliteStore(tmp_path / "fleet.db")
