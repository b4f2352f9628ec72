"""What durable reporting costs and carries: from capture to the database's own word, and back.

    python bench/reporting.py [--events 20000] [--backlog 100000] [--rounds 3] [--json]

Needs mosquitto. Events have ten boxes. Every figure is a median over the rounds; `end to end` and
its yardstick, plain paho publishing at QoS 1 to the same broker, take turns, so that a change of
the machine's speed hits both. The ingest and its database run as a process of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.clock import Clock
from edge.config import OutboxConfig
from edge.fleet.ingest import Ingest
from edge.fleet.store import Arrival, SqliteStore, Stream
from edge.mqtt import BrokerConfig
from edge.outbox import Outbox
from edge.payloads import DetectionsData
from edge.sender import Sender
from edge.sinks.mqtt import Mqtt
from edge.wire import (
    Ack,
    Batch,
    Event,
    ModelRef,
    SourceRef,
    State,
    StoredEvent,
    encode_batch,
    kind_of,
)

DEVICE = "gate-07"
QUICK = OutboxConfig(max_pending_events=5000, backlog_per_s=1e6, max_unconfirmed=8000)
BATCH = 64
COMMIT_S = 0.005
"""The latency that is given to each commit where two ingests are held against one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--slow-ingest", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.slow_ingest:
        slow_ingest(*options.slow_ingest)
        return
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as url:
        folder = Path(name)
        pairs = [
            (end_to_end(folder, url, options.events), plain_paho(url, options.events))
            for _ in range(options.rounds)
        ]
        rows["confirmed_per_s"] = round(statistics.median(ours for ours, _ in pairs))
        rows["plain_paho_per_s"] = round(statistics.median(paho for _, paho in pairs))
        rows["ratio"] = round(statistics.median(ours / paho for ours, paho in pairs), 3)
        rows |= append_cost(folder)
        rows["backlog_drained_per_s"] = round(drain(folder, url, options.backlog))
        rows["bytes_per_event_in_batches"] = round(bytes_per_event(), 1)
        shares = [
            [ingest_rate(folder, url, count, options.events) for count in (1, 2)]
            for _ in range(options.rounds)
        ]
        rows["ingest_1_per_s"] = round(statistics.median(one for one, _ in shares))
        rows["ingest_2_per_s"] = round(statistics.median(two for _, two in shares))
        rows["ingest_2_ratio"] = round(statistics.median(two / one for one, two in shares), 2)
    if options.json:
        print(json.dumps(rows))
        return
    aims = {
        "confirmed_per_s": ">= 3000",
        "append_p99_ms": "<= 1",
        "bytes_per_event_in_batches": "<= 260",
        "ingest_2_ratio": ">= 1.8",
    }
    for key, value in rows.items():
        print(f"{key:<28}{value:>12}   {aims.get(key, '')}")


def event(number: int, time_: Any) -> Event:
    """Ten boxes as a detector gives them."""
    data = DetectionsData(
        boxes=[
            [round(31.7 * box + number % 97 / 10, 1), round(12.3 + number * 7 % 400 / 10, 1),
             round(31.7 * box + 40.2 + number % 89 / 10, 1), round(61.0 + number * 3 % 400 / 10, 1)]
            for box in range(10)
        ],
        scores=[round(0.5 + (number * 7919 + box * 104729) % 5000 / 10000, 4) for box in range(10)],
        classes=[(number * 31 + box * 7) % 10 for box in range(10)],
        labels=[str((number * 31 + box * 7) % 10) for box in range(10)],
    )  # fmt: skip
    return Event(
        kind=kind_of(data),
        pipeline="meter",
        time=time_,
        source=SourceRef(name="cam0", frame=number),
        model=ModelRef(
            name="meter_reader",
            version="1.2.0",
            bundle="sha256:" + "4be1" * 16,
            variant="onnx-int8",
        ),
        engine="onnx:cpu",
        data=msgspec.Raw(msgspec.json.encode(data)),
    )


