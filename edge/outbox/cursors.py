"""What each sink has confirmed, leased and refused, and which rows are gone. Pure.

Invariant: what nobody has to confirm any more counts as confirmed by every sink.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.ranges import Range, Ranges


class Cursors:
    """Sets of seqs, one of each kind a sink. Used under the outbox's lock."""

    def __init__(self, confirmed: Mapping[str, Ranges], *, gone: Ranges) -> None:
        """`confirmed` by sink, as it was saved; `gone` are the seqs whose rows were deleted."""
        self.gone = gone
        self.confirmed = {sink: Ranges([*ranges, *gone]) for sink, ranges in confirmed.items()}
        self.dirty: set[str] = set()
        """The sinks whose cursor is not saved."""
        self._leased = {sink: Ranges() for sink in confirmed}
        self._refused = {sink: Ranges() for sink in confirmed}

    def confirm(self, sink: str, ranges: Iterable[Range], *, last_seq: int) -> int:
        """How many of these were news; beyond `last_seq` nothing can be confirmed."""
        confirmed = self.confirmed[sink]
        before = confirmed.count()
        for low, high in ranges:
            low, high = max(low, 1), min(high, last_seq)
            if low <= high:
                confirmed.add(low, high)
        news = confirmed.count() - before
        if news:
            self.dirty.add(sink)
        return news

    def lease(self, sink: str, seqs: Iterable[int]) -> None:
        """Until they are confirmed or refused, or all leases are released."""
        for seq in seqs:
            self._leased[sink].add(seq, seq)

    def release(self, sink: str) -> None:
        """Take back all leases of a sink."""
        self._leased[sink] = Ranges()

    def refuse(self, sink: str, seq: int) -> None:
        """This sink's receiver will not have it."""
        self._refused[sink].add(seq, seq)

    def refused(self, sink: str) -> int:
        """How many a sink's receiver refused."""
        return self._refused[sink].count()

    def passed(self, sink: str) -> list[Ranges]:
        """What is not for this sink to lease now."""
        return [self.confirmed[sink], self._leased[sink], self._refused[sink]]

    def by_all(self) -> Ranges:
        """What every sink has confirmed."""
        if not self.confirmed:
            return self.gone
        first, *others = self.confirmed.values()
        for other in others:
            first = first.common(other)
        return first

    def give_up(self, ranges: Ranges) -> None:
        """Nobody has to confirm these."""
        for sink, confirmed in self.confirmed.items():
            for low, high in ranges:
                confirmed.add(low, high)
                self.dirty.add(sink)
