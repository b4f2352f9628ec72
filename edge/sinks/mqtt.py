"""The MQTT sink: QoS 1 events, backlog, retained state with birth and will, telemetry.

`confirm = "ingest"`: an event counts as confirmed when an ingest says that it has committed it (the
topic `ack`). `confirm = "broker"`: when the broker has acknowledged it, with a reason code below
0x80; what the broker then loses is lost.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from typing import Literal

import msgspec

from edge.errors import SinkError
from edge.mqtt import REFUSED, BrokerConfig, Connection
from edge.ranges import Range
from edge.seams import Answers, Message
from edge.wire import MALFORMED, Ack, Batch, State, StoredEvent, encode, encode_batch

_MAX_WINDOW = 20  # more in flight is slower (measured), and brokers commonly allow 20

log = logging.getLogger(__name__)

_Report = tuple[int | None, int, str] | bytes
"""What paho's thread hands over: the id of a publish (None: the connection is gone) with its reason
code and reason, or the payload of an acknowledgement by an ingest."""


class Mqtt:
    """Publishes under `<prefix>/<device>/`."""

    class Config(BrokerConfig, frozen=True, kw_only=True):
        """`url` is mqtt://host[:1883] or mqtts://host[:8883] (TLS, verified).

        `confirm` says whose word counts: "broker" (its acknowledgement) or "ingest" (`edge fleet
        ingest`, after its commit). `password` takes "${NAME}" from the environment,
        `password_file` the text of a file. `ca`, `client_cert` and `client_key` are PEM files;
        without `ca` the system's roots are used.
        """

        confirm: Literal["broker", "ingest"] = "broker"

    def __init__(self, config: Config, *, device: str) -> None:
        self._config = config
        self._device = device
        self._base = f"{config.prefix.strip('/')}/{device}"
        self._connection = Connection(config)
        self._by_ingest = config.confirm == "ingest"
        self._epoch = ""
        self._farewell: tuple[str, bytes] | None = None
        self._under_way: dict[int, list[StoredEvent]] = {}
        self._reports: queue.SimpleQueue[_Report] = queue.SimpleQueue()
        self._window = _MAX_WINDOW
        self.batches = self._by_ingest

    @property
    def room(self) -> int:
        """How many messages may be published now: the window less what is not acknowledged."""
        return max(0, self._window - len(self._under_way))

    def open(self, state: State | None) -> None:
        """Connect, with the will set, and publish the birth. SinkError when that fails.

        Without a state, under a client id of its own, so that a running agent is not disturbed.
        """
        name = self._config.client_id or f"edgewright-{self._device}"
        reports: queue.SimpleQueue[_Report] = queue.SimpleQueue()
        self._reports, self._under_way, self._farewell = reports, {}, None
        if state is not None:
            self._epoch = state.epoch
            offline = State(device=self._device, online=False, connection=state.connection)
            self._farewell = (f"{self._base}/state", encode(offline))
        maximum = self._connection.open(
            name if state is not None else f"{name}-check",
            on_lost=lambda reason: reports.put((None, 0, reason)),
            on_message=lambda _, payload, __: reports.put(payload),
            on_published=lambda mid, code, text: reports.put((mid, code, text)),
            will=self._farewell,
        )
        self._window = min(_MAX_WINDOW, maximum)
        if state is not None:
            if self._by_ingest:
                self._connection.subscribe(f"{self._base}/ack")
            self._publish("state", encode(state), retain=True)

    def send(self, messages: Sequence[Message]) -> None:
        """Publish events and batches (QoS 1), telemetry (QoS 0) or a state (QoS 1, retained)."""
        for message in messages:
            if isinstance(message, StoredEvent):
                self._send_event(message)
            elif isinstance(message, Batch) and self._by_ingest:
                mid = self._publish("batch", encode_batch(message))
                self._under_way[mid] = message.events
            elif isinstance(message, Batch):
                for event in message.events:
                    self._send_event(event, historical=True)
            elif isinstance(message, State):
                self._publish("state", encode(message), retain=True)
            else:
                self._publish("telemetry", encode(message), qos=0)

    def poll(self, timeout_s: float) -> Answers:
        """What the broker, or an ingest, has confirmed, and what the broker has refused."""
        confirmed: list[Range] = []
        refused: list[tuple[int, str]] = []
        heard = False
        while True:
            try:
                report = self._reports.get(block=not heard and timeout_s > 0, timeout=timeout_s)
            except queue.Empty:
                return Answers(confirmed, refused)
            if isinstance(report, tuple) and report[0] is None:
                if heard:  # first what was confirmed; the bad news at the next call
                    self._reports.put(report)
                    return Answers(confirmed, refused)
                raise SinkError(f"{self._connection.where}: {report[2]}")
            heard = True
            if isinstance(report, bytes):
                confirmed += self._acknowledged(report)
            else:
                self._published(report, confirmed, refused)

    def close(self) -> None:
        """Publish a state that says offline, and disconnect."""
        self._connection.close(self._farewell)

    def _send_event(self, event: StoredEvent, *, historical: bool = False) -> None:
        mid = self._publish(
            f"event/{event.pipeline}",
            event.payload,
            properties={"historical": "true"} if historical else None,
        )
        self._under_way[mid] = [event]

    def _publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: dict[str, str] | None = None,
    ) -> int:
        return self._connection.publish(
            f"{self._base}/{topic}", payload, qos=qos, retain=retain, properties=properties
        )

    def _published(
        self,
        report: tuple[int | None, int, str],
        confirmed: list[Range],
        refused: list[tuple[int, str]],
    ) -> None:
        """The broker's answer to one publish."""
        mid, code, text = report
        events = self._under_way.pop(mid, []) if mid is not None else []
        if code >= REFUSED:
            refused += [(event.seq, text) for event in events]
        elif not self._by_ingest:
            confirmed += [(event.seq, event.seq) for event in events]

    def _acknowledged(self, payload: bytes) -> list[Range]:
        """The ranges of an ingest's acknowledgement, if it is one and speaks of our epoch; at least
        one then, as a sign that an ingest is there, even if it is empty."""
        try:
            ack = msgspec.json.decode(payload, type=Ack)
        except MALFORMED as error:
            log.warning("%s/ack: not an acknowledgement: %s", self._base, error)
            return []
        if ack.epoch != self._epoch:
            return []
        return [(1, ack.hi), *ack.ranges]
