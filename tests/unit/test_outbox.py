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
from hypothesis import given, settings
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
from edge.errors import OutboxError
from edge.outbox import Outbox, Ranges
from edge.wire import StoredEvent, decode_event

SINKS = ("mqtt", "jsonl")
ALL = 1000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """Opens outboxes in tmp_path/state; the last one is closed at the end."""
    opened: list[Outbox] = []

    def open_one(*sinks: str, **options: Any) -> Outbox:
        for outbox in opened:
            outbox.close()
        options = {"device": "gate-07", "commit_s": 0.0, **options}
        opened[:] = [Outbox(tmp_path / "state", sinks or SINKS, **options)]
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


def stored(folder: Path) -> list[int]:
    """What really lies on the disk."""
    db = sqlite3.connect(folder / outboxes.FILE)
    try:
        return [seq for (seq,) in db.execute("SELECT seq FROM event ORDER BY seq")]
    finally:
        db.close()


# ---- ranges


_RANGE = st.tuples(st.integers(1, 30), st.integers(0, 6)).map(lambda r: (r[0], r[0] + r[1]))


@settings(derandomize=True, deadline=None)
@given(first=st.lists(_RANGE), second=st.lists(_RANGE), base=st.integers(0, 40))
def test_ranges_are_a_set(
    first: list[tuple[int, int]], second: list[tuple[int, int]], base: int
) -> None:
    def members(ranges: list[tuple[int, int]]) -> set[int]:
        return {seq for low, high in ranges for seq in range(low, high + 1)}

    ranges, model = Ranges(first), members(first)
    assert {seq for seq in range(50) if seq in ranges} == model
    flat = [edge for span in ranges for edge in span]
    assert flat == sorted(flat)
    assert all(high + 1 < low for (_, high), (low, _) in zip(ranges, [*ranges][1:], strict=False))
    assert members([*ranges.common(Ranges(second))]) == model & members(second)
    assert Ranges(reversed(first)) == ranges
    hi = ranges.hi(base)
    assert set(range(base + 1, hi + 1)) <= model and hi + 1 not in model


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an empty range: 3\.\.2"):
        Ranges([(3, 2)])


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


def test_nobody_can_confirm_the_future(start: Callable[..., Outbox]) -> None:
    outbox = start()
    put(outbox, "a")
    outbox.confirm("mqtt", [(1, 500), (700, 900)])
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
def test_a_file_that_is_no_database_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / outboxes.FILE).write_bytes(content)
    for _ in range(2):  # and the folder is not left locked
        with pytest.raises(OutboxError, match=r"outbox.db: cannot be used"):
            Outbox(tmp_path, SINKS, device="x")
    assert (tmp_path / outboxes.FILE).read_bytes() == content


def test_a_store_of_a_newer_version_is_left_alone(
    start: Callable[..., Outbox], tmp_path: Path
) -> None:
    start().close()
    db = sqlite3.connect(tmp_path / "state" / outboxes.FILE)
    db.execute(f"PRAGMA user_version = {outboxes.SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(OutboxError, match="written by a newer edgewright"):
        start()


def test_a_full_disk_keeps_events_waiting_and_counts_what_finds_no_room(
    start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 0.01)
    outbox = start(max_pending=4)
    put(outbox, "before")
    (pages,) = outbox._db.execute("PRAGMA page_count").fetchone()
    outbox._db.execute(f"PRAGMA max_page_count = {pages}")
    big = "x" * 4000  # more than a page each
    wait_until(lambda: not outbox.append(draft(big), timeout_s=0))
    assert outbox.drops == 1
    assert not outbox.append(draft(big), timeout_s=0.01)
    assert outbox.drops == 2
    assert outbox.flush(0.05) is False
    assert seqs(outbox.lease("mqtt", ALL, timeout_s=0)) == [1], "what is committed can be sent"
    outbox._db.execute("PRAGMA max_page_count = 100000")
    assert outbox.flush(20)
    events = outbox.lease("mqtt", ALL, timeout_s=0)
    assert seqs(events) == list(range(2, outbox.last_seq + 1)) and len(events) >= 4
    assert {decode_event(event.payload).seq for event in events} == set(seqs(events))


def test_a_counter_that_finds_no_room_is_said(start: Callable[..., Outbox]) -> None:
    outbox = start()
    outbox._db.execute("PRAGMA query_only = ON")
    with pytest.raises(OutboxError, match=r"outbox\.db: cannot be written"):
        outbox.count("connections.mqtt")
    outbox._db.execute("PRAGMA query_only = OFF")
    assert outbox.count("connections.mqtt") == 1


def test_a_full_disk_does_not_hold_up_the_end(
    start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 60.0)
    outbox = start()
    outbox._db.execute("PRAGMA max_page_count = 1")
    outbox.append(draft("x" * 20_000), timeout_s=0)
    outbox.close(timeout_s=20)
    assert not outbox._thread.is_alive()
    assert start().last_seq == 0


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
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(self.folder, SINKS, device="gate-07", commit_s=0.0)
        self.epoch = getattr(self, "epoch", self.outbox.epoch)
        for leased in self.leased.values():
            leased.clear()

    def waiting(self, sink: str) -> set[int]:
        return set(range(1, self.count + 1)) - self.confirmed[sink] - self.leased[sink]

    @rule(events=st.integers(1, 5))
    def append(self, events: int) -> None:
        put(self.outbox, *(f"label {self.count + 1 + index}" for index in range(events)))
        self.count += events

    @rule(sink=st.sampled_from(SINKS), limit=st.integers(1, 6))
    def lease(self, sink: str, limit: int) -> None:
        events = self.outbox.lease(sink, limit, timeout_s=0)
        found, waiting = seqs(events), self.waiting(sink)
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
        for _ in range(1 + again):
            self.outbox.confirm(sink, ranges)
        for low, high in ranges:
            self.confirmed[sink] |= {seq for seq in range(low, high + 1) if seq <= self.count}

    @rule(sink=st.sampled_from(SINKS))
    def confirm_what_is_leased(self, sink: str) -> None:
        self.outbox.confirm(sink, [(seq, seq) for seq in sorted(self.leased[sink], reverse=True)])
        self.confirmed[sink] |= self.leased[sink]

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
