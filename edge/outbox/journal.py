"""The store of the outbox: one SQLite file, one connection, used under the outbox's lock.

WAL with synchronous=FULL: what `transaction` has committed survives a power cut. Every row carries
a CRC-32 of what it says, so that a flipped bit is found instead of believed.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge.errors import OutboxError
from edge.ranges import Range, Ranges
from edge.wire import StoredEvent

FILE = "outbox.db"
SCHEMA_VERSION = 2
NEVER_EVICT = 3
_WAL_PAGES = 200
_EPOCH_BYTES = 8
# What a healthy file can meet: these are no reason to set it aside.
_ENVIRONMENT = tuple(
    f"SQLITE_{name}"
    for name in ("READONLY", "CANTOPEN", "FULL", "BUSY", "LOCKED", "PERM", "IOERR", "NOMEM", "AUTH")
)
_GONE = ""
"""The name under which `confirmed` keeps the seqs whose rows were deleted."""
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL,
    priority INTEGER NOT NULL,
    ticks_s INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX event_priority ON event (priority);
CREATE TABLE confirmed (
    sink TEXT, low INTEGER, high INTEGER, crc INTEGER NOT NULL, PRIMARY KEY (sink, low)
) WITHOUT ROWID;
"""
_MIGRATIONS = {
    1: f"""
ALTER TABLE meta ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET crc = checksum(0, key, value);
ALTER TABLE event ADD COLUMN priority INTEGER NOT NULL DEFAULT 1;
ALTER TABLE event ADD COLUMN ticks_s INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
UPDATE event SET crc = checksum(seq, pipeline, payload);
CREATE INDEX event_priority ON event (priority);
ALTER TABLE confirmed ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
INSERT INTO confirmed (sink, low, high)
    SELECT '{_GONE}', before + 1, seq - 1 FROM (
        SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS before FROM (
            SELECT seq FROM event
            UNION ALL SELECT CAST(value AS INTEGER) + 1 FROM meta WHERE key = 'last_seq'
        )
    ) WHERE seq > before + 1;
UPDATE confirmed SET crc = checksum(low, sink, high);
""",
}
Row = tuple[int, str, int, int, int, bytes]
"""seq, pipeline, priority, ticks_s, crc, payload."""


class Damaged(Exception):
    """The file is not a store that can be trusted; it has to be set aside."""