# ---- the processes around


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A mosquitto that keeps nothing and limits nothing."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        sys.exit("bench/reporting.py needs mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\npersistence false\nallow_anonymous true\n"
        "set_tcp_nodelay true\nmax_queued_messages 0\nuser root\n"
    )
    process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)
    try:
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), 10)
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def ingests(folder: Path, commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Processes that say `listening` when they do."""
    log = folder / "ingests.log"
    log.write_bytes(b"")
    with open(log, "ab") as out:
        processes = [subprocess.Popen([sys.executable, *c], stderr=out) for c in commands]
    try:
        until(lambda: log.read_text().count("listening") == len(processes), 20)
        time.sleep(0.3)  # for the broker's answer to the subscription
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


@contextlib.contextmanager
def sending(outbox: Outbox, url: str, pace: OutboxConfig) -> Iterator[Sender]:
    sink: Any = Mqtt(Mqtt.Config(url=url, confirm="ingest"), device=DEVICE)
    sender = Sender(
        "mqtt", sink, outbox, lambda n: State(device=DEVICE, online=True, connection=n,
                                               epoch=outbox.epoch), pace
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,), daemon=True)
    thread.start()
    try:
        until(lambda: sender.connected, 10)
        yield sender
    finally:
        stop.set()
        thread.join(10)


def until(true: Callable[[], Any], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            sys.exit("this took too long; the bench cannot go on")
        time.sleep(0.002)


def fresh(folder: Path) -> tuple[Path, str]:
    """A folder for an outbox, and a file for a database."""
    name = str(time.monotonic_ns())
    return folder / name, str(folder / f"{name}.db")


# ---- the figures


def end_to_end(folder: Path, url: str, count: int) -> float:
    """Events a second from `append` until the ingest's word that all are in the database."""
    state, db = fresh(folder)
    outbox = Outbox(state, ["mqtt"], device=DEVICE, config=QUICK)
    drafts = [event(number, Clock().now()) for number in range(count)]
    with (
        ingests(folder, [["-m", "edge.fleet", "ingest", "--broker", url, "--db", db]]),
        sending(outbox, url, QUICK),
    ):
        began_s = time.monotonic()
        for draft in drafts:
            assert outbox.append(draft, timeout_s=30)
        until(lambda: outbox.last_seq >= count and outbox.depth("mqtt") == 0, 300)
        took_s = time.monotonic() - began_s
    outbox.close()
    return count / took_s


def plain_paho(url: str, count: int) -> float:
    """The same bytes by paho alone, until the broker has acknowledged: nothing is durable."""
    from paho.mqtt import client as paho

    host, port = url.removeprefix("mqtt://").split(":")
    payloads = [msgspec.json.encode(event(number, Clock().now())) for number in range(count)]
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(20)
    client.connect(host, int(port))
    client.loop_start()
    began_s = time.monotonic()
    for payload in payloads:
        info = client.publish("plain/meter", payload, qos=1)
    info.wait_for_publish(300)
    took_s = time.monotonic() - began_s
    client.disconnect()
    client.loop_stop()
    return count / took_s


def append_cost(folder: Path, count: int = 2000, per_s: float = 200.0) -> dict[str, float]:
    """What `append` takes of a frame, while the outbox commits what a camera gives."""
    state, _ = fresh(folder)
    outbox = Outbox(state, ["mqtt"], device=DEVICE)
    clock = Clock()
    costs_ms = []
    for number in range(count):
        draft = event(number, clock.now())
        began = time.perf_counter()
        outbox.append(draft, timeout_s=0.0)
        costs_ms.append((time.perf_counter() - began) * 1e3)
        time.sleep(1 / per_s)
    outbox.close()
    ranks = statistics.quantiles(costs_ms, n=100)
    return {"append_p50_ms": round(ranks[49], 4), "append_p99_ms": round(ranks[98], 4)}


def drain(folder: Path, url: str, count: int) -> float:
    """Events a second of a backlog that was there before the connection."""
    state, db = fresh(folder)
    outbox = Outbox(state, ["mqtt"], device=DEVICE, config=QUICK)
    for number in range(count):
        outbox.append(event(number, Clock().now()), timeout_s=30)
    outbox.flush(60)
    command = ["-m", "edge.fleet", "ingest", "--broker", url, "--db", db]
    with ingests(folder, [command]):
        began_s = time.monotonic()
        with sending(outbox, url, QUICK):
            until(lambda: outbox.depth("mqtt") == 0, 600)
        took_s = time.monotonic() - began_s
    outbox.close()
    return count / took_s


def bytes_per_event(count: int = BATCH) -> float:
    """The payload of a backlog batch of default size, by its events."""
    with tempfile.TemporaryDirectory() as name:
        outbox = Outbox(Path(name), ["mqtt"], device=DEVICE)
        for number in range(count):
            outbox.append(event(number, Clock().now()), timeout_s=5)
        outbox.flush(10)
        payload = encode_batch(Batch(outbox.lease("mqtt", count, timeout_s=0)))
        outbox.close()
    return len(payload) / count


def ingest_rate(folder: Path, url: str, processes: int, count: int) -> float:
    """Events a second that so many ingests on one file store, each commit 5 ms late."""
    from paho.mqtt import client as paho

    _, db = fresh(folder)
    script = [__file__, "--slow-ingest", url, db]
    stored = [
        StoredEvent(
            seq=seq,
            pipeline="meter",
            payload=msgspec.json.encode(
                msgspec.structs.replace(
                    event(seq, Clock().now()), device=DEVICE, epoch="0123456789abcdef", seq=seq
                )
            ),
        )
        for seq in range(1, count + 1)
    ]
    batches = [
        encode_batch(Batch(stored[start : start + BATCH])) for start in range(0, count, BATCH)
    ]
    host, port = url.removeprefix("mqtt://").split(":")
    with ingests(folder, [script] * processes):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(200)
        client.connect(host, int(port))
        client.loop_start()
        began_s = time.monotonic()
        for batch in batches:
            info = client.publish(f"edge/v1/{DEVICE}/batch", batch, qos=1)
        info.wait_for_publish(300)
        watch = SqliteStore(Path(db))
        until(lambda: sum(account.stored for account in watch.accounts()) >= count, 300)
        took_s = time.monotonic() - began_s
        watch.close()
        client.disconnect()
        client.loop_stop()
    return count / took_s


class SlowStore(SqliteStore):
    """A database far away: its answer takes 5 ms, in which others may use it."""

    def commit(self, arrivals: Sequence[Arrival]) -> dict[Stream, Ack]:
        acks = super().commit(arrivals)
        time.sleep(COMMIT_S)
        return acks


def slow_ingest(url: str, db: str) -> None:
    """An ingest of this bench; ends with SIGTERM."""
    import logging
    import signal

    from edge.fleet import ingest

    logging.basicConfig(level=logging.INFO)
    ingest._GROUP = 1  # one batch a commit, so that it is commits that are counted
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = SlowStore(Path(db))
    Ingest(BrokerConfig(url=url), store).run(stop)
    store.close()


if __name__ == "__main__":
    main()
