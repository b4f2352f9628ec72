"""What a store that was opened is missing, and what has to be declared for it. Pure.

Three accounts are held against each other: the rows of the store, the mark that was written after
its last commit, and the reserve, which was synced before any number was given.
"""

from __future__ import annotations

import dataclasses
import logging

from edge.outbox.batch import gaps_of
from edge.outbox.reserve import BLOCK, Reserve
from edge.ranges import Ranges
from edge.wire import GapData

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one of the two says: an epoch, and the last seq of it that was given."""

    epoch: str
    last_seq: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """`gaps` to declare, the seqs `missing` from the store, and the `last_seq` to go on from."""

    gaps: list[GapData]
    missing: Ranges
    last_seq: int


def take_stock(
    store: Account,
    *,
    rows: Ranges,
    gone: Ranges,
    spoilt: bool,
    mark: Account,
    known: Reserve | None,
) -> Stock:
    """`rows` are the seqs that the store holds, `gone` those whose rows were deleted in order;
    `spoilt` says that a declaration among the rows cannot be read."""
    gaps: list[GapData] = []
    last_seq = store.last_seq
    if known is None and mark.epoch:
        known = Reserve(epoch=mark.epoch, reserved=mark.last_seq + BLOCK, confirmed=0)
    ours = known if known is not None and known.epoch == store.epoch else None
    if known is not None and ours is None:
        log.error("the outbox of epoch %s is lost; declaring what it may have held", known.epoch)
        first = min(known.confirmed + 1, known.reserved)
        # What it had declared itself, and nobody has confirmed, is lost with it.
        gaps += known.owed
        gaps += gaps_of(known.epoch, Ranges([(first, known.reserved)]), "store lost")
    missing = Ranges([(1, last_seq)] if last_seq else []).minus(gone).minus(rows)
    if len(missing):
        log.error("epoch %s: %d events are missing", store.epoch, missing.count())
        gaps += gaps_of(store.epoch, missing, "damaged on disk")
    if mark.epoch == store.epoch and mark.last_seq > last_seq:
        log.error("epoch %s: the store was set back to event %d", store.epoch, last_seq)
        # Numbers that were given already must not be given again.
        last_seq = max(mark.last_seq, ours.reserved if ours is not None else 0)
        lost = Ranges([(store.last_seq + 1, last_seq)])
        gaps += gaps_of(store.epoch, lost, "store set back")
        missing = Ranges([*missing, *lost])
    if ours is not None and (len(missing) or spoilt):
        gaps += ours.owed  # a declaration may be among what is missing
    return Stock(gaps=gaps, missing=missing, last_seq=last_seq)
