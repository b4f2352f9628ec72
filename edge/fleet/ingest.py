"""The ingest: from the broker into a store, acknowledged to the devices only after the commit.

Several ingests may share one store; over MQTT 5 they share the load by a shared subscription. A
message that comes while the store cannot be written waits, and is dropped when too many wait: it
was not acknowledged, so its device sends it again.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time

from edge.backoff import backoff_s
from edge.errors import SinkError
from edge.fleet import arrivals
from edge.fleet.store import Arrival, FleetStore, Poison, Received, StoreBusy
from edge.mqtt import BrokerConfig, Connection
from edge.wire import encode

_GROUP = 1000
_COLLECT_S = 0.01
_MAX_WAITING = 5000
_FULL_WAIT_S = 1.0
_BACKOFF_S = (0.5, 15.0)

log = logging.getLogger(__name__)


class Ingest:
    """Runs until stopped; `stored` and `dropped` count since its start."""

    def __init__(
        self, broker: BrokerConfig, store: FleetStore, *, group: str = "edgewright"
    ) -> None:
        self.stored = 0
        self.dropped = 0
        self._connection = Connection(broker)
        self._client_id = broker.client_id or f"edgewright-ingest-{secrets.token_hex(4)}"
        self._prefix = broker.prefix.strip("/")
        self._share = f"$share/{group}/" if broker.version == "5" else ""
        self._store = store
        self._waiting: queue.Queue[tuple[str, bytes]] = queue.Queue(_MAX_WAITING)

    def run(self, stop: threading.Event) -> None:
        """Connect, store, acknowledge, reconnect. OutboxError when the store is beyond use."""
        failures = 0
        while not stop.is_set():
            lost = threading.Event()
            try:
                self._open(lost)
                log.info("ingest: listening at %s", self._connection.where)
                failures = 0
                self._serve(stop, lost)
            except SinkError as error:
                failures += 1
                log.warning("ingest: %s", error)
            finally:
                self._connection.close()
            if not stop.is_set():
                stop.wait(backoff_s(failures, _BACKOFF_S))

    def _open(self, lost: threading.Event) -> None:
        def on_lost(reason: str) -> None:
            log.warning("ingest: %s", reason)
            lost.set()

        self._connection.open(self._client_id, on_lost=on_lost, on_message=self._take)
        for what in ("event/+", "batch", "telemetry", "state"):
            self._connection.subscribe(f"{self._share}{self._prefix}/+/{what}")

    def _take(self, topic: str, payload: bytes, _: bool) -> None:
        """Called in paho's thread; a full queue holds the connection back for a moment."""
        try:
            self._waiting.put((topic, payload), timeout=_FULL_WAIT_S)
        except queue.Full:
            self.dropped += 1

    def _serve(self, stop: threading.Event, lost: threading.Event) -> None:
        while not stop.is_set() and not (lost.is_set() and self._waiting.empty()):
            group = self._collect()
            if not group:
                continue
            acks = None
            while acks is None:
                try:
                    acks = self._store.commit(group)
                except StoreBusy as error:
                    log.warning("ingest: %s; trying again", error)
                    if stop.wait(0.2):
                        return
            self.stored += sum(isinstance(arrival, Received) for arrival in group)
            for (device, _), ack in acks.items():
                self._connection.publish(f"{self._prefix}/{device}/ack", encode(ack), qos=0)

    def _collect(self) -> list[Arrival]:
        """Arrivals for one commit: waits a little for a first, and less for more."""
        try:
            messages = [self._waiting.get(timeout=0.2)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + _COLLECT_S
        while len(messages) < _GROUP:
            try:
                remaining = deadline - time.monotonic()
                messages.append(self._waiting.get(block=remaining > 0, timeout=max(0.0, remaining)))
            except queue.Empty:
                break
        group = [
            arrival
            for topic, payload in messages
            for arrival in arrivals.read(topic, payload, prefix=self._prefix)
        ]
        for arrival in group:
            if isinstance(arrival, Poison):
                log.warning("ingest: kept aside: %s: %s", arrival.topic, arrival.reason)
        return group
