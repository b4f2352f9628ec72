from __future__ import annotations

import time

import pytest

from edge import clock
from edge.clock import Clock
from edge.wire import Time


def test_a_moment_says_in_which_boot_it_was_and_whether_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["unsynced", "synced"])
    monkeypatch.setattr(clock, "_clock_state", lambda: next(answers))
    monkeypatch.setattr(clock, "boot_id", lambda: "b00t")
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
    assert clock._clock_state() in ("synced", "unsynced", "unknown")
    assert clock.boot_id() == clock.boot_id() != ""
    assert ours.now().boot == clock.boot_id()
