"""The outbox: events are durable here before anything is sent, and leave only when confirmed.

Invariants. One SQLite connection (WAL, synchronous=FULL), used under one lock. `seq` is given
inside the commit, rises by one and is never reused within an epoch. A row is deleted only when
every sink has confirmed it. What `lease` returns is committed.

`append` hands an event to the outbox's own thread, which commits in groups; `lease` and `confirm`
are called by one sender a sink.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from edge.errors import OutboxError
from edge.wire import Event, StoredEvent, encode

SCHEMA_VERSION = 1
FILE = "outbox.db"
_GROUP = 256
_RETRY_S = 1.0
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (seq INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE confirmed (sink TEXT, low INTEGER, high INTEGER, PRIMARY KEY (sink, low))
    WITHOUT ROWID;
"""

log = logging.getLogger(__name__)


class Ranges:
    """A set of seqs as sorted, disjoint, inclusive ranges that do not touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for low, high in ranges:
            self.add(low, high)

    def add(self, low: int, high: int) -> None:
        """Add low..high, both included."""
        if low > high:
            raise ValueError(f"an empty range: {low}..{high}")
        apart: list[tuple[int, int]] = []
        for start, end in self._ranges:
            if end + 1 < low or high + 1 < start:
                apart.append((start, end))
            else:
                low, high = min(low, start), max(high, end)
        self._ranges = sorted([*apart, (low, high)])

    def __contains__(self, seq: int) -> bool:
        return any(low <= seq <= high for low, high in self._ranges)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and other._ranges == self._ranges

    def __repr__(self) -> str:
        return f"Ranges({self._ranges})"

    def common(self, other: Ranges) -> Ranges:
        """What both hold."""
        shared = Ranges()
        for low, high in self._ranges:
            for start, end in other._ranges:
                if max(low, start) <= min(high, end):
                    shared.add(max(low, start), min(high, end))
        return shared

    def hi(self, base: int) -> int:
        """The highest seq up to which everything above `base` is held."""
        for low, high in self._ranges:
            if low <= base + 1 <= high:
                return high
        return base


class Outbox:
    """The durable queue between rules and sinks; see the module's invariants."""

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[str],
        *,
        device: str,
        commit_s: float = 0.02,
        max_pending: int = 1000,
    ) -> None:
        """Open or create the store in `folder`. OutboxError when it cannot be used.

        `commit_s` is how long the first event of a group waits for more; `max_pending` bounds the
        events that wait for their commit.
        """
        self._file = folder / FILE
        self._device = device
        self._commit_s = commit_s
        self._pending: queue.Queue[Event] = queue.Queue(max_pending)
        self._lock = threading.RLock()
        self._committed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._guard = _lock_folder(folder)
        try:
            self._db = _open(self._file)
            self.epoch, self._last_seq = self._load()
            self._confirmed = {sink: self._load_ranges(sink) for sink in sinks}
            self._forget_sinks(sinks)
        except sqlite3.Error as error:
            self._guard.close()
            raise OutboxError(f"{self._file}: cannot be used: {error}") from error
        except OutboxError:
            self._guard.close()
            raise
        self._leased = dict.fromkeys(sinks, 0)
        self._dirty: set[str] = set()
        self.drops = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def append(self, draft: Event, *, timeout_s: float) -> bool:
        """Hand over an event to be committed; it gets its device, epoch and seq there.

        False, and a counted drop, when `max_pending` events wait and none was committed within
        `timeout_s` (a full or dead disk). Files give a long time, live sources none.
        """
        try:
            self._pending.put(draft, block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Full:
            with self._lock:
                self.drops += 1
            return False
        return True

    def lease(self, sink: str, limit: int, *, timeout_s: float) -> list[StoredEvent]:
        """Up to `limit` committed events that this sink has neither leased nor confirmed.

        In order of seq; waits up to `timeout_s` for the first one. A lease lasts until `confirm`
        or `release`.
        """
        deadline = time.monotonic() + timeout_s
        with self._committed:
            while True:
                events = self._select(sink, limit)
                remaining = deadline - time.monotonic()
                if events or remaining <= 0 or self._stopping.is_set():
                    return events
                self._committed.wait(remaining)

    def confirm(self, sink: str, ranges: Iterable[tuple[int, int]]) -> None:
        """This sink's receiver holds these seqs, for good.

        Ranges are inclusive; "everything up to hi" is (1, hi). A range beyond the last committed
        seq is cut there: nobody can confirm the future. Written to disk with the next group; a
        confirmation lost in a crash only means a resend.
        """
        with self._lock:
            confirmed = self._confirmed[sink]
            for low, high in ranges:
                if low <= min(high, self._last_seq):
                    confirmed.add(low, min(high, self._last_seq))
            self._dirty.add(sink)

    def release(self, sink: str) -> None:
        """Give back all leases of a sink: what it has not confirmed will be leased again."""
        with self._committed:
            self._leased[sink] = 0
            self._committed.notify_all()

    def depth(self, sink: str) -> int:
        """How many committed events this sink has not confirmed yet."""
        with self._lock:
            (count,) = self._execute("SELECT count(*) FROM event").fetchone()
            for span in self._confirmed[sink]:
                (held,) = self._execute(
                    "SELECT count(*) FROM event WHERE seq BETWEEN ? AND ?", span
                ).fetchone()
                count -= held
        return int(count)

    @property
    def last_seq(self) -> int:
        """The seq of the newest committed event; 0 when there was none in this epoch."""
        return self._last_seq

    def count(self, name: str) -> int:
        """Add one to a durable counter (connections) and return it.

        OutboxError when the disk refuses that.
        """
        try:
            with self._lock, self._transaction():
                self._execute(
                    "INSERT INTO meta VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1",
                    (f"count.{name}",),
                )
                row = self._execute("SELECT value FROM meta WHERE key = ?", (f"count.{name}",))
                return int(row.fetchone()[0])
        except sqlite3.Error as error:
            raise OutboxError(f"{self._file}: cannot be written: {error}") from error

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything appended so far is committed; False when that took too long."""
        deadline = time.monotonic() + timeout_s
        while self._pending.unfinished_tasks:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """Commit what waits, write the cursors, and let go of the file."""
        self._stopping.set()
        with self._committed:
            self._committed.notify_all()
        self._thread.join(timeout_s)
        with self._lock:
            self._db.close()
        self._guard.close()

    # ---- the committing thread

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._pending.empty()):
            group = self._collect()
            while not self._commit(group):
                if self._stopping.wait(_RETRY_S):
                    return
            for _ in group:
                self._pending.task_done()
        self._commit([])  # the cursors

    def _collect(self) -> list[Event]:
        """The next group: waits for a first event, then `commit_s` for more."""
        try:
            group = [self._pending.get(timeout=0.1)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + self._commit_s
        while len(group) < _GROUP:
            try:
                remaining = 0.0 if self._stopping.is_set() else deadline - time.monotonic()
                group.append(self._pending.get(block=remaining > 0, timeout=max(remaining, 0.0)))
            except queue.Empty:
                break
        return group

    def _commit(self, group: list[Event]) -> bool:
        """Write a group and the changed cursors; False when the disk refuses all of it."""
        with self._committed:
            if not group and not self._dirty:
                return True
            rows = []
            for seq, draft in enumerate(group, start=self._last_seq + 1):
                event = msgspec.structs.replace(
                    draft, device=self._device, epoch=self.epoch, seq=seq
                )
                rows.append((seq, event.pipeline, encode(event)))
            try:
                with self._transaction():
                    self._db.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)
                    if rows:
                        self._execute(
                            "UPDATE meta SET value = ? WHERE key = 'last_seq'", (rows[-1][0],)
                        )
                    for sink in self._dirty:
                        self._save_ranges(sink)
                    self._delete_confirmed()
            except sqlite3.Error as error:
                log.error("%s: commit failed, trying again: %s", self._file, error)
                return False
            self._last_seq += len(rows)
            self._dirty.clear()
            self._committed.notify_all()
        return True

    # ---- SQL, under the lock

    def _select(self, sink: str, limit: int) -> list[StoredEvent]:
        confirmed = self._confirmed[sink]
        events: list[StoredEvent] = []
        after = max(self._leased[sink], confirmed.hi(0))
        while len(events) < limit:
            rows = self._execute(
                "SELECT seq, pipeline, payload FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, limit - len(events)),
            ).fetchall()
            if not rows:
                break
            after = rows[-1][0]
            events += [
                StoredEvent(seq=seq, pipeline=pipeline, payload=payload)
                for seq, pipeline, payload in rows
                if seq not in confirmed
            ]
        if events:
            self._leased[sink] = events[-1].seq
        return events

    def _load(self) -> tuple[str, int]:
        meta = dict(self._execute("SELECT key, value FROM meta").fetchall())
        return meta["epoch"], int(meta["last_seq"])

    def _load_ranges(self, sink: str) -> Ranges:
        return Ranges(
            self._execute("SELECT low, high FROM confirmed WHERE sink = ?", (sink,)).fetchall()
        )

    def _save_ranges(self, sink: str) -> None:
        self._execute("DELETE FROM confirmed WHERE sink = ?", (sink,))
        self._db.executemany(
            "INSERT INTO confirmed VALUES (?, ?, ?)",
            [(sink, low, high) for low, high in self._confirmed[sink]],
        )

    def _delete_confirmed(self) -> None:
        if not self._confirmed:
            return
        first, *others = self._confirmed.values()
        for other in others:
            first = first.common(other)
        for low, high in first:
            self._execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", (low, high))

    def _forget_sinks(self, sinks: Sequence[str]) -> None:
        """A sink that is no longer configured holds nothing back."""
        with self._transaction():
            for (sink,) in self._execute("SELECT DISTINCT sink FROM confirmed").fetchall():
                if sink not in sinks:
                    self._execute("DELETE FROM confirmed WHERE sink = ?", (sink,))

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        return self._db.execute(statement, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; sqlite3.Error leaves the store as it was."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._execute("ROLLBACK")
            raise


def _open(file: Path) -> sqlite3.Connection:
    new = not file.exists()
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        db.close()
        raise OutboxError(
            f"{file}: written by a newer edgewright (schema {version}, this one knows"
            f" {SCHEMA_VERSION}); upgrade, or name another state_dir"
        )
    if new or version == 0:
        db.executescript(
            f"BEGIN; {_SCHEMA}"
            f"INSERT INTO meta VALUES ('epoch', '{secrets.token_hex(8)}'), ('last_seq', '0');"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    return db


def _lock_folder(folder: Path) -> IO[str]:
    """Hold the folder for this process; a second agent on it is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = open(folder / "lock", "w", encoding="ascii")  # noqa: SIM115 - held until close
    except OSError as error:
        raise OutboxError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise OutboxError(
            f"{folder}: another agent runs on this state_dir; stop it or name another one"
        ) from error
    return guard
