"""A device without a model: it makes events as fast as it is told, and reports like an agent.

    python device.py plan.json

Everything from the outbox on is the product's own: Outbox, Sender, the MQTT sink. Beside the broker
a second sink, a file, gets every event: an account of what was committed that owes nothing to the
fleet's side. Events of one process are numbered 0, 1, 2 … in `label`, so that a hole shows.

It ends with SIGTERM, after everything was delivered, or when it has `events` numbers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from edge.clock import Clock
from edge.config import OutboxConfig
from edge.outbox import HIGH, LOW, NORMAL, Outbox
from edge.outbox.journal import Journal
from edge.payloads import DetectionsData
from edge.sender import Sender
from edge.signals import stop_on_signals
from edge.sinks.jsonl import JsonLines
from edge.sinks.mqtt import Mqtt
from edge.wire import Event, SourceRef, State, Telemetry, kind_of

PRIORITIES = (NORMAL, LOW, NORMAL, HIGH)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a device does. `events` 0: until SIGTERM; `synchronous` breaks the outbox on purpose;
    `pledge` prints each number that is promised to survive."""

    state: str
    device: str = "gate-07"
    url: str = ""
    mqtt: dict[str, object] = {}
    outbox: OutboxConfig = OutboxConfig()
    truth: str = ""
    events: int = 0
    per_s: float = 1000.0
    boxes: int = 1
    block_s: float = 1.0
    synchronous: str = "FULL"
    pledge: bool = False


class Deliveries:
    """The outbox of a plan with its senders, in the threads of this process."""

    def __init__(self, plan: Plan) -> None:
        sinks: dict[str, Any] = {}
        if plan.url:
            options = {"confirm": "ingest", "url": plan.url, **plan.mqtt}
            sinks["mqtt"] = Mqtt(msgspec.convert(options, Mqtt.Config), device=plan.device)
        if plan.truth:
            options_of_file = JsonLines.Config(path=Path(plan.truth))
            sinks["truth"] = JsonLines(options_of_file, device=plan.device)
        self.plan = plan
        self.outbox = Outbox(
            Path(plan.state), list(sinks) or ["nobody"], device=plan.device, config=plan.outbox
        )
        self.senders = [
            Sender(name, sink, self.outbox, self._describe, plan.outbox)
            for name, sink in sinks.items()
        ]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(sender,), daemon=True)
            for sender in self.senders
        ]
        self._threads.append(threading.Thread(target=self._report, daemon=True))
        for thread in self._threads:
            thread.start()

    def left(self) -> int:
        """How many events are not confirmed by every sink."""
        return max((self.outbox.depth(sender.name) for sender in self.senders), default=0)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self.outbox.close()

    def _guarded(self, sender: Sender) -> None:
        try:
            sender.run(self._stop)
        except BaseException as error:
            print(f"sender {sender.name} died: {error!r}", file=sys.stderr, flush=True)
            os._exit(70)

    def _report(self) -> None:
        while not self._stop.wait(0.5):
            report = Telemetry(
                device=self.plan.device,
                time=Clock().now(),
                pipelines={},
                epoch=self.outbox.epoch,
                last_seq=self.outbox.last_seq,
                outbox={},
                outbox_drops=self.outbox.drops,
                memory_mb=0.0,
            )
            for sender in self.senders:
                sender.report(report)

    def _describe(self, connection: int) -> State:
        return State(
            device=self.plan.device,
            online=True,
            connection=connection,
            epoch=self.outbox.epoch,
            last_seq=self.outbox.last_seq,
        )


def detection(run: str, number: int, clock: Clock, *, boxes: int = 1) -> Event:
    """The draft of an event that says which of its process it is."""
    data = DetectionsData(
        boxes=[
            [number % 640 + 0.5, 7.0 * box, number % 640 + 80.3, 7.0 * box + 41.9]
            for box in range(boxes)
        ],
        scores=[round(0.5 + (number * 37 + box * 11) % 500 / 1000, 4) for box in range(boxes)],
        classes=[(number + box) % 10 for box in range(boxes)],
        labels=[f"{run}/{number}", *(str((number + box) % 10) for box in range(1, boxes))],
    )
    return Event(
        kind=kind_of(data),
        pipeline="meter",
        time=clock.now(),
        source=SourceRef(name="cam0", frame=number),
        engine="onnx:cpu",
        data=msgspec.Raw(msgspec.json.encode(data)),
    )


def main() -> None:
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    _weaken(plan.synchronous)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    deliveries = Deliveries(plan)
    outbox, clock, run = deliveries.outbox, Clock(), os.urandom(4).hex()
    print(f"run {run} epoch {outbox.epoch}", flush=True)
    number = tries = pledged = 0
    began_s = time.monotonic()
    while not stop.is_set() and not (plan.events and outbox.last_seq >= plan.events):
        draft = detection(run, number, clock, boxes=plan.boxes)
        priority = PRIORITIES[number % len(PRIORITIES)]
        tries += 1
        number += outbox.append(draft, timeout_s=plan.block_s, priority=priority)
        if plan.pledge and outbox.last_seq > pledged:
            pledged = outbox.last_seq
            print(f"committed {outbox.epoch} {pledged}", flush=True)
        ahead_s = tries / plan.per_s - (time.monotonic() - began_s)
        if ahead_s > 0.005:
            stop.wait(ahead_s)
    outbox.flush(30)
    while deliveries.left():
        time.sleep(0.05)
    print(f"ended {outbox.epoch} {outbox.last_seq}", flush=True)
    deliveries.close()


def _weaken(synchronous: str) -> None:
    """Let a test see what it would look like if the outbox did not wait for the disk."""
    if synchronous == "FULL":
        return
    prepare = Journal._prepare

    def weakened(self: Journal) -> None:
        prepare(self)
        self._db.execute(f"PRAGMA synchronous={synchronous}")

    Journal._prepare = weakened  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
