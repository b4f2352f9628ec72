"""What stands behind every live source: lost, stuck, recovered, closed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from broker import wait_until

from edge.errors import FrameError, SourceError
from edge.sources.stream import MAX_STUCK, Lost, Stream

QUICK = (0.01, 0.02)


class Script:
    """A device that does what it is told, line by line: a number is given, an exception raised,
    a function called; at the end it says nothing more."""

    opened = 0
    closed = 0

    def __init__(self, *connections: list[Any]) -> None:
        self._connections = iter(connections)

    def open(self) -> Script._Reader:
        self.opened += 1
        lines = next(self._connections, [])
        if lines and isinstance(lines[0], Exception):
            raise lines[0]
        return Script._Reader(self, iter(lines))

    class _Reader:
        def __init__(self, script: Script, lines: Iterator[Any]) -> None:
            self._script = script
            self._lines = lines
            self._end = threading.Event()

        def read(self, timeout_s: float) -> int | None:
            line = next(self._lines, None)
            if line is None:
                self._end.wait(timeout_s)
            if callable(line):
                line = line()
            if isinstance(line, Exception):
                raise line
            return line  # type: ignore[no-any-return]

        def close(self) -> None:
            self._script.closed += 1


@pytest.fixture
def streams() -> Iterator[Callable[..., Stream[int]]]:
    made: list[Stream[int]] = []

    def make(script: Script, **options: Any) -> Stream[int]:
        given = {"shown": "device", "keep": 100, "backoff_bounds_s": QUICK, **options}
        made.append(Stream(script.open, **given))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


def taken(stream: Stream[int], count: int) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    deadline = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} came; {stream.state}"
        one = stream.take(0.05)
        if one is not None:
            found.append((one.item, one.follows))
    return found


def test_what_is_given_is_taken_in_order(streams: Callable[..., Stream[int]]) -> None:
    stream = streams(Script([1, 2, 3]))
    assert stream.state.state == "starting"
    assert taken(stream, 3) == [(1, True), (2, True), (3, True)]
    assert stream.state.state == "running" and stream.received == 3


def test_a_lost_device_is_a_state_and_comes_back(streams: Callable[..., Stream[int]]) -> None:
    script = Script([1, Lost("unplugged")], [Lost("not there yet")], [2])
    stream = streams(script)
    assert taken(stream, 1) == [(1, True)]
    wait_until(lambda: stream.take(0) is None and stream.state.state == "lost", 10)
    assert stream.state.detail.startswith("device: ")
    assert taken(stream, 1) == [(2, False)], "something may be missing before it"
    assert stream.state.state == "running"
    assert (script.opened, script.closed, stream.losses) == (3, 1, 1)


def test_whatever_a_library_raises_is_a_loss(streams: Callable[..., Stream[int]]) -> None:
    stream = streams(Script([ZeroDivisionError("in a driver at rtsp://me:s3cret@cam/1")]))
    wait_until(lambda: stream.take(0) is None and stream.state.state == "lost", 10)
    assert "s3cret" not in stream.state.detail and "//***@cam/1" in stream.state.detail


def test_not_even_a_debug_log_shows_what_a_library_said_of_an_address(
    streams: Callable[..., Stream[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    stream = streams(Script([ValueError("no stream at 'http://cam/1?token=s3cret'")]))
    wait_until(lambda: stream.take(0) is None and stream.state.state == "lost", 10)
    assert stream.state.detail == "device: ValueError: no stream at 'http://cam/1?token=***'"
    assert "ValueError" in caplog.text and "s3cret" not in caplog.text


def test_what_can_never_work_is_raised_and_stays_so(streams: Callable[..., Stream[int]]) -> None:
    stream = streams(Script([SourceError("pyserial is not installed")]))
    for _ in range(2):
        with pytest.raises(SourceError, match="pyserial"):
            stream.take(10)


def test_an_item_that_cannot_be_used_is_told_and_the_next_does_not_follow(
    streams: Callable[..., Stream[int]],
) -> None:
    stream = streams(Script([1, FrameError("noise"), 2]))
    assert taken(stream, 1) == [(1, True)]
    with pytest.raises(FrameError, match="noise"):
        stream.take(10)
    assert taken(stream, 1) == [(2, False)]


def test_a_silent_device_is_given_up_and_opened_again(
    streams: Callable[..., Stream[int]],
) -> None:
    script = Script([1], [2])
    stream = streams(script, stale_s=0.3)
    assert taken(stream, 2) == [(1, True), (2, False)]
    assert stream.losses == 1
    wait_until(lambda: script.closed == 1, 10)


def test_a_device_that_may_be_silent_runs_as_soon_as_it_is_open(
    streams: Callable[..., Stream[int]],
) -> None:
    stream = streams(Script([Lost("not there")], []), stale_s=0.0)
    wait_until(lambda: stream.take(0) is None and stream.state.state == "lost", 10)
    wait_until(lambda: stream.take(0) is None and stream.state.state == "running", 10)


def test_a_device_that_gives_only_what_cannot_be_used_is_opened_again(
    streams: Callable[..., Stream[int]],
) -> None:
    def noise() -> FrameError:
        time.sleep(0.02)
        return FrameError("noise")

    script = Script([1, *[noise] * 1000], [2])
    stream = streams(script, stale_s=0.3)
    assert taken(stream, 1) == [(1, True)]
    seen: list[int] = []

    def look() -> bool:
        try:
            one = stream.take(0.05)
        except FrameError:
            return False
        seen.extend([one.item] if one is not None else [])
        return bool(seen)

    wait_until(look, 20)
    assert seen == [2] and stream.losses == 1


def test_stuck_readers_are_left_behind_and_never_many(
    streams: Callable[..., Stream[int]],
) -> None:
    release = threading.Event()

    def stuck() -> None:
        release.wait()

    script = Script([1, stuck], [stuck], [stuck], [stuck], [7])
    before = threading.active_count()
    stream = streams(script, stale_s=0.2)
    assert taken(stream, 1) == [(1, True)]
    wait_until(lambda: stream.take(0.05) is None and script.opened == MAX_STUCK, 10)
    for _ in range(20):
        assert stream.take(0.05) is None, "take comes back whatever the driver does"
    assert script.opened == MAX_STUCK
    assert threading.active_count() - before == MAX_STUCK
    assert "stuck" in stream.state.detail
    release.set()
    assert taken(stream, 1) == [(7, False)]
    assert script.closed >= MAX_STUCK
    wait_until(lambda: threading.active_count() - before == 1, 10)


def test_an_opening_that_hangs_is_given_up(streams: Callable[..., Stream[int]]) -> None:
    release = threading.Event()
    script = Script([5])
    first = [True]

    def open_slowly() -> Any:
        if first:
            first.clear()
            release.wait()
        return script.open()

    stream: Stream[int] = Stream(
        open_slowly, shown="device", open_s=0.2, backoff_bounds_s=QUICK, keep=9
    )
    assert taken(stream, 1) == [(5, False)]
    release.set()
    stream.close()


def test_only_the_newest_are_kept_and_drops_are_counted(
    streams: Callable[..., Stream[int]],
) -> None:
    stream = streams(Script([1, 2, 3, 4, 5]), keep=2)
    stream.take(0)
    wait_until(lambda: stream.received == 5, 10)
    assert taken(stream, 2) == [(4, False), (5, True)]
    assert stream.dropped == 3


def test_closing_wakes_whoever_waits_and_is_for_good(
    streams: Callable[..., Stream[int]],
) -> None:
    script = Script([])
    stream = streams(script)
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(stream.take(60)), daemon=True)
    waiting.start()
    wait_until(lambda: script.opened == 1, 10)
    stream.close()
    waiting.join(10)
    assert results == [None] and stream.take(0) is None
    assert script.closed == 1
    stream.close()


def test_a_reader_that_is_lost_goes_without_the_help_of_the_garbage_collector(
    streams: Callable[..., Stream[int]],
) -> None:
    """Until then it would keep a library's threads and memory."""
    readers: list[weakref.ref[Any]] = []

    class Once:
        turn = 0

        def __init__(self) -> None:
            readers.append(weakref.ref(self))

        def read(self, timeout_s: float) -> int:
            self.turn += 1
            if self.turn == 2:
                raise FrameError("noise")
            if self.turn == 3:
                raise Lost("again")
            return 1

        def close(self) -> None:
            pass

    stream: Stream[int] = Stream(Once, shown="device", backoff_bounds_s=QUICK, keep=9)
    gc.disable()
    try:
        for _ in range(3):
            assert taken(stream, 1)[0][0] == 1
            with pytest.raises(FrameError):
                stream.take(10)
        wait_until(lambda: stream.take(0) is None and len(readers) >= 4, 10)
        assert [reader() for reader in readers[:3]] == [None] * 3
    finally:
        gc.enable()
        stream.close()


def test_a_thousand_losses_leave_no_thread_behind(streams: Callable[..., Stream[int]]) -> None:
    script = Script(*([[1, Lost("again")]] * 1000))
    before = threading.active_count()
    stream = streams(script, backoff_bounds_s=(0.0, 0.0))
    assert len(taken(stream, 1000)) == 1000
    stream.close()
    wait_until(lambda: threading.active_count() == before, 10)
    assert script.opened - script.closed <= 1 and stream.losses >= 999
