"""Where an ingest keeps events: the seam for databases, and SQLite as the embedded one.

Invariant: an event, the coverage that acknowledgements are made from, and what the event declares
lost are written in one transaction; what `commit` returns is durable.
"""

from __future__ import annotations

import collections
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edge.errors import OutboxError
from edge.ranges import Range, Ranges
from edge.wire import Ack, GapData

SCHEMA_VERSION = 1
MAX_POISON = 10_000
_MAX_ACK_RANGES = 32
_SCHEMA = f"""
BEGIN;
CREATE TABLE event (
    device TEXT, epoch TEXT, seq INTEGER, kind TEXT NOT NULL, pipeline TEXT NOT NULL,
    day TEXT NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;
CREATE TABLE stored (
    device TEXT, epoch TEXT, low INTEGER, high INTEGER, PRIMARY KEY (device, epoch, low)
) WITHOUT ROWID;
CREATE TABLE declared (
    device TEXT, epoch TEXT, low INTEGER, high INTEGER, reason TEXT NOT NULL, day TEXT NOT NULL,
    PRIMARY KEY (device, epoch, low, high, reason)
) WITHOUT ROWID;
CREATE TABLE heard (
    device TEXT, epoch TEXT, last_seq INTEGER NOT NULL, PRIMARY KEY (device, epoch)
) WITHOUT ROWID;
CREATE TABLE tally (
    device TEXT, day TEXT, stored INTEGER NOT NULL, duplicates INTEGER NOT NULL,
    PRIMARY KEY (device, day)
) WITHOUT ROWID;
CREATE TABLE poison (topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it came: what it is filed under, its unchanged bytes, its gap if it is one."""

    device: str
    epoch: str
    seq: int
    kind: str
    pipeline: str
    day: str
    payload: bytes
    gap: GapData | None = None


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is no event; kept aside."""

    topic: str
    reason: str
    payload: bytes


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A device said how far its numbers have gone."""

    device: str
    epoch: str
    last_seq: int


Arrival = Received | Poison | Heard
Stream = tuple[str, str]
"""Device and epoch."""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One device on one day: events stored and declared lost, and duplicates removed."""

    device: str
    day: str
    stored: int
    declared: int
    duplicates: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of a device: captured = stored + declared + unexplained.

    `captured` is the highest number heard of. What is declared and stored counts as stored. Events
    that are still in the device's outbox are unexplained until they arrive.
    """

    device: str
    epoch: str
    captured: int
    stored: int
    declared: int
    unexplained: int
    missing: list[Range]


class FleetStore(Protocol):
    """A database of events that several ingests may share."""

    def commit(self, arrivals: Sequence[Arrival]) -> dict[Stream, Ack]:
        """Write all of it, durably, and say what each stream that spoke may now forget.

        StoreBusy when the database cannot be written now: nothing was, try again.
        """

    def accounts(self) -> list[Account]:
        """Every epoch of every device."""

    def days(self) -> list[LedgerRow]:
        """What came on each day, by the events' own wall time."""

    def close(self) -> None:
        """Let go of the database."""


class StoreBusy(Exception):
    """The database is locked or out of reach; try again."""


