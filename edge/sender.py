"""One sender a sink: leases committed events, publishes them, and confirms what was confirmed.

The durable half of every sink lives here once: reconnecting with jittered back-off, and giving
back the leases of a connection that died, so that their events are sent again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable

from edge.errors import SinkError
from edge.outbox import Outbox
from edge.seams import Sink
from edge.wire import State, Telemetry

_POLL_S = 0.05
_BACKOFF_S = (0.5, 30.0)

log = logging.getLogger(__name__)


class Sender:
    """Moves the outbox's events into one sink until stopped.

    `describe(connection)` gives the state to announce at each connection.
    """

    def __init__(
        self, name: str, sink: Sink, outbox: Outbox, describe: Callable[[int], State]
    ) -> None:
        self.name = name
        self.connected = False
        self.confirmed = 0
        self.problem = "not connected yet"
        self._sink = sink
        self._outbox = outbox
        self._describe = describe
        self._connection = 0
        self._reports: deque[State | Telemetry] = deque(maxlen=8)

    def report(self, telemetry: Telemetry) -> None:
        """Send telemetry at the next occasion; the oldest are dropped while there is none."""
        self._reports.append(telemetry)

    def announce(self) -> None:
        """Send the state again, because it has changed."""
        if self.connected:
            self._reports.append(self._describe(self._connection))

    def run(self, stop: threading.Event) -> None:
        """Connect, send, reconnect, until `stop` is set."""
        failures = 0
        while not stop.is_set():
            try:
                self._connection = self._outbox.count(f"connections.{self.name}")
                self._sink.open(self._describe(self._connection))
                log.info("sink %s: connected", self.name)
                self.connected, self.problem, failures = True, "", 0
                self._serve(stop)
            except SinkError as error:
                failures += 1
                if self.problem != str(error):
                    log.warning("sink %s: %s; events stay in the outbox", self.name, error)
                self.problem = str(error)
            finally:
                self.connected = False
                self._sink.close()
                self._outbox.release(self.name)
            if not stop.is_set():
                stop.wait(_backoff_s(failures))

    def _serve(self, stop: threading.Event) -> None:
        """Send and confirm over one connection, which ends with a SinkError or with `stop`."""
        under_way = 0
        while not stop.is_set():
            while self._reports:
                self._sink.send([self._reports.popleft()])
            room = self._sink.window - under_way
            events = (
                self._outbox.lease(self.name, room, timeout_s=0.0 if under_way else _POLL_S)
                if room
                else []
            )
            if events:
                self._sink.send(events)
                under_way += len(events)
            confirmed = self._sink.poll(_POLL_S if under_way else 0.0)
            if confirmed:
                under_way -= len(confirmed)
                self.confirmed += len(confirmed)
                self._outbox.confirm(self.name, [(seq, seq) for seq in confirmed])


def _backoff_s(failures: int) -> float:
    """Full jitter: uniform between half of and the whole of a doubling bound."""
    first, most = _BACKOFF_S
    bound = min(most, first * 2 ** min(failures, 10))
    return random.uniform(bound / 2, bound)
