from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import Running, draft, wait_until

from edge import sender as senders
from edge.backoff import backoff_s
from edge.config import OutboxConfig
from edge.errors import SinkError
from edge.outbox import Outbox
from edge.seams import Answers, Message
from edge.sender import Sender
from edge.wire import AlarmData, Batch, State, StoredEvent, Telemetry, Time, decode_event

CONFIG = OutboxConfig(commit_ms=0.0, batch_events=2, backlog_per_s=100_000.0)


class FakeSink:
    """Confirms message by message what it is sent, or whatever a test puts in the way."""

    batches = True

    def __init__(self, window: int = 3) -> None:
        self.window = window
        self.births: list[State | None] = []
        self.sent: list[list[int]] = []
        """The seqs of each message."""
        self.batched: list[list[int]] = []
        self.alarms: list[AlarmData] = []
        self.reports: list[Message] = []
        self.most_under_way = 0
        self.broken = False
        self.silent = threading.Event()
        self.lose_after = 10**9
        self.lose_at_once = False
        self.refuse: dict[int, str] = {}
        self._under_way: list[list[int]] = []
        self._open = False

    @property
    def room(self) -> int:
        return self.window - len(self._under_way)

    @property
    def seqs(self) -> list[int]:
        return [seq for message in list(self.sent) for seq in message]

    def open(self, state: State | None) -> None:
        assert not self._open, "opened twice without a close"
        if self.broken:
            raise SinkError("the broker is away")
        self.births.append(state)
        self._open, self._under_way = True, []

    def send(self, messages: Sequence[Message]) -> None:
        assert self._open
        for message in messages:
            if isinstance(message, StoredEvent | Batch):
                events = message.events if isinstance(message, Batch) else [message]
                seqs = [event.seq for event in events]
                payloads = [decode_event(event.payload).payload for event in events]
                self.alarms += [payload for payload in payloads if isinstance(payload, AlarmData)]
                self.sent.append(seqs)
                self._under_way.append(seqs)
                if isinstance(message, Batch):
                    self.batched.append(seqs)
            else:
                self.reports.append(message)
        self.most_under_way = max(self.most_under_way, len(self._under_way))

    def poll(self, timeout_s: float) -> Answers:
        if self.lose_at_once:
            raise SinkError("the connection is lost")
        if self.silent.is_set():
            self.silent.wait(0.001)
            return Answers([])
        answered, self._under_way = self._under_way[:1], self._under_way[1:]
        seqs = [seq for message in answered for seq in message]
        if any(seq > self.lose_after for seq in seqs):
            self.lose_after = 10**9
            raise SinkError("the connection is lost")
        return Answers(
            [(seq, seq) for seq in seqs if seq not in self.refuse],
            [(seq, self.refuse[seq]) for seq in seqs if seq in self.refuse],
        )

    def close(self) -> None:
        self._open = False


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(senders, "_BACKOFF_S", (0.01, 0.02))
    outbox = Outbox(tmp_path, ["fleet"], device="gate-07", config=CONFIG)
    yield outbox
    outbox.close()


def sender(sink: FakeSink, outbox: Outbox, pace: OutboxConfig = CONFIG) -> Sender:
    def describe(connection: int) -> State:
        return State(device="gate-07", online=True, connection=connection)

    return Sender("fleet", sink, outbox, describe, pace)


def put(outbox: Outbox, count: int) -> None:
    for _ in range(count):
        outbox.append(draft(), timeout_s=5)
    assert outbox.flush(10)


def delivered(outbox: Outbox) -> bool:
    return outbox.depth("fleet") == 0


def test_what_is_committed_is_sent_in_order_and_confirmed(outbox: Outbox) -> None:
    sink = FakeSink()
    worker = sender(sink, outbox)
    put(outbox, 10)
    with Running(worker.run):
        wait_until(lambda: delivered(outbox))
        put(outbox, 2)
        wait_until(lambda: delivered(outbox))
    assert sink.seqs == list(range(1, 13))
    assert worker.confirmed == 12
    assert [birth and birth.connection for birth in sink.births] == [1]


def test_what_is_old_goes_in_batches_and_what_is_new_goes_first(outbox: Outbox) -> None:
    sink = FakeSink(window=2)
    sink.silent.set()
    put(outbox, 9)
    with Running(sender(sink, outbox).run):
        wait_until(lambda: sink.most_under_way == 2)
        put(outbox, 2)
        sink.silent.clear()
        wait_until(lambda: delivered(outbox))
    assert sink.batched == [[1, 2], [3, 4], [5, 6], [7, 8], [9]]
    assert sink.sent.index([10]) == 2, "as soon as there is room"
    assert sorted(sink.seqs) == list(range(1, 12)), "and each once"


