"""One sender a sink: leases committed events, publishes them, and confirms what was confirmed.

The durable half of every sink lives here once. What was committed since the connection began is
live, and goes first; what is older is backlog, and goes in batches at a limited rate. A connection
that dies, or on which nothing is confirmed for too long, gives its leases back, so that they are
sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from edge.backoff import backoff_s
from edge.clock import Clock
from edge.config import OutboxConfig
from edge.errors import SinkError
from edge.outbox import HIGH, Outbox
from edge.seams import Sink
from edge.wire import AlarmData, Batch, State, Telemetry, event_of

_POLL_S = 0.02
_IDLE_S = 0.05
_BACKOFF_S = (0.5, 30.0)
_MOST_PATIENT_S = 300.0
_SHORT_S = 5.0
_SHORT_IN_A_ROW = 3

log = logging.getLogger(__name__)


class Sender:
    """Moves the outbox's events into one sink until stopped.

    `describe(connection)` gives the state to announce at each connection.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        outbox: Outbox,
        describe: Callable[[int], State],
        pace: OutboxConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.connected = False
        self.confirmed = 0
        self.problem = "not connected yet"
        self._sink = sink
        self._outbox = outbox
        self._describe = describe
        self._pace = pace or OutboxConfig()
        self._clock = clock or Clock()
        self._connection = 0
        self._short_connections = 0
        self._alarmed: set[str] = set()
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
            began_s = None
            try:
                self._connection = self._outbox.count(f"connections.{self.name}")
                self._sink.open(self._describe(self._connection))
                log.info("sink %s: connected", self.name)
                self.connected, self.problem, failures = True, "", 0
                began_s = time.monotonic()
                self._serve(stop)
            except SinkError as error:
                failures += 1
                self._complain(str(error), began_s)
            finally:
                self.connected = False
                self._sink.close()
                self._outbox.release(self.name)
            if not stop.is_set():
                stop.wait(backoff_s(failures, _BACKOFF_S))

    def _complain(self, problem: str, began_s: float | None) -> None:
        """Say once what is wrong; connections that keep ending early are a sign of a twin."""
        if began_s is not None:
            short = time.monotonic() - began_s < _SHORT_S
            self._short_connections = self._short_connections + 1 if short else 0
        if self._short_connections >= _SHORT_IN_A_ROW:
            problem += "; this keeps happening: do two devices use one id?"
        if self.problem != problem:
            log.warning("sink %s: %s; events stay in the outbox", self.name, problem)
        self.problem = problem

    def _serve(self, stop: threading.Event) -> None:
        """Send and confirm over one connection, which ends with a SinkError or with `stop`."""
        flow = _Flow(self._outbox.last_seq, self._pace)
        while not stop.is_set():
            while self._reports:
                self._sink.send([self._reports.popleft()])
            seen = self._outbox.last_seq
            sent = self._send_live(flow) + self._send_backlog(flow)
            # A full window is not idle, even if an ingest has confirmed all of it already: the
            # broker's answers, which make room, are still to be read.
            idle = not sent and not flow.waiting and self._sink.room > 0
            if idle and self._outbox.wait(beyond=seen, timeout_s=_IDLE_S):
                continue
            answers = self._sink.poll(0.0 if idle or (sent and self._sink.room) else _POLL_S)
            news = self._outbox.confirm(self.name, answers.confirmed)
            for seq, reason in answers.refused:
                self._refuse(seq, reason)
            self.confirmed += news
            if answers.confirmed:
                flow.heard()
            if flow.settled(news + len(answers.refused)):
                continue
            waited_s = flow.patience_s
            log.warning("sink %s: nothing confirmed for %.0f s; sending again", self.name, waited_s)
            self._outbox.release(self.name)
            flow.start_again(self._outbox.last_seq)

    def _send_live(self, flow: _Flow) -> int:
        if not self._sink.room:
            return 0
        events = self._outbox.lease(self.name, self._sink.room, timeout_s=0.0, above=flow.live_from)
        if events:
            self._sink.send(events)
            flow.waiting += len(events)
        return len(events)

    def _send_backlog(self, flow: _Flow) -> int:
        room = self._sink.room
        if not room:
            return 0
        most = flow.allowance(self._pace.batch_events if self._sink.batches else room)
        if not most:
            return 0
        events = self._outbox.lease(self.name, most, timeout_s=0.0, upto=flow.live_from)
        if events:
            self._sink.send([Batch(events)])
            flow.took(len(events))
        else:
            flow.backlog_done = True
        return len(events)

    def _refuse(self, seq: int, reason: str) -> None:
        """Keep the event, do not send it again in this run, and raise one alarm a reason."""
        self._outbox.refuse(self.name, seq)
        if reason in self._alarmed:
            return
        self._alarmed.add(reason)
        log.error("sink %s: event %d refused: %s; it is kept", self.name, seq, reason)
        alarm = AlarmData(code="refused", detail=f"sink {self.name}: event {seq}: {reason}")
        draft = event_of(alarm, time=self._clock.now())
        self._outbox.append(draft, timeout_s=0.0, priority=HIGH)


class _Flow:
    """What is under way on one connection."""

    def __init__(self, live_from: int, pace: OutboxConfig) -> None:
        self.live_from = live_from
        self.waiting = 0
        self.patience_s = pace.resend_s
        self.backlog_done = False
        self._pace = pace
        self._tokens = 0.0
        self._filled_s = self._moved_s = time.monotonic()

    def allowance(self, most: int) -> int:
        """How many events of the backlog may be sent now: `most` or none."""
        if self.backlog_done or self.waiting >= self._pace.max_unconfirmed:
            return 0
        now = time.monotonic()
        rate = self._pace.backlog_per_s
        self._tokens = min(max(most, rate / 10), self._tokens + (now - self._filled_s) * rate)
        self._filled_s = now
        return most if self._tokens >= most else 0

    def took(self, count: int) -> None:
        """So many events of the backlog were sent."""
        self._tokens -= count
        self.waiting += count

    def heard(self) -> None:
        """The receiver is there, whether it had news or not: no need to be patient."""
        self.patience_s = self._pace.resend_s

    def settled(self, answered: int) -> bool:
        """Count answers; False when there were none for so long that all must be sent again."""
        now = time.monotonic()
        if answered:
            self.waiting = max(0, self.waiting - answered)
        if answered or not self.waiting:
            self._moved_s = now
        return now - self._moved_s < self.patience_s

    def start_again(self, live_from: int) -> None:
        """All leases were given back: what was live is backlog now."""
        self.live_from, self.waiting, self.backlog_done = live_from, 0, False
        self.patience_s = min(2 * self.patience_s, _MOST_PATIENT_S)
        self._moved_s = time.monotonic()
