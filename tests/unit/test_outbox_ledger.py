"""Whatever happens between an outbox and its receiver: captured = stored + declared + still here.

The receiver is the real store of the fleet, fed with the real bytes. A crash is a start from a copy
of the files as they lay at that moment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from builders import draft
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

from edge.config import OutboxConfig
from edge.fleet import arrivals
from edge.fleet.store import SqliteStore
from edge.outbox import Outbox
from edge.ranges import Ranges
from edge.wire import Ack, Batch, StoredEvent, decode_event, encode_batch

DEVICE = "gate-07"
TIGHT = OutboxConfig(commit_ms=0.0, max_mb=0.012, max_pending_events=50)
FILES = ("outbox.db", "outbox.db-wal", "outbox.reserve", "outbox.mark")


class Ledger(RuleBasedStateMachine):
    """One outbox, one ingest, and a network between them that may do anything."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.lives = 0
        self.store = SqliteStore(self.folder / "fleet.db")
        self.leased: list[StoredEvent] = []
        self.on_the_way: list[StoredEvent] = []
        self.acks: list[Ack] = []
        self.accepted = 0
        self.captured: dict[int, bytes] = {}
        self.outbox = self.open()

    def open(self) -> Outbox:
        return Outbox(self.folder / f"life-{self.lives}", ["mqtt"], device=DEVICE, config=TIGHT)

    def committed(self) -> None:
        assert self.outbox.flush(10)
        # A flush waits for events; what is declared on the way is committed with the next.
        assert self.outbox._commit([])

    @rule(priorities=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def append(self, priorities: list[int]) -> None:
        for priority in priorities:
            label = f"event {self.accepted}"
            assert self.outbox.append(draft(label), timeout_s=5, priority=priority)
            self.accepted += 1
        self.committed()

    @rule(count=st.integers(1, 5))
    def drop(self, count: int) -> None:
        """Events that found the queue full: counted, numbered and declared."""
        with self.outbox._lock:
            self.outbox.drops += count
            self.outbox._dropped += count
        self.committed()

    @rule(limit=st.integers(1, 20))
    def lease(self, limit: int) -> None:
        for event in self.outbox.lease("mqtt", limit, timeout_s=0):
            # A lease never gives other bytes for a number than it gave before.
            assert self.captured.setdefault(event.seq, event.payload) == event.payload
            assert decode_event(event.payload).seq == event.seq
            self.leased.append(event)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        """Some of what is leased goes out, in any order, or is lost at once."""
        sent = data.draw(st.permutations(self.leased))
        self.leased = []
        self.on_the_way += sent[: data.draw(st.integers(0, len(sent)))]

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), batched=st.booleans(), again=st.booleans())
    def arrive(self, data: st.DataObject, batched: bool, again: bool) -> None:
        """The ingest commits some of it; a broker may deliver twice."""
        count = data.draw(st.integers(1, len(self.on_the_way)))
        events = self.on_the_way[:count]
        if not again:
            del self.on_the_way[:count]
        if batched:
            messages = [("batch", encode_batch(Batch(events)))]
        else:
            messages = [(f"event/{event.pipeline}", event.payload) for event in events]
        received = [
            arrival
            for topic, payload in messages
            for arrival in arrivals.read(f"edge/v1/{DEVICE}/{topic}", payload, prefix="edge/v1")
        ]
        self.acks += self.store.commit(received).values()

    @precondition(lambda self: self.acks)
    @rule(data=st.data(), keep=st.booleans())
    def confirm(self, data: st.DataObject, keep: bool) -> None:
        """Acknowledgements come late, twice, in any order, or never."""
        index = data.draw(st.integers(0, len(self.acks) - 1))
        ack = self.acks[index] if keep else self.acks.pop(index)
        self.outbox.confirm("mqtt", [(1, ack.hi), *ack.ranges])

    @rule(ahead=st.integers(1, 10_000))
    def forge(self, ahead: int) -> None:
        """Somebody confirms what was never given."""
        last = self.outbox.last_seq
        self.outbox.confirm("mqtt", [(last + 1, last + ahead), (last + ahead, last + 1), (-5, 0)])

    @rule()
    def refuse(self) -> None:
        for event in self.leased[:2]:
            self.outbox.refuse("mqtt", event.seq)

    @rule()
    def lose_the_connection(self) -> None:
        self.leased, self.on_the_way = [], []
        self.outbox.release("mqtt")

    @rule()
    def crash(self) -> None:
        """The files as they lie now are all that is left."""
        before = self.folder / f"life-{self.lives}"
        self.lives += 1
        after = self.folder / f"life-{self.lives}"
        after.mkdir()
        with self.outbox._lock:
            for name in FILES:
                if (before / name).exists():
                    shutil.copy(before / name, after / name)
        self.outbox.close()
        epoch = self.outbox.epoch
        self.outbox = self.open()
        assert self.outbox.epoch == epoch
        self.leased = []

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = self.open()
        self.leased = []

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.committed()
        stream = (DEVICE, self.outbox.epoch)
        stored = self.store._ranges("stored", stream)
        here = self.outbox._journal.present()
        declared = Ranges(self.store._ranges("declared", stream))
        for (payload,) in self.outbox._journal._db.execute(
            "SELECT payload FROM event WHERE pipeline = 'device'"
        ):
            for low, high in decode_event(payload).payload.ranges:  # type: ignore[union-attr]
                declared.add(low, high)
        known = Ranges([*stored, *here, *declared])
        last = self.outbox.last_seq
        assert not len(known.missing(1, last)), (known, last)
        assert self.outbox._journal.bytes <= TIGHT.max_mb * 1e6 + self.largest_group()

    def largest_group(self) -> int:
        """Gap events are never evicted, and a group may stand over the bound until the next."""
        (kept,) = self.outbox._journal._db.execute(
            "SELECT coalesce(sum(length(payload)), 0) FROM event WHERE priority = 3"
        ).fetchone()
        return int(kept) + 12 * 700

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.everything_arrives_at_last()
        self.outbox.close()
        self.store.close()
        shutil.rmtree(self.folder)

    def everything_arrives_at_last(self) -> None:
        """The network heals: the outbox becomes empty, and the ledger explains all."""
        self.outbox.close()  # what was refused is tried again after a start
        self.outbox = self.open()
        for _ in range(100):
            self.leased = []
            self.outbox.release("mqtt")
            self.lease(1000)
            if not self.leased:
                break
            received = [
                arrival
                for event in self.leased
                for arrival in arrivals.read(
                    f"edge/v1/{DEVICE}/event/{event.pipeline}", event.payload, prefix="edge/v1"
                )
            ]
            for ack in self.store.commit(received).values():
                self.outbox.confirm("mqtt", [(1, ack.hi), *ack.ranges])
            self.committed()
        assert self.outbox.depth("mqtt") == 0
        for account in self.store.accounts():
            assert account.captured == account.stored + account.declared
            assert account.unexplained == 0 and account.captured == self.outbox.last_seq
        for seq, payload in self.store._db.execute("SELECT seq, payload FROM event"):
            assert self.captured[seq] == payload


def test_the_ledger_holds_whatever_happens() -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True),
    )
