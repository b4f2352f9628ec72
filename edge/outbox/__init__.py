"""The outbox: events are durable here before anything is sent, and leave only when confirmed.

Invariants. `device`, `epoch` and `seq` are given inside the commit; `seq` rises by one and is never
reused within an epoch. A row is deleted only when every sink has confirmed it, or when its loss is
declared by a `gap` event in the same transaction. What `lease` returns is committed.

`append` hands an event to the outbox's own thread, which commits in groups; `lease` and `confirm`
are called by one sender a sink.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge.clock import Clock
from edge.config import OutboxConfig
from edge.errors import OutboxError
from edge.outbox import reserve
from edge.outbox.batch import Batch, gaps_of
from edge.outbox.cursors import Cursors
from edge.outbox.journal import Damaged, Journal, set_aside
from edge.outbox.keeper import ReserveKeeper
from edge.outbox.stock import Account, take_stock
from edge.ranges import Range, Ranges
from edge.wire import Event, GapData, StoredEvent

LOW, NORMAL, HIGH = 0, 1, 2
_GROUP = 256
_DELETED_AT_ONCE = 1000  # so that a transaction fits into the space that is kept for it
_RETRY_S = 1.0
_EVICT_SHARE = 0.05  # evicted at once beyond what is needed, so that gap events stay few

log = logging.getLogger(__name__)


class Outbox:
    """The durable queue between rules and sinks; see the module's invariants.

    `failure` is what its thread died of: nothing is committed any more, and the agent must end.
    """

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[str],
        *,
        device: str,
        config: OutboxConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open or create the store in `folder`. OutboxError when it cannot be used.

        A store that is damaged is set aside, and what may be lost with it is declared.
        """
        self._folder = folder
        self._device = device
        self._config = config or OutboxConfig()
        self._clock = clock or Clock()
        self._pending: queue.Queue[tuple[Event, int]] = queue.Queue(self._config.max_pending_events)
        self._lock = threading.RLock()
        self._committed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._notices: list[GapData] = []
        self._dropped = 0
        self.drops = 0
        self.problem = ""
        self.failure: BaseException | None = None
        self._started_s = time.monotonic()
        self._guard = reserve.lock(folder)
        try:
            self._mark = reserve.Mark(folder)
            try:
                self._open(sinks)
            except OutboxError:
                if not reserve.drop_ballast(folder):
                    raise
                self._open(sinks)  # into the space that is kept for a full disk
        except BaseException as error:
            self._guard.close()
            if isinstance(error, OSError):
                raise OutboxError(f"{folder}: cannot be written: {error.strerror}") from error
            raise
        self._undeleted = True
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def _open(self, sinks: Sequence[str]) -> None:
        try:
            self._journal = Journal(self._folder)
        except Damaged as error:
            kept = set_aside(self._folder)
            log.error("outbox damaged (%s); set aside as %s", error, kept)
            self._journal = Journal(self._folder)
        try:
            self.epoch = self._journal.epoch
            self._last_seq = self._journal.last_seq
            self._ticks_base_s = self._journal.ticks_s
            self._take_stock(sinks)
            reserve.keep_ballast(self._folder)
        except (sqlite3.Error, OSError) as error:
            self._journal.close()
            raise OutboxError(f"{self._journal.file}: cannot be used: {error}") from error

    def _take_stock(self, sinks: Sequence[str]) -> None:
        """Declare what is missing, in one transaction, and before the reserve forgets another
        store: a crash in between only declares the same again."""
        journal, mark = self._journal, self._mark
        known = reserve.read(self._folder)
        gone = journal.confirmed()
        with journal.transaction():
            journal.forget_sinks_but(sinks)
            stock = take_stock(
                Account(epoch=self.epoch, last_seq=self._last_seq),
                rows=journal.present(),
                gone=gone,
                spoilt=any(payload is None for _, payload in journal.declarations()),
                mark=Account(epoch=mark.epoch, last_seq=mark.last_seq),
                known=known,
            )
            self._last_seq = stock.last_seq
            batch = self._batch()
            batch.declare(stock.gaps)
            journal.insert(batch.rows)
            self._last_seq = batch.last_seq
            self._cursors = Cursors(
                {sink: journal.confirmed(sink) for sink in sinks},
                gone=Ranges([*gone, *stock.missing]),
            )
            if stock.gaps:
                journal.put("last_seq", self._last_seq)
                journal.save_confirmed(self._cursors.gone)
                for sink, confirmed in self._cursors.confirmed.items():
                    journal.save_confirmed(confirmed, sink)
        mark.write(self.epoch, self._last_seq)
        self._keeper = ReserveKeeper(self._folder, journal, self._cursors, known=known)
        self._keeper.cover(self._last_seq)

    @property
    def last_seq(self) -> int:
        """The seq of the newest committed event; 0 when there was none in this epoch."""
        return self._last_seq

    def append(self, draft: Event, *, timeout_s: float, priority: int = NORMAL) -> bool:
        """Hand over an event to be committed; it gets its device, epoch and seq there.

        False when `max_pending_events` wait and none was committed within `timeout_s` (a full or
        dead disk): a drop that is counted, and declared as soon as the disk takes writes again.
        Files give a long time, live sources none. Higher `priority` (0, 1, 2) is evicted later.
        """
        try:
            self._pending.put((draft, priority), block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Full:
            with self._lock:
                self.drops += 1
                self._dropped += 1
            return False
        return True

    def lease(
        self,
        sink: str,
        limit: int,
        *,
        timeout_s: float,
        above: int = 0,
        upto: int | None = None,
    ) -> list[StoredEvent]:
        """Up to `limit` committed events that this sink has neither leased nor confirmed.

        In order of seq, of above < seq <= upto; waits up to `timeout_s` for the first one. A lease
        lasts until `confirm`, `refuse` or `release`.
        """
        deadline = time.monotonic() + timeout_s
        with self._committed:
            while True:
                events = self._select(sink, limit, above, upto)
                remaining = deadline - time.monotonic()
                if events or remaining <= 0 or self._stopping.is_set():
                    return events
                self._committed.wait(remaining)

    def wait(self, *, beyond: int, timeout_s: float) -> bool:
        """Wait until an event with a seq beyond this one is committed; False when that took too
        long."""
        with self._committed:
            if self._last_seq <= beyond and not self._stopping.is_set():
                self._committed.wait(timeout_s)
            return self._last_seq > beyond

    def confirm(self, sink: str, ranges: Iterable[Range]) -> int:
        """This sink's receiver holds these seqs, for good; how many were news.

        Ranges are inclusive; "everything up to hi" is (1, hi). A range beyond the last committed
        seq is cut there: nobody can confirm the future. Written to disk with the next group; a
        confirmation lost in a crash only means a resend.
        """
        with self._lock:
            return self._cursors.confirm(sink, ranges, last_seq=self._last_seq)

    def refuse(self, sink: str, seq: int) -> None:
        """This sink's receiver will not have this event: it is kept, and not sent to that sink
        again before the next start."""
        with self._lock:
            self._cursors.refuse(sink, seq)

    def release(self, sink: str) -> None:
        """Give back all leases of a sink: what it has not confirmed will be leased again."""
        with self._committed:
            self._cursors.release(sink)
            self._committed.notify_all()

    def depth(self, sink: str) -> int:
        """How many committed events this sink has not confirmed yet."""
        with self._lock:
            return self._journal.count_outside(self._cursors.confirmed[sink])

    def refused(self, sink: str) -> int:
        """How many events this sink's receiver refused since the start."""
        with self._lock:
            return self._cursors.refused(sink)

    def count(self, name: str) -> int:
        """Add one to a durable counter (connections) and return it; a disk that will not have it
        costs only the knowledge."""
        with self._lock:
            value = int(self._journal.get(f"count.{name}", "0")) + 1
            try:
                with self._journal.transaction():
                    self._journal.put(f"count.{name}", value)
            except sqlite3.Error as error:
                log.warning("%s: the counter %s is not saved: %s", self._journal.file, name, error)
            return value

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything appended so far is committed; False when that took too long."""
        deadline = time.monotonic() + timeout_s
        while self._pending.unfinished_tasks:
            if self.failure is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """Commit what waits, write the cursors, and let go of the file; idempotent.

        What a disk refuses to the end is declared, in the space that is kept for that.
        """
        if self._guard.closed:
            return
        self._stopping.set()
        with self._committed:
            self._committed.notify_all()
        self._thread.join(timeout_s)
        with self._lock:
            left = self._pending.unfinished_tasks
            if left and self.failure is None and not self._thread.is_alive():
                self._dropped += left
                reserve.drop_ballast(self._folder)
                self._commit([])
            self._journal.close()
            self._mark.close()
        self._guard.close()

    # ---- the committing thread

    def _run(self) -> None:
        """Commit until closed. What the disk refuses is tried again; of anything else this thread
        dies, and `failure` says so."""
        try:
            self._commit_all()
        except BaseException as error:
            log.exception("the outbox died")
            self.failure = error

    def _commit_all(self) -> None:
        while not (self._stopping.is_set() and self._pending.empty()):
            group = self._collect()
            while not self._commit(group):
                self._make_room()
                if self._stopping.wait(_RETRY_S):
                    return
            if self.problem:
                log.info("%s: takes writes again", self._journal.file)
                self.problem = ""
                reserve.keep_ballast(self._folder)
            for _ in group:
                self._pending.task_done()
        self._commit([])  # the cursors

    def _make_room(self) -> None:
        """Use the space that is kept for a full disk, not for events, but to write down what was
        dropped so far and what is confirmed, which in turn frees space."""
        reserve.drop_ballast(self._folder)
        self._undeleted = True
        while True:
            with self._lock:
                self._journal.checkpoint()
            if not (self._undeleted and self._commit([])):
                break
        reserve.keep_ballast(self._folder, scarce=True)

    def _collect(self) -> list[tuple[Event, int]]:
        """The next group: waits for a first event, then `commit_s` for more."""
        try:
            group = [self._pending.get(timeout=0.1)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + self._config.commit_ms / 1000
        while len(group) < _GROUP:
            try:
                remaining = 0.0 if self._stopping.is_set() else deadline - time.monotonic()
                group.append(self._pending.get(block=remaining > 0, timeout=max(remaining, 0.0)))
            except queue.Empty:
                break
        return group

    def _commit(self, group: list[tuple[Event, int]]) -> bool:
        """Write a group, what must be declared, and the changed cursors; all of it or, when the
        disk refuses (False), nothing."""
        with self._committed:
            changed = self._cursors.dirty or self._dropped or self._notices or self._undeleted
            if not (group or changed):
                return True
            batch = self._batch()
            dropped = self._dropped
            try:
                if dropped:
                    batch.declare_dropped(dropped)
                batch.declare(self._notices)
                for draft, priority in group:
                    batch.add(draft, priority)
                cleared = self._write(batch)
            except (sqlite3.Error, OSError) as error:
                if not self.problem:
                    log.error("%s: cannot be written: %s", self._journal.file, error)
                self.problem = f"cannot be written: {error}"
                return False
            self._last_seq = batch.last_seq
            self._dropped -= dropped
            self._notices = []
            self._cursors.give_up(cleared)
            self._cursors.dirty.clear()
            self._mark.write(self.epoch, self._last_seq)
            self._committed.notify_all()
            if batch.declares:
                self._keeper.remember_declarations()
        return True

    def _write(self, batch: Batch) -> Ranges:
        """One transaction; returns the seqs that are declared lost, which nobody has to confirm."""
        journal, cursors = self._journal, self._cursors
        self._keeper.cover(batch.last_seq)
        with journal.transaction():
            journal.insert(batch.rows)
            written = len(batch.rows)
            evicted = self._evict(batch)
            self._keeper.cover(batch.last_seq)
            journal.insert(batch.rows[written:])
            cleared = Ranges([*batch.declared, *evicted])
            if batch.rows or batch.declared:
                journal.put("last_seq", batch.last_seq)
                journal.put("ticks_s", self.ticks_s())
            for sink in cursors.confirmed if len(cleared) else cursors.dirty:
                journal.save_confirmed(Ranges([*cursors.confirmed[sink], *cleared]), sink)
            waiting = cursors.by_all().minus(cursors.gone)
            done = waiting.lowest(_DELETED_AT_ONCE)
            gone = cursors.gone
            if len(done) or len(cleared):
                journal.delete(done)
                gone = Ranges([*gone, *cleared, *done])
                journal.save_confirmed(gone)
        self._undeleted = waiting != done
        cursors.gone = gone
        return cleared

    def _evict(self, batch: Batch) -> Ranges:
        """Delete what the limits do not allow, and declare it."""
        journal = self._journal
        gone = Ranges()
        max_age_s = round(self._config.max_age_h * 3600)
        if max_age_s:
            old = journal.older_than(self.ticks_s() - max_age_s)
            if len(old):
                journal.delete(old)
                batch.declare(gaps_of(self.epoch, old, "too old"))
                gone = old
        max_bytes = round(self._config.max_mb * 1e6)
        if journal.bytes > max_bytes:
            victims = journal.cheapest(journal.bytes - max_bytes + int(_EVICT_SHARE * max_bytes))
            if len(victims):
                journal.delete(victims)
                batch.declare(gaps_of(self.epoch, victims, "store full"))
                gone = Ranges([*gone, *victims])
        return gone

    def ticks_s(self) -> int:
        """Seconds that this outbox has been running, over all starts."""
        return self._ticks_base_s + int(time.monotonic() - self._started_s)

    def _select(self, sink: str, limit: int, above: int, upto: int | None) -> list[StoredEvent]:
        events, damaged = self._journal.select(
            limit,
            above=above,
            upto=self._last_seq if upto is None else upto,
            passed=self._cursors.passed(sink),
        )
        self._cursors.lease(sink, [*(event.seq for event in events), *damaged])
        if damaged:
            log.error("%s: %d events are damaged and not sent", self._journal.file, len(damaged))
            self._declare_damaged(damaged)
        return events

    def _declare_damaged(self, damaged: list[int]) -> None:
        """Their bytes are gone: nobody has to confirm them, and the loss is declared."""
        ranges = Ranges((seq, seq) for seq in damaged)
        fresh = ranges.minus(self._cursors.by_all())
        self._cursors.give_up(ranges)
        if len(fresh):
            self._notices += gaps_of(self.epoch, fresh, "damaged on disk")
            self._notices += self._keeper.owed()

    def _batch(self) -> Batch:
        return Batch(
            device=self._device,
            epoch=self.epoch,
            last_seq=self._last_seq,
            ticks_s=self.ticks_s(),
            now=self._clock.now(),
        )
