"""Nothing is lost and nothing is sent twice, whatever the order in which things happen."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import draft, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge import outbox as outboxes
from edge.config import OutboxConfig
from edge.errors import OutboxError
from edge.outbox import Outbox, batch, journal
from edge.ranges import Ranges
from edge.wire import GapData, StoredEvent, decode_event

SINKS = ("mqtt", "jsonl")
ALL = 1000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """Opens outboxes in tmp_path/state; the last one is closed at the end."""
    opened: list[Outbox] = []

    def open_one(*sinks: str, **options: Any) -> Outbox:
        for outbox in opened:
            outbox.close()
        config = OutboxConfig(**{"commit_ms": 0.0, **options})
        opened[:] = [Outbox(tmp_path / "state", sinks or SINKS, device="gate-07", config=config)]
        return opened[0]

    yield open_one
    for outbox in opened:
        outbox.close()


def put(outbox: Outbox, *labels: str) -> None:
    for label in labels:
        assert outbox.append(draft(label), timeout_s=5)
    assert outbox.flush(10)


def seqs(events: list[StoredEvent]) -> list[int]:
    return [event.seq for event in events]


def gaps(events: list[StoredEvent]) -> list[GapData]:
    """What of it declares a loss."""
    payloads = [decode_event(event.payload).payload for event in events]
    return [payload for payload in payloads if isinstance(payload, GapData)]


def stored(folder: Path) -> list[int]:
    """What really lies on the disk."""
    db = sqlite3.connect(folder / journal.FILE)
    try:
        return [seq for (seq,) in db.execute("SELECT seq FROM event ORDER BY seq")]
    finally:
        db.close()


_RANGE = st.tuples(st.integers(1, 30), st.integers(0, 6)).map(lambda r: (r[0], r[0] + r[1]))


# ---- stories


def test_an_event_gets_its_number_in_the_commit(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, "walking", "running")
    first, second = outbox.lease("mqtt", ALL, timeout_s=0)
    event = decode_event(first.payload)
    assert (event.device, event.epoch, event.seq) == ("gate-07", outbox.epoch, 1)
    assert (first.seq, first.pipeline, second.seq) == (1, "wrist", 2)
    same = msgspec.structs.replace(event, device="", epoch="", seq=0)
    assert msgspec.json.encode(same) == msgspec.json.encode(draft("walking"))
    assert outbox.last_seq == 2


def test_a_lease_lasts_until_it_is_confirmed_or_given_back(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, *"abcd")
    assert seqs(outbox.lease("mqtt", 2, timeout_s=0)) == [1, 2]
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [3, 4]
    assert seqs(outbox.lease("jsonl", ALL, timeout_s=0)) == [1, 2, 3, 4], "its own cursor"
    outbox.confirm("mqtt", [(2, 3)])
    outbox.release("mqtt")
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [1, 4]


def test_a_waiting_lease_is_woken_by_a_commit(start: Callable[..., Outbox]) -> None:
    outbox = start()
    assert outbox.lease("mqtt", ALL, timeout_s=0.01) == []
    outbox.append(draft(), timeout_s=0)
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=20)) == [1]
    assert outbox.wait(beyond=0, timeout_s=0)
    assert not outbox.wait(beyond=1, timeout_s=0.01)
    outbox.append(draft(), timeout_s=0)
    assert outbox.wait(beyond=1, timeout_s=20)


def test_a_lease_can_keep_to_what_is_old_or_what_is_new(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, *"abcde")
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0, above=3)) == [4, 5]
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0, above=1, upto=2)) == [2]
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0, upto=3)) == [1, 3]


def test_what_is_refused_is_kept_and_not_sent_to_that_sink_before_the_next_start(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    outbox = start()
    put(outbox, *"abc")
    outbox.refuse("mqtt", 2)
    outbox.refuse("mqtt", 2)
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [1, 3]
    assert seqs(outbox.lease("jsonl", ALL, timeout_s=0)) == [1, 2, 3]
    outbox.confirm("mqtt", [(1, 1), (3, 3)])
    outbox.confirm("jsonl", [(1, 3)])
    outbox.release("mqtt")
    assert outbox.lease("mqtt", ALL, timeout_s=0) == []
    assert (outbox.refused("mqtt"), outbox.depth("mqtt")) == (1, 1), "a refusal is no delivery"
    wait_until(lambda: stored(tmp_path / "state") == [2])
    assert seqs(start().lease("mqtt", ALL, timeout_s=0)) == [2]


def test_a_row_leaves_only_when_every_sink_has_confirmed_it(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    outbox = start()
    put(outbox, *"abc")
    outbox.confirm("mqtt", [(1, 3)])
    outbox.confirm("jsonl", [(2, 2)])
    assert (outbox.depth("mqtt"), outbox.depth("jsonl")) == (0, 2)
    wait_until(lambda: stored(tmp_path / "state") == [1, 3])
    assert outbox.depth("jsonl") == 2


def test_many_rows_leave_a_part_at_a_time(start: Callable[..., Outbox], tmp_path: Path) -> None:
    outbox = start("mqtt")
    put(outbox, *map(str, range(2500)))
    outbox.confirm("mqtt", [(1, 2500)])
    wait_until(lambda: not stored(tmp_path / "state"))


def test_nobody_can_confirm_the_future(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, "a")
    assert outbox.confirm("mqtt", [(-3, 0), (2, 3), (500, 1)]) == 0
    assert outbox.confirm("mqtt", [(1, 500), (700, 900)]) == 1, "how many were news"
    assert outbox.confirm("mqtt", [(1, 500)]) == 0
    put(outbox, "b")
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [2]


def test_a_sink_that_is_no_longer_configured_holds_nothing_back(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    outbox = start()
    put(outbox, *"abc")
    outbox.confirm("mqtt", [(1, 3)])
    outbox.confirm("jsonl", [(1, 1)])
    outbox = start("mqtt")
    put(outbox, "d")
    wait_until(lambda: stored(tmp_path / "state") == [4])
    outbox = start("mqtt", "jsonl")
    assert seqs(outbox.lease("jsonl", ALL, timeout_s=0)) == [4], "a new sink gets what is there"


def test_an_epoch_and_its_numbers_go_on_after_a_restart(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, *"ab")
    for sink in SINKS:
        outbox.confirm(sink, [(1, 2)])
    epoch = outbox.epoch
    outbox = start()
    put(outbox, "c")
    assert (outbox.epoch, outbox.last_seq) == (epoch, 3), "no number is used twice"
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [3]


def test_a_confirmation_just_before_closing_is_kept(start: Callable[..., Outbox]) -> None:
    for number in range(1, 6):
        outbox = start()
        assert outbox.lease("mqtt", ALL, timeout_s=0) == []
        put(outbox, "a")
        outbox.confirm("mqtt", [(number, number)])


def test_what_was_committed_survives_a_power_cut(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    outbox = start()
    put(outbox, *"abc")
    shutil.copytree(tmp_path / "state", tmp_path / "after")  # as the disk is now, unclosed
    after = Outbox(tmp_path / "after", SINKS, device="gate-07")
    assert (after.epoch, seqs(after.lease("mqtt", ALL, timeout_s=0))) == (outbox.epoch, [1, 2, 3])
    after.close()


def test_connections_are_counted_for_ever(start: Callable[..., Outbox]) -> None:
    assert [start().count("connections.mqtt") for _ in range(3)] == [1, 2, 3]
    assert start().count("connections.jsonl") == 1


# ---- what bad disks get


def test_two_agents_cannot_share_a_folder(start: Callable[..., Outbox], tmp_path: Path) -> None:
    outbox = start()
    with pytest.raises(OutboxError, match="another agent runs on this state_dir"):
        Outbox(tmp_path / "state", SINKS, device="other")
    put(outbox, "a")
    outbox.close()
    Outbox(tmp_path / "state", SINKS, device="other").close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/state", Path("/proc/edge-state")):
        with pytest.raises(OutboxError, match=f"{folder}: cannot be written"):
            Outbox(folder, SINKS, device="x")


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" * 64])
def test_a_file_that_is_no_database_is_set_aside_unchanged_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        (tmp_path / journal.FILE).write_bytes(content)
        for _ in range(2):  # the new one is opened again
            outbox = Outbox(tmp_path, SINKS, device="x")
            outbox.close()
        kept = tmp_path / f"{journal.FILE}.damaged-{number}"
        assert kept.read_bytes() == content
        assert f"set aside as {kept}" in caplog.text
        assert outbox.last_seq == number - 1, "the loss of the first new one is declared"
    assert not (tmp_path / f"{journal.FILE}.damaged-3").exists()


def test_a_store_of_a_newer_version_is_left_alone(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    start().close()
    file = tmp_path / "state" / journal.FILE
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA user_version = {journal.SCHEMA_VERSION + 1}")
    db.close()
    content = file.read_bytes()
    for _ in range(2):  # and the folder is not left locked
        with pytest.raises(OutboxError, match="written by a newer edgewright"):
            start()
    assert file.read_bytes() == content


def test_a_full_disk_keeps_events_waiting_and_declares_what_finds_no_room(
    start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 0.01)
    outbox = start(max_pending_events=4)
    put(outbox, "before")
    db = outbox._journal._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    big = "x" * 4000  # more than a page each
    wait_until(lambda: not outbox.append(draft(big), timeout_s=0))
    assert outbox.drops == 1
    assert not outbox.append(draft(big), timeout_s=0.01)
    assert outbox.drops == 2
    assert outbox.flush(0.05) is False
    wait_until(lambda: outbox.problem == "cannot be written: database or disk is full")
    first, *others = outbox.lease("mqtt", ALL, timeout_s=0)
    assert first.seq == 1, "what is committed can be sent"
    assert len(gaps(others)) == len(others), "and what is declared in the space kept for that"
    db.execute("PRAGMA max_page_count = 100000")
    assert outbox.flush(20)
    assert outbox.problem == ""
    others += outbox.lease("mqtt", ALL, timeout_s=0)
    assert sum(gap.count for gap in gaps(others)) == 2
    assert {gap.reason for gap in gaps(others)} == {"not written"}
    lost = Ranges(span for gap in gaps(others) for span in gap.ranges)
    assert seqs(others) == [seq for seq in range(2, outbox.last_seq + 1) if seq not in lost]
    assert len(others) - len(gaps(others)) >= 4
    assert {decode_event(event.payload).seq for event in others} == set(seqs(others))
    assert outbox.depth("mqtt") == 1 + len(others), "nobody has to confirm what is declared"


def test_a_counter_that_finds_no_room_is_said_and_holds_nothing_up(
    start: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    outbox = start()
    outbox._journal._db.execute("PRAGMA query_only = ON")
    assert outbox.count("connections.mqtt") == 1
    assert "outbox.db: the counter connections.mqtt is not saved" in caplog.text
    outbox._journal._db.execute("PRAGMA query_only = OFF")
    assert [outbox.count("connections.mqtt") for _ in range(2)] == [1, 2]


def test_a_full_disk_does_not_hold_up_the_end_and_what_it_keeps_out_is_declared(
    start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 60.0)
    outbox = start()
    outbox._journal._db.execute("PRAGMA max_page_count = 1")
    outbox.append(draft("x" * 20_000), timeout_s=0)
    wait_until(lambda: outbox.problem)
    outbox.append(draft("waits behind it"), timeout_s=0)
    outbox.close(timeout_s=20)
    assert not outbox._thread.is_alive()
    outbox.close()
    outbox = start()
    events = outbox.lease("mqtt", ALL, timeout_s=0)
    assert seqs(events) == [outbox.last_seq] == [3]
    (gap,) = gaps(events)
    assert (gap.ranges, gap.count, gap.reason) == ([(1, 2)], 2, "not written")


def test_an_outbox_that_dies_says_so(
    start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = start()
    put(outbox, "before")
    assert outbox.failure is None

    def fail(event: object) -> bytes:
        raise MemoryError("out of memory")

    monkeypatch.setattr(batch, "encode", fail)
    outbox.append(draft(), timeout_s=0)
    wait_until(lambda: isinstance(outbox.failure, MemoryError))
    assert "the outbox died" in caplog.text
    assert outbox.flush(60) is False, "at once"
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [1], "what was committed is there"
    outbox.close()
    monkeypatch.undo()
    assert start().last_seq == 1


# ---- any sequence of calls


class AnyOrder(RuleBasedStateMachine):
    """The outbox against a model of sets."""

    @initialize()
    def begin(self) -> None:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # 25 times many fsyncs
        self.folder = Path(tempfile.mkdtemp(dir=memory))
        self.count = 0
        self.bytes: dict[int, bytes] = {}
        self.confirmed: dict[str, set[int]] = {sink: set() for sink in SINKS}
        self.leased: dict[str, set[int]] = {sink: set() for sink in SINKS}
        self.refused: dict[str, set[int]] = {sink: set() for sink in SINKS}
        self.open()

    def open(self) -> None:
        config = OutboxConfig(commit_ms=0.0)
        self.outbox = Outbox(self.folder, SINKS, device="gate-07", config=config)
        self.epoch = getattr(self, "epoch", self.outbox.epoch)
        for passed in (*self.leased.values(), *self.refused.values()):
            passed.clear()

    def waiting(self, sink: str) -> set[int]:
        passed = self.confirmed[sink] | self.leased[sink] | self.refused[sink]
        return set(range(1, self.count + 1)) - passed

    @rule(events=st.integers(1, 5))
    def append(self, events: int) -> None:
        put(self.outbox, *(f"label {self.count + 1 + index}" for index in range(events)))
        self.count += events

    @rule(
        sink=st.sampled_from(SINKS),
        limit=st.integers(1, 6),
        above=st.just(0) | st.integers(0, 20),
        upto=st.none() | st.integers(0, 30),
    )
    def lease(self, sink: str, limit: int, above: int, upto: int | None) -> None:
        events = self.outbox.lease(sink, limit, timeout_s=0, above=above, upto=upto)
        last = self.count if upto is None else upto
        found, waiting = seqs(events), self.waiting(sink) & {*range(above + 1, last + 1)}
        assert found == sorted(set(found)), "in order, each once"
        assert set(found) <= waiting, "neither leased nor confirmed"
        assert len(found) == min(limit, len(waiting)), "and nothing held back"
        for event in events:
            known = self.bytes.setdefault(event.seq, event.payload)
            assert event.payload == known, "the bytes of an event never change"
            decoded = decode_event(event.payload)
            assert (decoded.seq, decoded.epoch) == (event.seq, self.epoch)
            assert decoded.payload.label == f"label {event.seq}"  # type: ignore[union-attr]
        self.leased[sink] |= set(found)

    @rule(sink=st.sampled_from(SINKS), ranges=st.lists(_RANGE, max_size=4), again=st.booleans())
    def confirm(self, sink: str, ranges: list[tuple[int, int]], again: bool) -> None:
        before = len(self.confirmed[sink])
        for low, high in ranges:
            self.confirmed[sink] |= {seq for seq in range(low, high + 1) if seq <= self.count}
        news = len(self.confirmed[sink]) - before
        assert [self.outbox.confirm(sink, ranges) for _ in range(1 + again)] == [news, 0][
            : 1 + again
        ]

    @rule(sink=st.sampled_from(SINKS))
    def confirm_what_is_leased(self, sink: str) -> None:
        self.outbox.confirm(sink, [(seq, seq) for seq in sorted(self.leased[sink], reverse=True)])
        self.confirmed[sink] |= self.leased[sink]

    @rule(sink=st.sampled_from(SINKS))
    def refuse_what_is_leased(self, sink: str) -> None:
        for seq in self.leased[sink]:
            self.outbox.refuse(sink, seq)
        self.refused[sink] |= self.leased[sink]

    @rule(sink=st.sampled_from(SINKS))
    def release(self, sink: str) -> None:
        self.outbox.release(sink)
        self.leased[sink].clear()

    @precondition(lambda self: self.count)
    @rule()
    def restart(self) -> None:
        self.outbox.close()
        unneeded = self.confirmed["mqtt"] & self.confirmed["jsonl"]
        needed = set(range(1, self.count + 1)) - unneeded
        assert stored(self.folder) == sorted(needed), "rows leave when all sinks confirmed them"
        self.open()

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "outbox"):
            assert (self.outbox.last_seq, self.outbox.epoch) == (self.count, self.epoch)
            for sink in SINKS:
                assert self.outbox.depth(sink) == self.count - len(self.confirmed[sink])

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            for sink in SINKS:
                self.release(sink)
                assert set(seqs(self.outbox.lease(sink, ALL, timeout_s=0))) == self.waiting(sink)
            self.outbox.close()
            shutil.rmtree(self.folder)


def test_any_sequence_of_calls_loses_nothing_and_sends_nothing_twice() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(max_examples=25, stateful_step_count=20, deadline=None, derandomize=True),
    )
