"""What the fleet's store writes, acknowledges and accounts for."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import OutboxError
from edge.fleet.store import Arrival, Heard, Poison, Received, SqliteStore, StoreBusy, totals
from edge.wire import GapData

DEVICE, EPOCH = "gate-07", "0123456789abcdef"
DAY = "2026-11-23"


def event(seq: int, *, epoch: str = EPOCH, day: str = DAY, gap: GapData | None = None) -> Received:
    return Received(
        device=DEVICE,
        epoch=epoch,
        seq=seq,
        kind="gap" if gap else "detections",
        pipeline="meter",
        day=day,
        payload=b"event %d" % seq,
        gap=gap,
    )


def gap(seq: int, *ranges: tuple[int, int], epoch: str = EPOCH, day: str = DAY) -> Received:
    """An event that declares others lost."""
    count = sum(high - low + 1 for low, high in ranges)
    data = GapData(epoch=epoch, ranges=list(ranges), count=count, reason="store full")
    return event(seq, gap=data, day=day)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    it = SqliteStore(tmp_path / "fleet.db", busy_s=0.1)
    yield it
    it.close()


def test_hi_is_what_is_there_without_a_hole_and_ranges_what_lies_above(store: SqliteStore) -> None:
    acks = store.commit([event(seq) for seq in (1, 2, 3, 7, 8, 12)])
    ack = acks[DEVICE, EPOCH]
    assert (ack.epoch, ack.hi, ack.ranges) == (EPOCH, 3, [(7, 8), (12, 12)])


def test_what_is_declared_is_acknowledged_like_what_is_stored(store: SqliteStore) -> None:
    store.commit([event(seq) for seq in (1, 2, 6)])
    ack = store.commit([gap(7, (3, 5))])[DEVICE, EPOCH]
    assert (ack.hi, ack.ranges) == (7, [])


def test_an_acknowledgement_stays_small_and_keeps_the_newest_ranges(store: SqliteStore) -> None:
    ack = store.commit([event(seq) for seq in range(2, 2000, 2)])[DEVICE, EPOCH]
    assert ack.hi == 0 and len(ack.ranges) <= 32 and ack.ranges[-1] == (1998, 1998)


def test_who_is_only_heard_of_is_answered_too(store: SqliteStore) -> None:
    """So that a device that has waited long learns that an ingest is back."""
    store.commit([event(1)])
    acks = store.commit([Heard(device=DEVICE, epoch=EPOCH, last_seq=9)])
    assert acks[DEVICE, EPOCH].hi == 1
    (account,) = store.accounts()
    assert (account.captured, account.unexplained, account.missing) == (9, 8, [(2, 9)])


def test_duplicates_are_counted_on_their_day_and_stored_once(store: SqliteStore) -> None:
    store.commit([event(1), event(1), event(2)])
    store.commit([event(2), event(3, day="2026-11-24")])
    days = {row.day: row for row in store.days()}
    assert (days[DAY].stored, days[DAY].duplicates) == (2, 2)
    assert (days["2026-11-24"].stored, days["2026-11-24"].duplicates) == (1, 0)


def test_a_loss_that_is_declared_twice_counts_once_and_not_if_it_is_stored(
    store: SqliteStore,
) -> None:
    store.commit([event(1), gap(10, (2, 6)), gap(11, (4, 9)), event(5)])
    (account,) = store.accounts()
    assert (account.captured, account.stored, account.declared) == (11, 4, 7)
    assert account.unexplained == 0
    assert sum(row.declared for row in store.days()) == 7


def test_a_lost_epoch_is_accounted_for_under_its_own_name(store: SqliteStore) -> None:
    old = "ffffffffffffffff"
    store.commit([event(seq, epoch=old) for seq in range(1, 11)])
    store.commit([gap(1, (8, 4096), epoch=old)])
    accounts = {account.epoch: account for account in store.accounts()}
    assert (accounts[old].stored, accounts[old].declared) == (10, 4086)
    assert totals(accounts.values()) == {
        "captured": 4097, "stored": 11, "declared": 4086, "unexplained": 0
    }  # fmt: skip


def test_a_locked_database_is_busy_and_nothing_of_the_group_is_written(
    store: SqliteStore, tmp_path: Path
) -> None:
    locker = sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        store.commit([event(1)])
    locker.execute("ROLLBACK")
    assert store.commit([event(1)])[DEVICE, EPOCH].hi == 1
    locker.close()


def test_poison_is_counted_for_ever_and_kept_for_a_while(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.fleet.store.MAX_POISON", 5)
    for number in range(12):
        store.commit([Poison(topic=str(number), reason="", payload=b"")])
    assert store.poisoned() == 12
    topics = [topic for (topic,) in store._db.execute("SELECT topic FROM poison")]
    assert topics == ["7", "8", "9", "10", "11"]


def test_two_stores_on_one_file_see_each_other(store: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "fleet.db")
    store.commit([event(1), event(3)])
    assert other.commit([event(2)])[DEVICE, EPOCH].hi == 3
    assert other.commit([event(3)])[DEVICE, EPOCH].hi == 3
    assert store.days()[0].duplicates == 1
    other.close()


def test_many_may_make_the_file_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def make() -> None:
        try:
            SqliteStore(tmp_path / "new.db").close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"something else entirely" * 1000)
    with pytest.raises(OutboxError, match="cannot be used as a fleet store"):
        SqliteStore(tmp_path / "fleet.db")


STEPS = st.lists(
    st.one_of(
        st.integers(1, 30).map(event),
        st.tuples(st.integers(31, 60), st.integers(1, 30), st.integers(0, 8)).map(
            lambda g: gap(g[0], (g[1], g[1] + g[2]))
        ),
        st.integers(0, 60).map(lambda n: Heard(device=DEVICE, epoch=EPOCH, last_seq=n)),
        st.just(Poison(topic="t", reason="r", payload=b"p")),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(1, 7))
def test_the_books_balance_and_no_acknowledgement_says_too_much(
    steps: list[Arrival], group: int
) -> None:
    store = SqliteStore(Path(":memory:"))
    stored: set[int] = set()
    declared: set[int] = set()
    duplicates = 0
    for start in range(0, len(steps), group):
        part = steps[start : start + group]
        for step in part:
            if isinstance(step, Received):
                duplicates += step.seq in stored
                if step.gap and step.seq not in stored:
                    declared |= {n for low, high in step.gap.ranges for n in range(low, high + 1)}
                stored.add(step.seq)
        for ack in store.commit(part).values():
            assert {*range(1, ack.hi + 1)} <= stored | declared
            for low, high in ack.ranges:
                assert {*range(low, high + 1)} <= stored
    for account in store.accounts():
        assert account.stored == len(stored)
        assert account.declared == len(declared - stored)
        assert account.captured == account.stored + account.declared + account.unexplained
    assert sum(row.duplicates for row in store.days()) == duplicates
    assert sum(row.stored for row in store.days()) == len(stored)
    store.close()
