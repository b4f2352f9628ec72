"""A wall clock that jumps is told, and nothing that is committed changes by it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from builders import draft
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import clock as clocks
from edge.clock import Clock, ClockWatch, boot_id
from edge.config import OutboxConfig
from edge.outbox import HIGH, Outbox
from edge.wire import ClockData, Time, decode_event, event_of

SECOND = 1_000_000_000
YEAR = 365 * 86400 * SECOND


class SetClock(Clock):
    """Runs only when it is told to, and jumps when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.mono, self.wall = 10 * SECOND, 1_764_000_000 * SECOND

    def mono_ns(self) -> int:
        return self.mono

    def wall_ns(self) -> int:
        return self.wall

    def run(self, *, seconds: float, drift: float = 0.0, jump_s: float = 0.0) -> None:
        self.mono += round(seconds * SECOND)
        self.wall += round((seconds * (1 + drift) + jump_s) * SECOND)


def test_a_clock_that_runs_or_drifts_says_nothing() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    for _ in range(1000):
        clock.run(seconds=1, drift=1e-4)
        assert watch.look() is None


@settings(deadline=None)
@given(st.floats(min_value=2.1, max_value=1e9), st.booleans())
def test_a_jump_is_told_once_with_its_size(jump_s: float, back: bool) -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    clock.run(seconds=1, jump_s=-jump_s if back else jump_s)
    told = watch.look()
    assert told is not None and told.boot == boot_id() and told.mono_ns == clock.mono
    assert abs(told.offset_ms - (-jump_s if back else jump_s) * 1000) < 2
    clock.run(seconds=1)
    assert watch.look() is None


def test_a_reader_can_correct_what_the_old_clock_stamped() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    stamped, true = clock.wall, clock.wall + 50 * YEAR
    clock.run(seconds=3, jump_s=50 * YEAR / SECOND)
    told = watch.look()
    assert told is not None
    assert abs(stamped + told.offset_ms * 1_000_000 - true) < SECOND


def test_years_of_wall_time_change_no_byte_and_evict_nothing(tmp_path: Path) -> None:
    clock = SetClock()
    config = OutboxConfig(commit_ms=0, max_age_h=1.0)

    def open_it() -> Any:
        return Outbox(tmp_path, ["mqtt"], device="gate-07", clock=clock, config=config)

    outbox = open_it()
    outbox.append(draft("before"), timeout_s=5)
    outbox.flush(5)
    (before,) = outbox.lease("mqtt", 10, timeout_s=1)
    watch = ClockWatch(clock)
    for jump in (30 * YEAR, -60 * YEAR):
        clock.run(seconds=5, jump_s=jump / SECOND)
        told = watch.look()
        assert isinstance(told, ClockData)
        outbox.append(event_of(told, time=clock.now()), timeout_s=5, priority=HIGH)
        outbox.flush(5)
        outbox.close()
        outbox = open_it()
    events = outbox.lease("mqtt", 10, timeout_s=1)
    assert events[0] == before, "the bytes are as they were"
    assert [decode_event(event.payload).kind for event in events] == [
        "classification", "clock", "clock"
    ]  # fmt: skip
    outbox.close()


def test_age_is_running_time(tmp_path: Path) -> None:
    """Two hours of running age an event, whatever the wall says."""
    config = OutboxConfig(commit_ms=0, max_age_h=1.0)
    outbox = Outbox(tmp_path, ["mqtt"], device="gate-07", config=config)
    outbox.append(draft("old"), timeout_s=5)
    outbox.flush(5)
    outbox._ticks_base_s += 7200
    outbox.append(draft("new"), timeout_s=5)
    outbox.flush(5)
    events = [decode_event(e.payload) for e in outbox.lease("mqtt", 10, timeout_s=1)]
    assert [event.kind for event in events] == ["classification", "gap"]
    assert events[1].payload.ranges == [(1, 1)]  # type: ignore[union-attr]
    assert events[1].payload.reason == "too old"  # type: ignore[union-attr]
    outbox.close()


def test_a_moment_says_in_which_boot_it_was_and_whether_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["unsynced", "synced"])
    monkeypatch.setattr(clocks, "_clock_state", lambda: next(answers))
    monkeypatch.setattr(clocks, "boot_id", lambda: "b00t")
    second = 1_000_000_000
    ours = Clock()
    moments = [ours.stamp(mono_ns=at * second, wall_ns=at * second) for at in (0, 5, 10, 11)]
    assert moments[0] == Time(
        wall="1970-01-01T00:00:00.000Z", mono_ns=0, boot="b00t", clock="unsynced"
    )
    assert [moment.clock for moment in moments] == ["unsynced"] * 3 + ["synced"]


def test_the_clocks_of_this_machine() -> None:
    ours = Clock()
    assert ours.mono_ns() <= ours.mono_ns()
    assert abs(ours.wall_ns() - time.time_ns()) < 10**9
    assert clocks._clock_state() in ("synced", "unsynced", "unknown")
    assert clocks.boot_id() == clocks.boot_id() != ""
    assert ours.now().boot == clocks.boot_id()
