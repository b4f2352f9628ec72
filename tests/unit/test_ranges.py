"""Ranges are a set of integers, whatever is done to them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ranges import Range, Ranges

SPAN = st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda s: (s[0], s[0] + s[1]))
SPANS = st.lists(SPAN, max_size=12)


def members(ranges: Ranges | list[Range]) -> set[int]:
    return {seq for low, high in ranges for seq in range(low, high + 1)}


@settings(deadline=None, max_examples=300)
@given(SPANS, SPANS, st.integers(1, 50), st.integers(0, 20))
def test_every_question_is_answered_as_a_set_would(
    one: list[Range], two: list[Range], low: int, length: int
) -> None:
    mine, theirs = Ranges(one), Ranges(two)
    model, other = members(one), members(two)
    assert members(mine) == model and mine.count() == len(model)
    assert members(mine.common(theirs)) == model & other
    assert members(mine.minus(theirs)) == model - other
    assert members(mine.missing(low, low + length)) == {*range(low, low + length + 1)} - model
    for seq in range(1, 55):
        assert (seq in mine) == (seq in model)
    assert members(mine.lowest(length)) == {*sorted(model)[:length]}
    hi = 0
    while hi + 1 in model:
        hi += 1
    assert mine.hi() == hi


@settings(deadline=None)
@given(SPANS, SPANS)
def test_ranges_are_sorted_and_never_touch_whoever_made_them(
    one: list[Range], two: list[Range]
) -> None:
    for ranges in (Ranges(one), Ranges(one).common(Ranges(two)), Ranges(one).minus(Ranges(two))):
        spans = list(ranges)
        assert all(low <= high for low, high in spans)
        assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(spans))
        assert Ranges(spans) == ranges and len(ranges) == len(spans)
        assert all(ranges.end_of(low) == high for low, high in spans)


@settings(deadline=None)
@given(SPANS)
def test_a_copy_is_a_copy(spans: list[Range]) -> None:
    ranges = Ranges(spans)
    copy = Ranges(ranges)
    copy.add(1000, 1000)
    assert 1000 not in ranges


def test_an_empty_range_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"5\.\.4"):
        Ranges().add(5, 4)
