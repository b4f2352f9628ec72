"""What one transaction of the outbox writes: numbered rows, and what is declared lost. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.outbox.journal import NEVER_EVICT, Row, checksum
from edge.ranges import Ranges
from edge.wire import Event, GapData, Time, encode, event_of

_GAP_RANGES = 1000


class Batch:
    """Rows numbered from the last seq on; the identity of an event is given here."""

    def __init__(self, *, device: str, epoch: str, last_seq: int, ticks_s: int, now: Time) -> None:
        self.rows: list[Row] = []
        self.declared = Ranges()
        self.declares = False
        """Whether a declaration is among the rows."""
        self.last_seq = last_seq
        self._device = device
        self._epoch = epoch
        self._ticks_s = ticks_s
        self._now = now

    def add(self, draft: Event, priority: int) -> None:
        """Give an event its identity, and encode it."""
        self.last_seq += 1
        event = msgspec.structs.replace(
            draft, device=self._device, epoch=self._epoch, seq=self.last_seq
        )
        payload = encode(event)
        crc = checksum(self.last_seq, event.pipeline, payload)
        self.rows.append((self.last_seq, event.pipeline, priority, self._ticks_s, crc, payload))

    def declare(self, gaps: Iterable[GapData]) -> None:
        """Declare losses; a declaration is never evicted."""
        for gap in gaps:
            self.declares = True
            self.add(event_of(gap, time=self._now), NEVER_EVICT)

    def declare_dropped(self, count: int) -> None:
        """Give numbers to events that never reached the disk, and declare them lost."""
        lost = Ranges([(self.last_seq + 1, self.last_seq + count)])
        self.last_seq += count
        self.declared = Ranges([*self.declared, *lost])
        self.declare(gaps_of(self._epoch, lost, "not written"))


def gaps_of(epoch: str, ranges: Ranges, reason: str) -> list[GapData]:
    """Declarations of a loss, none of them too large for a message."""
    spans = list(ranges)
    parts = [spans[start : start + _GAP_RANGES] for start in range(0, len(spans), _GAP_RANGES)]
    return [
        GapData(epoch=epoch, ranges=part, count=Ranges(part).count(), reason=reason)
        for part in parts
    ]


def owed_of(gaps: Iterable[GapData]) -> tuple[GapData, ...]:
    """The same losses in few words, for a file that has to stay small: more ranges of an epoch than
    one message holds become one around them all (what turns out to be stored counts as stored)."""
    losses: dict[tuple[str, str], Ranges] = {}
    for gap in gaps:
        known = losses.setdefault((gap.epoch, gap.reason), Ranges())
        for low, high in gap.ranges:
            known.add(low, high)
    owed: list[GapData] = []
    for (epoch, reason), ranges in losses.items():
        spans = list(ranges)
        if len(spans) > _GAP_RANGES:
            spans = [(spans[0][0], spans[-1][1])]
        owed += gaps_of(epoch, Ranges(spans), reason)
    return tuple(owed)
