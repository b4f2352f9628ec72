"""The files of an outbox: older ones are migrated, newer ones refused, those beside it believed
only when they are whole."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from builders import draft
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import OutboxConfig
from edge.errors import OutboxError
from edge.outbox import Outbox, reserve
from edge.outbox.reserve import Mark, Reserve
from edge.ranges import Ranges
from edge.wire import decode_event

FAST = OutboxConfig(commit_ms=0)


def open_it(folder: Path, *sinks: str, config: OutboxConfig = FAST) -> Outbox:
    return Outbox(folder, sinks or ("mqtt",), device="gate-07", config=config)


def fill(outbox: Outbox, count: int) -> None:
    for number in range(count):
        assert outbox.append(draft(str(number)), timeout_s=5)
    assert outbox.flush(10)


def gaps(outbox: Outbox) -> list[tuple[str, list[tuple[int, int]], str]]:
    """Epoch, ranges and reason of every declared loss in it."""
    events = [decode_event(e.payload) for e in outbox.lease("mqtt", 10_000, timeout_s=1)]
    outbox.release("mqtt")
    return [
        (event.payload.epoch, event.payload.ranges, event.payload.reason)  # type: ignore[union-attr]
        for event in events
        if event.kind == "gap"
    ]


# ---- the schema


def first_schema(folder: Path) -> None:
    """An outbox as the first released version wrote it, with five events, two of them confirmed."""
    folder.mkdir()
    db = sqlite3.connect(folder / "outbox.db")
    db.executescript(
        """
        PRAGMA journal_mode=WAL;
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE event (seq INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, payload BLOB NOT NULL);
        CREATE TABLE confirmed (sink TEXT, low INTEGER, high INTEGER, PRIMARY KEY (sink, low))
            WITHOUT ROWID;
        INSERT INTO meta VALUES ('epoch', '0123456789abcdef'), ('last_seq', '5');
        INSERT INTO confirmed VALUES ('mqtt', 1, 2), ('mqtt', 4, 4), ('jsonl', 1, 2);
        PRAGMA user_version = 1;
        """
    )
    for seq in (3, 4, 5):
        db.execute("INSERT INTO event VALUES (?, 'wrist', ?)", (seq, b'{"seq":%d}' % seq))
    db.commit()
    db.close()


def test_an_outbox_of_the_first_version_goes_on(tmp_path: Path) -> None:
    first_schema(tmp_path / "state")
    outbox = open_it(tmp_path / "state", "mqtt", "jsonl")
    assert (outbox.epoch, outbox.last_seq) == ("0123456789abcdef", 5)
    assert [e.seq for e in outbox.lease("mqtt", 10, timeout_s=1)] == [3, 5]
    events = outbox.lease("jsonl", 10, timeout_s=1)
    assert [(e.seq, e.payload) for e in events] == [(s, b'{"seq":%d}' % s) for s in (3, 4, 5)]
    fill(outbox, 1)
    assert outbox.last_seq == 6
    outbox.close()
    outbox = open_it(tmp_path / "state", "mqtt", "jsonl")
    assert [e.seq for e in outbox.lease("mqtt", 10, timeout_s=1)] == [3, 5, 6]
    assert gaps(outbox) == []
    outbox.close()


def test_an_outbox_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_it(tmp_path).close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / "outbox.db").read_bytes()
    with pytest.raises(OutboxError, match=r"newer edgewright.*upgrade"):
        open_it(tmp_path)
    assert (tmp_path / "outbox.db").read_bytes() == before
    assert not list(tmp_path.glob("*.damaged*"))


# ---- the reserve and the mark


def test_a_lost_store_is_declared_from_what_was_confirmed_to_what_was_reserved(
    tmp_path: Path,
) -> None:
    outbox = open_it(tmp_path)
    fill(outbox, 30)
    lost_epoch = outbox.epoch
    outbox.close()
    for file in tmp_path.glob("outbox.db*"):
        file.unlink()
    outbox = open_it(tmp_path)
    ((epoch, ((low, high),), reason),) = gaps(outbox)
    assert outbox.epoch != lost_epoch
    assert (epoch, low, reason) == (lost_epoch, 1, "store lost")
    assert 30 <= high <= 30 + 2 * reserve.BLOCK
    outbox.close()
    outbox = open_it(tmp_path)
    assert len(gaps(outbox)) == 1, "told once"
    outbox.close()


def test_what_a_lost_store_had_declared_is_declared_again(tmp_path: Path) -> None:
    """A store is lost before anybody has heard of the loss of the one before it, and so on."""
    epochs: list[str] = []
    for _ in range(4):
        outbox = open_it(tmp_path)
        fill(outbox, 5)
        assert [epoch for epoch, _, _ in gaps(outbox)] == epochs
        epochs.append(outbox.epoch)
        outbox.close()
        (tmp_path / "outbox.db").unlink()


def test_what_was_heard_of_is_not_declared_again(tmp_path: Path) -> None:
    open_it(tmp_path).close()
    (tmp_path / "outbox.db").unlink()
    outbox = open_it(tmp_path)
    second = outbox.epoch
    assert len(gaps(outbox)) == 1
    outbox.confirm("mqtt", [(1, 1)])
    fill(outbox, reserve.BLOCK + 10)  # so that the reserve is written once more
    outbox.close()
    (tmp_path / "outbox.db").unlink()
    outbox = open_it(tmp_path)
    assert [epoch for epoch, _, _ in gaps(outbox)] == [second]
    outbox.close()


def test_evicted_events_stay_declared_when_their_store_is_lost(tmp_path: Path) -> None:
    config = OutboxConfig(commit_ms=0, max_mb=0.02)
    outbox = open_it(tmp_path, config=config)
    fill(outbox, 200)
    evicted = Ranges(span for _, ranges, _ in gaps(outbox) for span in ranges)
    epoch = outbox.epoch
    outbox.confirm("mqtt", [(seq, seq) for seq in range(1, outbox.last_seq) if seq not in evicted])
    fill(outbox, 10)
    outbox.close()
    (tmp_path / "outbox.db").unlink()
    outbox = open_it(tmp_path)
    declared = Ranges(span for lost, ranges, _ in gaps(outbox) if lost == epoch for span in ranges)
    assert evicted.count() > 50 and not len(evicted.minus(declared))
    outbox.close()


@pytest.mark.parametrize("harm", ["UPDATE event SET payload = x'00'", "DELETE FROM event"])
def test_a_spoilt_declaration_is_made_again(tmp_path: Path, harm: str) -> None:
    outbox = open_it(tmp_path)
    fill(outbox, 5)
    first = outbox.epoch
    outbox.close()
    (tmp_path / "outbox.db").unlink()
    outbox = open_it(tmp_path)
    assert [epoch for epoch, _, _ in gaps(outbox)] == [first]
    outbox.close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.execute(f"{harm} WHERE seq = 1")
    db.commit()
    db.close()
    outbox = open_it(tmp_path)
    gaps(outbox)
    fill(outbox, 1)  # what is found while sending is declared with the next group
    assert first in [epoch for epoch, _, _ in gaps(outbox)]
    outbox.close()


@pytest.mark.parametrize("harm", ["UPDATE event SET payload = x'00'", "DELETE FROM event"])
def test_a_spoilt_declaration_of_evicted_events_is_made_again(tmp_path: Path, harm: str) -> None:
    outbox = open_it(tmp_path, config=OutboxConfig(commit_ms=0, max_mb=0.02))
    fill(outbox, 200)
    evicted = Ranges(span for _, ranges, _ in gaps(outbox) for span in ranges)
    outbox.close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.execute(f'{harm} WHERE CAST(payload AS TEXT) LIKE \'%"kind":"gap"%\'')
    db.commit()
    db.close()
    outbox = open_it(tmp_path)
    gaps(outbox)
    fill(outbox, 1)  # what is found while sending is declared with the next group
    declared = Ranges(span for _, ranges, _ in gaps(outbox) for span in ranges)
    assert evicted.count() > 50 and not len(evicted.minus(declared))
    outbox.close()


def test_a_crash_before_the_reserve_is_renewed_only_declares_it_twice(tmp_path: Path) -> None:
    outbox = open_it(tmp_path)
    fill(outbox, 5)
    epoch = outbox.epoch
    outbox.close()
    kept = (tmp_path / reserve.FILE).read_bytes()
    (tmp_path / "outbox.db").unlink()
    open_it(tmp_path).close()
    (tmp_path / reserve.FILE).write_bytes(kept)
    outbox = open_it(tmp_path)
    assert [e for e, _, _ in gaps(outbox)] == [epoch, epoch]
    outbox.close()


def test_numbers_are_never_given_twice_after_a_store_was_set_back(tmp_path: Path) -> None:
    outbox = open_it(tmp_path)
    fill(outbox, 5)
    outbox.close()
    old = (tmp_path / "outbox.db").read_bytes()
    outbox = open_it(tmp_path)
    fill(outbox, 20)
    given_before = outbox.last_seq
    outbox.close()
    (tmp_path / "outbox.db").write_bytes(old)
    outbox = open_it(tmp_path)
    ((_, ((low, high),), reason),) = gaps(outbox)
    assert (low, reason) == (6, "store set back") and high >= given_before
    fill(outbox, 1)
    assert outbox.last_seq > given_before
    outbox.close()


def test_a_row_that_vanished_is_declared(tmp_path: Path) -> None:
    outbox = open_it(tmp_path)
    fill(outbox, 10)
    outbox.confirm("mqtt", [(1, 2)])
    outbox.close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.execute("DELETE FROM event WHERE seq IN (4, 5, 9)")
    db.commit()
    db.close()
    outbox = open_it(tmp_path)
    assert gaps(outbox) == [(outbox.epoch, [(4, 5), (9, 9)], "damaged on disk")]
    assert outbox.depth("mqtt") == 6
    outbox.close()


def test_a_sink_that_is_new_gets_what_is_there_and_no_gap_for_what_was_done(
    tmp_path: Path,
) -> None:
    outbox = open_it(tmp_path, "mqtt")
    fill(outbox, 10)
    outbox.confirm("mqtt", [(1, 6)])
    outbox.close()
    outbox = open_it(tmp_path, "mqtt", "jsonl")
    assert outbox.depth("jsonl") == 4
    assert [e.seq for e in outbox.lease("jsonl", 100, timeout_s=1)] == [7, 8, 9, 10]
    assert gaps(outbox) == []
    outbox.close()


def test_many_small_losses_are_told_in_messages_of_bearable_size(tmp_path: Path) -> None:
    """Every other event is evicted: thousands of ranges, and no gap event that nobody takes."""
    config = OutboxConfig(commit_ms=0, max_mb=2.0, max_pending_events=10_000)
    outbox = open_it(tmp_path, config=config)
    for number in range(8000):
        assert outbox.append(draft(str(number)), timeout_s=5, priority=2 * (number % 2))
    assert outbox.flush(30)
    told = gaps(outbox)
    assert sum(len(ranges) for _, ranges, _ in told) > 1000
    assert all(len(ranges) <= 1000 for _, ranges, _ in told)
    outbox.close()


SEQ = st.integers(0, 1 << 53)


@settings(deadline=None)
@given(SEQ, SEQ)
def test_a_reserve_comes_back_as_it_was_written(reserved: int, confirmed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = Reserve(epoch="0123456789abcdef", reserved=reserved, confirmed=confirmed)
        reserve.write(folder, written)
        assert reserve.read(folder) == written
        mark = Mark(folder)
        mark.write("0123456789abcdef", reserved)
        mark.close()
        again = Mark(folder)
        assert (again.epoch, again.last_seq) == ("0123456789abcdef", reserved)
        again.close()


def test_every_single_flipped_bit_of_a_reserve_is_noticed(tmp_path: Path) -> None:
    reserve.write(tmp_path, Reserve(epoch="0123456789abcdef", reserved=4101, confirmed=7))
    file = tmp_path / reserve.FILE
    whole = file.read_bytes()
    for position in range(len(whole) - 1):  # the last byte is a line's end
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            file.write_bytes(data)
            read = reserve.read(tmp_path)
            assert read is None or read.reserved == 4101
    for length in range(len(whole) - 1):
        file.write_bytes(whole[:length])
        assert reserve.read(tmp_path) is None


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_for_a_reserve_are_no_reserve(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / reserve.FILE).write_bytes(data)
        (folder / reserve.MARK).write_bytes(data)
        assert reserve.read(folder) is None
        mark = Mark(folder)
        assert mark.last_seq == 0
        mark.close()
