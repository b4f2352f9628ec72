"""Sets of sequence numbers as sorted, disjoint, inclusive ranges. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class Ranges:
    """A set of seqs; ranges that touch are one."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for low, high in ranges:
            self.add(low, high)

    def add(self, low: int, high: int) -> None:
        """Add low..high, both included."""
        if low > high:
            raise ValueError(f"an empty range: {low}..{high}")
        first = bisect.bisect_left(self._ranges, low - 1, key=lambda span: span[1])
        last = bisect.bisect_right(self._ranges, high + 1, key=lambda span: span[0])
        if first < last:
            low = min(low, self._ranges[first][0])
            high = max(high, self._ranges[last - 1][1])
        self._ranges[first:last] = [(low, high)]

    def end_of(self, seq: int) -> int | None:
        """The end of the range that holds `seq`; None when no range does."""
        place = bisect.bisect_left(self._ranges, seq, key=lambda span: span[1])
        if place < len(self._ranges) and self._ranges[place][0] <= seq:
            return self._ranges[place][1]
        return None

    def hi(self) -> int:
        """The seq up to which everything from 1 on is held; 0 when 1 is not."""
        return self.end_of(1) or 0

    def count(self) -> int:
        """How many seqs are held."""
        return sum(high - low + 1 for low, high in self._ranges)

    def common(self, other: Ranges) -> Ranges:
        """What both hold."""
        shared = Ranges()
        mine, theirs = iter(self), iter(other)
        one, two = next(mine, None), next(theirs, None)
        while one is not None and two is not None:
            low, high = max(one[0], two[0]), min(one[1], two[1])
            if low <= high:
                shared._ranges.append((low, high))
            if one[1] <= two[1]:
                one = next(mine, None)
            else:
                two = next(theirs, None)
        return shared

    def minus(self, other: Ranges) -> Ranges:
        """What this holds and the other does not."""
        left = Ranges()
        theirs = iter(other)
        span = next(theirs, None)
        for low, high in self:
            while span is not None and span[0] <= high:
                if span[1] >= low:
                    if low < span[0]:
                        left._ranges.append((low, span[0] - 1))
                    low = span[1] + 1
                if span[1] > high:
                    break
                span = next(theirs, None)
            if low <= high:
                left._ranges.append((low, high))
        return left

    def lowest(self, count: int) -> Ranges:
        """The lowest `count` seqs of these."""
        first = Ranges()
        for low, high in self:
            if count <= 0:
                break
            first._ranges.append((low, min(high, low + count - 1)))
            count -= high - low + 1
        return first

    def missing(self, low: int, high: int) -> Ranges:
        """What of low..high is not held."""
        gaps = Ranges()
        for start, end in self._ranges:
            if end < low:
                continue
            if start > high:
                break
            if low < start:
                gaps.add(low, start - 1)
            low = end + 1
        if low <= high:
            gaps.add(low, high)
        return gaps

    def __contains__(self, seq: int) -> bool:
        return self.end_of(seq) is not None

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and other._ranges == self._ranges

    def __repr__(self) -> str:
        return f"Ranges({self._ranges})"
