from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders import Running, draft, wait_until

from edge import sender as senders
from edge.errors import SinkError
from edge.outbox import Outbox
from edge.seams import Message
from edge.sender import Sender
from edge.wire import State, StoredEvent, Telemetry, Time


class FakeSink:
    """Confirms at once what it is sent, or whatever a test puts in the way."""

    def __init__(self, window: int = 3) -> None:
        self.window = window
        self.births: list[State | None] = []
        self.sent: list[int] = []
        self.reports: list[Message] = []
        self.most_under_way = 0
        self.broken = False
        self.silent = threading.Event()
        self.lose_after = 10**9
        self._under_way: list[int] = []
        self._open = False

    def open(self, state: State | None) -> None:
        assert not self._open, "opened twice without a close"
        if self.broken:
            raise SinkError("the broker is away")
        self.births.append(state)
        self._open, self._under_way = True, []

    def send(self, messages: Sequence[Message]) -> None:
        assert self._open
        for message in messages:
            if isinstance(message, StoredEvent):
                self.sent.append(message.seq)
                self._under_way.append(message.seq)
            else:
                self.reports.append(message)
        self.most_under_way = max(self.most_under_way, len(self._under_way))

    def poll(self, timeout_s: float) -> list[int]:
        if self.silent.is_set():
            self.silent.wait(0.001)
            return []
        confirmed, self._under_way = self._under_way[:1], self._under_way[1:]
        if confirmed and confirmed[0] > self.lose_after:
            self.lose_after = 10**9
            raise SinkError("the connection is lost")
        return confirmed

    def close(self) -> None:
        self._open = False


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(senders, "_BACKOFF_S", (0.01, 0.02))
    outbox = Outbox(tmp_path, ["fleet"], device="gate-07", commit_s=0.0)
    yield outbox
    outbox.close()


def sender(sink: FakeSink, outbox: Outbox) -> Sender:
    def describe(connection: int) -> State:
        return State(device="gate-07", online=True, connection=connection)

    return Sender("fleet", sink, outbox, describe)


def put(outbox: Outbox, count: int) -> None:
    for _ in range(count):
        outbox.append(draft(), timeout_s=5)
    assert outbox.flush(10)


def test_what_is_committed_is_sent_in_order_and_confirmed(outbox: Outbox) -> None:
    sink = FakeSink()
    worker = sender(sink, outbox)
    put(outbox, 10)
    with Running(worker.run):
        wait_until(lambda: outbox.depth("fleet") == 0)
        put(outbox, 2)
        wait_until(lambda: outbox.depth("fleet") == 0)
    assert sink.sent == list(range(1, 13))
    assert worker.confirmed == 12
    assert [birth and birth.connection for birth in sink.births] == [1]


def test_no_more_is_under_way_than_the_window_allows(outbox: Outbox) -> None:
    sink = FakeSink(window=3)
    sink.silent.set()
    put(outbox, 10)
    with Running(sender(sink, outbox).run):
        wait_until(lambda: sink.most_under_way == 3)
        sink.silent.clear()
        wait_until(lambda: outbox.depth("fleet") == 0)
    assert sink.most_under_way == 3
    assert sink.sent == list(range(1, 11))


def test_a_lost_connection_means_that_what_was_not_confirmed_is_sent_again(
    outbox: Outbox,
) -> None:
    sink = FakeSink(window=4)
    sink.lose_after = 2
    worker = sender(sink, outbox)
    put(outbox, 6)
    with Running(worker.run):
        wait_until(lambda: outbox.depth("fleet") == 0)
    again = sink.sent.index(3, sink.sent.index(3) + 1)
    assert sink.sent[again:] == [3, 4, 5, 6], "from the first that was not confirmed, in order"
    assert [birth and birth.connection for birth in sink.births] == [1, 2]


def test_events_stay_in_the_outbox_while_nobody_is_there(outbox: Outbox) -> None:
    sink = FakeSink()
    sink.broken = True
    worker = sender(sink, outbox)
    put(outbox, 3)
    with Running(worker.run):
        wait_until(lambda: worker.problem == "the broker is away")
        assert (worker.connected, outbox.depth("fleet")) == (False, 3)
        worker.announce()  # is nothing that anybody could be told now
        sink.broken = False
        wait_until(lambda: outbox.depth("fleet") == 0)
        assert (worker.connected, worker.problem) == (True, "")
    assert (worker.connected, sink.reports) == (False, [])


def test_waiting_for_the_next_try_can_be_interrupted(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "_BACKOFF_S", (60.0, 60.0))
    sink = FakeSink()
    sink.broken = True
    worker = sender(sink, outbox)
    with Running(worker.run):
        wait_until(lambda: worker.problem == "the broker is away")


def test_a_sink_that_dies_of_a_bug_gives_back_what_it_had(outbox: Outbox) -> None:
    sink = FakeSink()
    sink.poll = lambda timeout_s: [1 // 0]  # type: ignore[method-assign]
    put(outbox, 2)
    with pytest.raises(ZeroDivisionError):
        sender(sink, outbox).run(threading.Event())
    assert [event.seq for event in outbox.lease("fleet", 9, timeout_s=0)] == [1, 2]


def test_reports_go_out_beside_the_events_and_only_the_latest_wait(outbox: Outbox) -> None:
    time = Time(wall="", mono_ns=0, boot="")
    reports = [
        Telemetry(device="gate-07", time=time, pipelines={}, outbox={}, outbox_drops=n, memory_mb=0)
        for n in range(20)
    ]
    sink = FakeSink()
    worker = sender(sink, outbox)
    for report in reports:
        worker.report(report)
    with Running(worker.run):
        wait_until(lambda: len(sink.reports) == 8)
        assert sink.reports == reports[-8:]
        worker.announce()
        wait_until(lambda: len(sink.reports) == 9)
    assert sink.reports[-1] == State(device="gate-07", online=True, connection=1)


def test_backing_off_is_bounded_and_jittered() -> None:
    for failures in (0, 1, 5, 1000):
        waits = {senders._backoff_s(failures) for _ in range(50)}
        bound = min(30.0, 0.5 * 2**failures)
        assert bound / 2 <= min(waits) < max(waits) <= bound