class Journal:
    """Rows, cursors and counters of one outbox. sqlite3.Error where the disk refuses."""

    def __init__(self, folder: Path) -> None:
        """Open or create. Damaged when it must be set aside, OutboxError when it cannot be used."""
        self.file = folder / FILE
        self.created = not self.file.exists() or self.file.stat().st_size == 0
        try:
            self._db = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise OutboxError(f"{self.file}: cannot be opened: {error}") from error
        try:
            self._prepare()
            self._load()
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._db.close()
            if getattr(error, "sqlite_errorname", "").startswith(_ENVIRONMENT):
                raise OutboxError(f"{self.file}: cannot be used: {error}") from error
            raise Damaged(str(error)) from error
        except (Damaged, OutboxError):
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.create_function("checksum", 3, checksum, deterministic=True)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        # Some builds overwrite what is deleted, which a full disk has no room for.
        self._db.execute("PRAGMA secure_delete=OFF")
        version = int(self._one("PRAGMA user_version"))
        if version > SCHEMA_VERSION:
            raise OutboxError(
                f"{self.file}: written by a newer edgewright (schema {version}, this one knows"
                f" {SCHEMA_VERSION}); upgrade, or name another state_dir"
            )
        if version == 0:
            if not self.created:
                raise Damaged("it holds no outbox")
            self._script(
                f"{_SCHEMA} INSERT INTO meta VALUES"
                f" ('epoch', '{secrets.token_hex(_EPOCH_BYTES)}', 0), ('last_seq', '0', 0);"
                " UPDATE meta SET crc = checksum(0, key, value);"
            )
            return
        for known in range(version, SCHEMA_VERSION):
            self._script(_MIGRATIONS[known])
        verdict = self._one("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise Damaged(str(verdict))

    def _load(self) -> None:
        self.epoch = self.get("epoch")
        if len(self.epoch) != _EPOCH_BYTES * 2:
            raise Damaged("it has no epoch")
        self.last_seq = int(self.get("last_seq"))
        self.ticks_s = int(self.get("ticks_s", "0"))
        # A number that was never given is damage, and would stand in the way of the next event.
        self._db.execute("DELETE FROM event WHERE seq < 1 OR seq > ?", (self.last_seq,))
        self.bytes: int = self._one("SELECT coalesce(sum(length(payload)), 0) FROM event")

    def _script(self, statements: str) -> None:
        self._db.executescript(
            f"BEGIN; {statements} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; sqlite3.Error leaves the store as it was."""
        self._db.execute("BEGIN IMMEDIATE")
        before = self.bytes
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.bytes = before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def checkpoint(self) -> None:
        """Move the WAL into the store, and give its space back; a disk may refuse that, too."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # ---- counters

    def get(self, key: str, default: str | None = None) -> str:
        """A value of the meta table; the default where it is missing or not as it was put, or
        Damaged without one."""
        row = self._db.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
        if row is not None and checksum(0, key, row[0]) == row[1]:
            return str(row[0])
        if default is None:
            raise Damaged(f"it does not know its {key}")
        return default

    def put(self, key: str, value: object) -> None:
        """Set a value of the meta table."""
        self._db.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)",
            (key, str(value), checksum(0, key, str(value))),
        )

    # ---- events

    def insert(self, rows: Sequence[Row]) -> None:
        """Add rows of consecutive seqs."""
        # By name: in a migrated store the columns stand in another order.
        self._db.executemany(
            "INSERT INTO event (seq, pipeline, priority, ticks_s, crc, payload)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        self.bytes += sum(len(row[5]) for row in rows)

    def select(
        self, limit: int, *, above: int, upto: int, passed: Sequence[Ranges]
    ) -> tuple[list[StoredEvent], list[int]]:
        """The first `limit` events of above < seq <= upto that no set of `passed` holds, and the
        seqs of those whose payload is damaged."""
        events: list[StoredEvent] = []
        damaged: list[int] = []
        while len(events) < limit and above < upto:
            ends = [end for ranges in passed if (end := ranges.end_of(above + 1)) is not None]
            if ends:
                above = max(ends)
                continue
            rows = self._db.execute(
                "SELECT seq, pipeline, crc, payload FROM event"
                " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (above, upto, limit - len(events)),
            ).fetchall()
            if not rows:
                break
            for seq, pipeline, crc, payload in rows:
                above = seq
                if any(seq in ranges for ranges in passed):
                    break
                if checksum(seq, pipeline, payload) != crc:
                    damaged.append(seq)
                else:
                    events.append(StoredEvent(seq=seq, pipeline=pipeline, payload=payload))
        return events, damaged

    def delete(self, ranges: Iterable[Range]) -> None:
        """Delete the rows of these ranges."""
        for span in ranges:
            freed = self._one(
                "SELECT coalesce(sum(length(payload)), 0) FROM event WHERE seq BETWEEN ? AND ?",
                *span,
            )
            if freed:
                self._db.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", span)
                self.bytes -= freed

    def declarations(self) -> list[tuple[int, bytes | None]]:
        """Seq and payload of the rows that are never evicted; None for a damaged payload."""
        rows = self._db.execute(
            "SELECT seq, pipeline, crc, payload FROM event WHERE priority = ?", (NEVER_EVICT,)
        )
        return [
            (seq, payload if checksum(seq, pipeline, payload) == crc else None)
            for seq, pipeline, crc, payload in rows
        ]

    def present(self) -> Ranges:
        """The seqs of all rows."""
        return Ranges(
            self._db.execute(
                "SELECT min(seq), max(seq) FROM"
                " (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island"
                " FROM event NOT INDEXED)"
                " GROUP BY island ORDER BY 1"
            ).fetchall()
        )

    def older_than(self, ticks_s: int) -> Ranges:
        """The evictable events from before a moment of running time."""
        return Ranges(
            (seq, seq)
            for (seq,) in self._db.execute(
                "SELECT seq FROM event WHERE ticks_s < ? AND priority < ?", (ticks_s, NEVER_EVICT)
            )
        )

    def cheapest(self, excess_bytes: int) -> Ranges:
        """The events to evict first, lowest priority and oldest, for that many bytes."""
        victims = Ranges()
        rows = self._db.execute(
            "SELECT seq, length(payload) FROM event WHERE priority < ? ORDER BY priority, seq",
            (NEVER_EVICT,),
        )
        for seq, size in rows:
            if excess_bytes <= 0:
                break
            victims.add(seq, seq)
            excess_bytes -= size
        rows.close()
        return victims

    def count_outside(self, ranges: Ranges) -> int:
        """How many rows lie outside of these ranges."""
        count: int = self._one("SELECT count(*) FROM event")
        for span in ranges:
            count -= self._one("SELECT count(*) FROM event WHERE seq BETWEEN ? AND ?", *span)
        return count

    # ---- cursors

    def confirmed(self, sink: str = _GONE) -> Ranges:
        """The cursor of a sink as it was last saved; without a name, the seqs whose rows were
        deleted. What is damaged of it is left out: it will be sent again."""
        rows = self._db.execute(
            "SELECT low, high, crc FROM confirmed WHERE sink = ? ORDER BY low", (sink,)
        )
        return Ranges((low, high) for low, high, crc in rows if checksum(low, sink, high) == crc)

    def save_confirmed(self, ranges: Ranges, sink: str = _GONE) -> None:
        """Replace the cursor of a sink, or what is known to be deleted."""
        self._db.execute("DELETE FROM confirmed WHERE sink = ?", (sink,))
        self._db.executemany(
            "INSERT INTO confirmed VALUES (?, ?, ?, ?)",
            [(sink, low, high, checksum(low, sink, high)) for low, high in ranges],
        )

    def forget_sinks_but(self, sinks: Sequence[str]) -> None:
        """A sink that is no longer configured holds nothing back."""
        for (sink,) in self._db.execute("SELECT DISTINCT sink FROM confirmed").fetchall():
            if sink not in (_GONE, *sinks):
                self._db.execute("DELETE FROM confirmed WHERE sink = ?", (sink,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _one(self, statement: str, *values: object) -> Any:
        return self._db.execute(statement, values).fetchone()[0]


def checksum(number: object, text: object, data: object) -> int:
    """CRC-32 over a number, a text and a payload or another value, of whatever type a damaged row
    may have."""
    content = data if isinstance(data, bytes) else str(data).encode(errors="replace")
    return zlib.crc32(content, zlib.crc32(f"{number} {text}".encode(errors="replace")))


def set_aside(folder: Path) -> Path:
    """Rename a damaged store, with its WAL, out of the way; where it lies now."""
    number = 1
    while (kept := folder / f"{FILE}.damaged-{number}").exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{FILE}{suffix}").rename(f"{kept}{suffix}")
    return kept