def test_a_backlog_is_sent_no_faster_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(senders, "time", SimpleNamespace(monotonic=lambda: now_s))
    flow = senders._Flow(100, OutboxConfig(backlog_per_s=20.0, max_unconfirmed=30))
    taken = 0
    for step in range(101):
        now_s = step / 10
        while most := flow.allowance(10):
            flow.took(most)
            flow.settled(most)
            taken += most
    assert taken == 200
    flow.took(30)
    now_s = 100.0
    assert flow.allowance(10) == 0, "so many may be unconfirmed"
    flow.settled(1)
    assert flow.allowance(10) == 10


def test_no_more_is_under_way_than_the_window_allows(outbox: Outbox) -> None:
    sink = FakeSink(window=3)
    sink.silent.set()
    put(outbox, 10)
    with Running(sender(sink, outbox).run):
        wait_until(lambda: sink.most_under_way == 3)
        sink.silent.clear()
        wait_until(lambda: delivered(outbox))
    assert sink.most_under_way == 3
    assert sink.seqs == list(range(1, 11))


def test_a_lost_connection_means_that_what_was_not_confirmed_is_sent_again(
    outbox: Outbox,
) -> None:
    sink = FakeSink(window=4)
    sink.lose_after = 2
    worker = sender(sink, outbox)
    put(outbox, 6)
    with Running(worker.run):
        wait_until(lambda: delivered(outbox))
    again = sink.seqs.index(3, sink.seqs.index(3) + 1)
    assert sink.seqs[again:] == [3, 4, 5, 6], "from the first that was not confirmed, in order"
    assert [birth and birth.connection for birth in sink.births] == [1, 2]


def test_what_nobody_confirms_is_sent_again_and_again_ever_more_patiently(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """An ingest that is away while its broker is there."""
    sink = FakeSink(window=100)
    sink.silent.set()
    put(outbox, 2)
    pace = OutboxConfig(resend_s=0.05, batch_events=2, backlog_per_s=100_000.0)
    worker = sender(sink, outbox, pace)
    with Running(worker.run):
        wait_until(lambda: sink.batched)
        put(outbox, 1)
        wait_until(lambda: len(sink.batched) >= 5)
        sink.silent.clear()
        wait_until(lambda: delivered(outbox))
    assert sink.sent[:4] == [[1, 2], [3], [1, 2], [3]], "what was new is old by now"
    assert worker.confirmed == 3, "each counted once"
    assert len(sink.births) == 1, "over the same connection"
    waits = [r.args[1] for r in caplog.records if "nothing confirmed" in r.message and r.args]
    assert waits[:2] == [0.05, 0.1]


def test_what_is_refused_is_kept_and_one_alarm_is_raised_for_each_reason(outbox: Outbox) -> None:
    sink = FakeSink()
    sink.refuse = {1: "not allowed", 3: "not allowed", 4: "too large"}
    worker = sender(sink, outbox)
    put(outbox, 5)
    with Running(worker.run):
        wait_until(lambda: outbox.last_seq == 7 and outbox.depth("fleet") == 3)
    assert (outbox.refused("fleet"), worker.confirmed) == (3, 4), "a refusal is no delivery"
    assert sorted(sink.seqs) == [1, 2, 3, 4, 5, 6, 7], "it is not sent again in this run"
    assert sink.alarms == [
        AlarmData(code="refused", detail="sink fleet: event 1: not allowed"),
        AlarmData(code="refused", detail="sink fleet: event 4: too large"),
    ]
    outbox.close()
    again = Outbox(outbox._folder, ["fleet"], device="gate-07")
    left = [event.seq for event in again.lease("fleet", 9, timeout_s=0)]
    again.close()
    assert left == [1, 3, 4]


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
        wait_until(lambda: delivered(outbox))
        assert (worker.connected, worker.problem) == (True, "")
    assert (worker.connected, sink.reports) == (False, [])


def test_connections_that_keep_ending_early_are_the_sign_of_a_twin(outbox: Outbox) -> None:
    sink = FakeSink()
    sink.lose_at_once = True
    worker = sender(sink, outbox)
    with Running(worker.run):
        said = wait_until(lambda: worker.problem if "two devices" in worker.problem else "")
    assert said == "the connection is lost; this keeps happening: do two devices use one id?"
    assert len(sink.births) >= 3


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
    reports = [
        Telemetry(
            device="gate-07",
            time=Time(wall="", mono_ns=0, boot=""),
            pipelines={},
            epoch=outbox.epoch,
            last_seq=n,
            outbox={},
            outbox_drops=n,
            memory_mb=0,
        )
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
        waits = {backoff_s(failures, senders._BACKOFF_S) for _ in range(50)}
        bound = min(30.0, 0.5 * 2**failures)
        assert bound / 2 <= min(waits) < max(waits) <= bound
