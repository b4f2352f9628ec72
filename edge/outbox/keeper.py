"""What the reserve beside the store says of it, kept true: for when the store is lost.

Invariant: a number is given only when the reserve, on disk, covers it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge.outbox import reserve
from edge.outbox.batch import owed_of
from edge.outbox.cursors import Cursors
from edge.outbox.journal import Journal
from edge.outbox.reserve import Reserve
from edge.wire import GapData, decode_event

log = logging.getLogger(__name__)


class ReserveKeeper:
    """Writes the reserve of one store. Used under the outbox's lock."""

    def __init__(
        self, folder: Path, journal: Journal, cursors: Cursors, *, known: Reserve | None
    ) -> None:
        """`known` is the reserve that was found, of this store or of one before it."""
        self._folder = folder
        self._journal = journal
        self._cursors = cursors
        self._epoch = journal.epoch
        self._bound = known.reserved if known and known.epoch == self._epoch else 0

    def cover(self, seq: int) -> None:
        """Make sure, durably, that numbers up to `seq` may be given. OSError when that fails."""
        if seq < self._bound:
            return
        self._write(seq + reserve.BLOCK)

    def remember_declarations(self) -> None:
        """Beside the store too; a disk that will not have it costs only that second place."""
        try:
            self._write(self._bound)
        except OSError as error:
            log.warning("%s: the reserve cannot be written: %s", self._folder, error)

    def owed(self) -> tuple[GapData, ...]:
        """What was declared in this store and not confirmed by all, as the reserve knows it: for
        when a declaration may be among what is damaged."""
        known = reserve.read(self._folder)
        return known.owed if known is not None and known.epoch == self._epoch else ()

    def _write(self, bound: int) -> None:
        confirmed = self._cursors.by_all()
        owed: list[GapData] = []
        for seq, payload in self._journal.declarations():
            if seq in confirmed:
                continue
            declared = decode_event(payload).payload if payload is not None else None
            owed += [declared] if isinstance(declared, GapData) else self.owed()
        written = Reserve(
            epoch=self._epoch, reserved=bound, confirmed=confirmed.hi(), owed=owed_of(owed)
        )
        reserve.write(self._folder, written)
        self._bound = bound