class SqliteStore:
    """One SQLite file. A rollback journal, because several processes may write it."""

    def __init__(self, file: Path, *, busy_s: float = 5.0) -> None:
        """Open or create. OutboxError when the file cannot be used."""
        self._file = file
        try:
            self._db = sqlite3.connect(
                file, isolation_level=None, timeout=busy_s, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.Error as error:
            raise OutboxError(f"{file}: cannot be used as a fleet store: {error}") from error

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise OutboxError(
                f"{self._file}: written by a newer edgewright (schema {version}, this one knows"
                f" {SCHEMA_VERSION}); upgrade"
            )
        if version == 0:
            try:
                self._db.executescript(_SCHEMA)
            except sqlite3.OperationalError:
                # Another ingest may have made the tables in this moment.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                    raise

    def commit(self, arrivals: Sequence[Arrival]) -> dict[Stream, Ack]:
        """See FleetStore."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                acks = self._write(arrivals)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise StoreBusy(f"{self._file}: {error}") from error
        except sqlite3.Error as error:
            raise OutboxError(f"{self._file}: {error}") from error
        return acks

    def _write(self, arrivals: Sequence[Arrival]) -> dict[Stream, Ack]:
        streams: dict[Stream, list[Received]] = {}
        for arrival in arrivals:
            if isinstance(arrival, Received):
                streams.setdefault((arrival.device, arrival.epoch), []).append(arrival)
            elif isinstance(arrival, Heard):
                self._hear(arrival.device, arrival.epoch, arrival.last_seq)
            else:
                self._db.execute(
                    "INSERT INTO poison VALUES (?, ?, ?)",
                    (arrival.topic, arrival.reason, arrival.payload),
                )
        self._db.execute(
            "DELETE FROM poison WHERE rowid <= (SELECT max(rowid) FROM poison) - ?", (MAX_POISON,)
        )
        for stream, events in streams.items():
            self._store(stream, events)
        heard = {(a.device, a.epoch) for a in arrivals if isinstance(a, Heard)}
        return {stream: self._ack(stream) for stream in {*streams, *heard}}

    def _store(self, stream: Stream, events: Sequence[Received]) -> None:
        device, epoch = stream
        stored = self._ranges("stored", stream)
        before = set(stored)
        fresh: list[Received] = []
        duplicates: collections.Counter[str] = collections.Counter()
        for event in events:
            if event.seq in stored:
                duplicates[event.day] += 1
            else:
                stored.add(event.seq, event.seq)
                fresh.append(event)
        news = collections.Counter(event.day for event in fresh)
        for day in {*news, *duplicates}:
            self._tally(device, day, stored=news[day], duplicates=duplicates[day])
        if not fresh:
            return
        self._db.executemany(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(device, epoch, e.seq, e.kind, e.pipeline, e.day, e.payload) for e in fresh],
        )
        after = set(stored)
        self._db.executemany(
            "DELETE FROM stored WHERE device = ? AND epoch = ? AND low = ?",
            [(*stream, low) for low, _ in before - after],
        )
        self._db.executemany(
            "INSERT INTO stored VALUES (?, ?, ?, ?)", [(*stream, *span) for span in after - before]
        )
        for event in fresh:
            if event.gap is not None:
                self._declare(device, event.gap, event.day)
        self._hear(device, epoch, max(event.seq for event in fresh))

    def _declare(self, device: str, gap: GapData, day: str) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO declared VALUES (?, ?, ?, ?, ?, ?)",
            [(device, gap.epoch, low, high, gap.reason, day) for low, high in gap.ranges],
        )
        self._hear(device, gap.epoch, max((high for _, high in gap.ranges), default=0))

    def _hear(self, device: str, epoch: str, last_seq: int) -> None:
        self._db.execute(
            "INSERT INTO heard VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET last_seq = max(last_seq, excluded.last_seq)",
            (device, epoch, last_seq),
        )

    def _tally(self, device: str, day: str, *, stored: int, duplicates: int) -> None:
        self._db.execute(
            "INSERT INTO tally VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " stored = stored + excluded.stored, duplicates = duplicates + excluded.duplicates",
            (device, day, stored, duplicates),
        )

    def _ack(self, stream: Stream) -> Ack:
        """Everything up to `hi` is stored or declared; above it, the highest stored ranges."""
        known = self._ranges("stored", stream)
        above = list(known)
        for low, high in self._ranges("declared", stream):
            known.add(low, high)
        hi = known.hi()
        spans = [(low, high) for low, high in above if low > hi]
        return Ack(epoch=stream[1], hi=hi, ranges=spans[-_MAX_ACK_RANGES:])

    def _ranges(self, table: str, stream: Stream) -> Ranges:
        return Ranges(
            self._db.execute(
                f"SELECT low, high FROM {table} WHERE device = ? AND epoch = ? ORDER BY low", stream
            ).fetchall()
        )

    def accounts(self) -> list[Account]:
        """See FleetStore."""
        rows = self._db.execute(
            "SELECT device, epoch, last_seq FROM heard ORDER BY device, epoch"
        ).fetchall()
        return [self._account(device, epoch, last_seq) for device, epoch, last_seq in rows]

    def _account(self, device: str, epoch: str, captured: int) -> Account:
        stored = self._ranges("stored", (device, epoch))
        known = Ranges(stored)
        for low, high in self._ranges("declared", (device, epoch)):
            known.add(low, high)
        missing = known.missing(1, captured)
        return Account(
            device=device,
            epoch=epoch,
            captured=captured,
            stored=stored.count(),
            declared=known.count() - stored.count(),
            unexplained=missing.count(),
            missing=list(missing),
        )

    def days(self) -> list[LedgerRow]:
        """See FleetStore. A loss is filed under the day of the event that declares it."""
        declared: dict[tuple[str, str], int] = {}
        rows = self._db.execute(
            "SELECT device, epoch, low, high, day FROM declared ORDER BY day, low"
        ).fetchall()
        counted: dict[Stream, Ranges] = {}
        for device, epoch, low, high, day in rows:
            known = counted.setdefault((device, epoch), self._ranges("stored", (device, epoch)))
            news = known.missing(low, high)
            declared[device, day] = declared.get((device, day), 0) + news.count()
            known.add(low, high)
        tallies = {
            (device, day): (stored, duplicates)
            for device, day, stored, duplicates in self._db.execute("SELECT * FROM tally")
        }
        return [
            LedgerRow(
                device=device,
                day=day,
                stored=tallies.get((device, day), (0, 0))[0],
                declared=declared.get((device, day), 0),
                duplicates=tallies.get((device, day), (0, 0))[1],
            )
            for device, day in sorted({*declared, *tallies})
        ]

    def poisoned(self) -> int:
        """How many messages were set aside; the newest MAX_POISON of them are kept."""
        (count,) = self._db.execute("SELECT coalesce(max(rowid), 0) FROM poison").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def totals(accounts: Iterable[Account]) -> dict[str, int]:
    """The sums over all epochs of all devices."""
    sums = {"captured": 0, "stored": 0, "declared": 0, "unexplained": 0}
    for account in accounts:
        for name in sums:
            sums[name] += getattr(account, name)
    return sums
