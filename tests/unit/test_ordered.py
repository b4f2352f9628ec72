"""Several threads work, and the results come in the order of the items."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import wait_until

from edge.errors import EngineError
from edge.ordered import Ordered


def ordered(
    take: Callable[[str], int | None],
    work: Callable[[str, int], Any],
    *,
    lanes: str = "ab",
    ahead: int = 4,
    stop: threading.Event | None = None,
) -> Ordered[str, int, Any]:
    stopped = (stop or threading.Event()).is_set
    return Ordered([*lanes], take=take, work=work, ahead=ahead, name="test", stopped=stopped)


def numbers(count: int) -> Callable[[str], int | None]:
    left = iter(range(count))
    return lambda lane: next(left, None)


def fetched(from_them: Ordered[str, int, Any]) -> list[Any]:
    found = []
    while (result := from_them.fetch()) is not None:
        found.append(result)
    return found


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    chance, workers = random.Random(7), set()

    def work(lane: str, item: int) -> tuple[int]:
        workers.add((lane, threading.current_thread().name))
        time.sleep(chance.random() * 0.004)
        return (item,)

    lanes = ordered(numbers(100), work, lanes="abcd", ahead=8)
    assert fetched(lanes) == [(number,) for number in range(100)]
    assert {lane for lane, _ in workers} == {*"abcd"} and len(workers) == 4, "a thread for each"
    assert lanes.fetch() is None, "and the end stays the end"


def test_who_fetches_slowly_bounds_how_far_the_others_run_ahead() -> None:
    taken: list[int] = []

    def take(lane: str) -> int | None:
        taken.append(len(taken))
        return taken[-1] if len(taken) < 50 else None

    stop = threading.Event()
    lanes = ordered(take, lambda lane, item: item, ahead=3, stop=stop)
    wait_until(lambda: len(taken) == 3)
    time.sleep(0.05)
    assert len(taken) == 3
    assert [lanes.fetch(), lanes.fetch()] == [0, 1]
    wait_until(lambda: len(taken) == 5)
    time.sleep(0.05)
    assert len(taken) == 5
    stop.set()
    lanes.join(5)


def test_items_are_taken_by_one_lane_at_a_time() -> None:
    inside, left = threading.Lock(), iter(range(200))

    def take(lane: str) -> int | None:
        assert inside.acquire(blocking=False), "two lanes take at once"
        try:
            time.sleep(0.0001)
            return next(left, None)
        finally:
            inside.release()

    assert fetched(ordered(take, lambda lane, item: item, lanes="abcd")) == [*range(200)]


def test_what_failed_is_raised_when_it_is_its_turn() -> None:
    first = threading.Event()

    def work(lane: str, item: int) -> int:
        if item == 1:
            first.set()
            raise EngineError("out of memory")
        assert first.wait(10)
        return item

    lanes = ordered(numbers(2), work)
    assert lanes.fetch() == 0, "though the other one had failed before"
    with pytest.raises(EngineError, match="out of memory"):
        lanes.fetch()
    assert lanes.fetch() is None


def test_a_failure_to_take_is_raised_after_what_was_taken() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1)
        raise ValueError("nothing there")

    left = items()
    lanes = ordered(lambda lane: next(left, None), lambda lane, item: item)
    assert [lanes.fetch(), lanes.fetch()] == [0, 1]
    with pytest.raises(ValueError, match="nothing there"):
        lanes.fetch()


def test_at_the_stop_nobody_waits_any_longer_for_what_is_under_way() -> None:
    stop, go_on = threading.Event(), threading.Event()
    began = threading.Semaphore(0)

    def work(lane: str, item: int) -> int:
        began.release()
        go_on.wait(10)
        return item

    lanes = ordered(numbers(50), work, stop=stop)
    assert began.acquire(timeout=10) and began.acquire(timeout=10)
    threading.Timer(0.05, stop.set).start()
    assert lanes.fetch() is None
    lanes.join(0.05)
    assert any(thread.is_alive() for thread in lanes._threads), "they are left behind"
    go_on.set()
    lanes.join(10)
    assert not any(thread.is_alive() for thread in lanes._threads)
    assert lanes.fetch() is None, "and what they finished is not wanted any more"
