"""What stands behind every live source: something that is opened, read, lost and opened again.

Invariant: whatever a device, a driver or a library does, `take` comes back in time. Opening and
reading happen in a thread of their own; one that is stuck in a native call is left behind, and no
more than `MAX_STUCK` of them at a time, so that a driver that never answers costs so many threads
and no more.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from edge.backoff import backoff_s
from edge.errors import EdgeError, FrameError
from edge.sources.addresses import scrubbed
from edge.wire import SourceState

Item = TypeVar("Item")
Given = TypeVar("Given", covariant=True)

MAX_STUCK = 2
_POLL_S = 0.2
_LOOK_S = 0.2
_STEADY_S = 10.0
_CLOSE_S = 0.5
_THREAD = "reading"

log = logging.getLogger(__name__)


def readers_left() -> bool:
    """Whether a reader is still in the middle of something, left behind or not yet back."""
    return any(thread.name == _THREAD and thread.is_alive() for thread in threading.enumerate())


class Lost(Exception):
    """The device or connection is gone, or cannot be had now; it will be tried again."""


class Reader(Protocol[Given]):
    """One device or connection, opened. Used, and closed, by one thread."""

    def read(self, timeout_s: float) -> Given | None:
        """What came next; None when nothing came in about `timeout_s`. A native call may take
        longer.

        Lost when it is gone; FrameError for something that cannot be used; any other EdgeError
        when it can never work as it is configured.
        """

    def close(self) -> None:
        """Let go of it."""


class Taken(NamedTuple, Generic[Item]):
    """One item, and when it came (nanoseconds). `follows` is False when something may be missing
    between it and the one taken before."""

    item: Item
    mono_ns: int
    wall_ns: int
    follows: bool


class Stream(Generic[Item]):
    """Keeps something open, and hands over what it gives.

    `open_reader` opens it, and may take long; Lost when that fails. `shown` is what it is called in
    states and logs. An attempt that takes longer than `open_s`, or a reader that gives nothing that
    can be used for `stale_s`, counts as lost; with 0 it runs as soon as it is open, and may be
    silent. Of what was not taken yet the newest `keep` are kept; `dropped` counts the others.
    """

    def __init__(
        self,
        open_reader: Callable[[], Reader[Item]],
        *,
        shown: str,
        stale_s: float = 5.0,
        open_s: float = 15.0,
        keep: int = 1,
        backoff_bounds_s: tuple[float, float] = (0.5, 15.0),
    ) -> None:
        self.state = SourceState(state="starting", detail=shown)
        self.received = 0
        """Items that the readers gave."""
        self.dropped = 0
        """Items that were not taken in time."""
        self.losses = 0
        """How often it was lost."""
        self._open_reader = open_reader
        self._shown = shown
        self._stale_s = stale_s
        self._open_s = open_s
        self._backoff_bounds_s = backoff_bounds_s
        self._keep = keep
        self._changed = threading.Condition()
        self._items: collections.deque[Taken[Item] | FrameError] = collections.deque()
        self._follows = True
        self._current: _Reading[Item] | None = None
        self._stuck: list[_Reading[Item]] = []
        self._failure: EdgeError | None = None
        self._failures = 0
        self._retry_at_s = 0.0
        self._looked_s = 0.0
        self._closed = False

    def take(self, timeout_s: float) -> Taken[Item] | None:
        """The oldest item that is kept; None when none came within `timeout_s`.

        FrameError for one that could not be used; the EdgeError that says that it can never work.
        """
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._closed:
                now_s = time.monotonic()
                if self._items:
                    first = self._items.popleft()
                    if isinstance(first, FrameError):
                        try:
                            raise first
                        finally:
                            del first  # it would hold this frame, and this frame it
                    return first
                if self._failure is not None:
                    raise self._failure
                self._look(now_s)
                if now_s >= until_s:
                    return None
                self._changed.wait(min(until_s - now_s, _LOOK_S))
        return None

    def close(self) -> None:
        """Let go, for good. A reader that is in the middle of something lets go when it is back."""
        with self._changed:
            self._closed = True
            reading, self._current = self._current, None
            self._items.clear()
            self._changed.notify_all()
        if reading is not None:
            reading.leave(_CLOSE_S)

    # ---- under the lock

    def _look(self, now_s: float) -> None:
        """Start a reading when it is time, and give up one that has been silent for too long."""
        reading = self._current
        if reading is None:
            self._stuck = [stuck for stuck in self._stuck if stuck.alive]
            if len(self._stuck) >= MAX_STUCK:
                stuck = f"{self._shown}: {MAX_STUCK} readers are stuck in the driver"
                self.state = SourceState(state="lost", detail=stuck, losses=self.losses)
            elif now_s >= self._retry_at_s:
                self._current = _Reading(self, now_s)
                self._current.start()
        elif self._looked_s and now_s - self._looked_s > 5 * _LOOK_S:
            reading.heard_s += now_s - self._looked_s  # we were away ourselves, not the device
        else:
            allowed_s = self._stale_s if reading.opened else self._open_s
            if allowed_s and now_s - reading.heard_s > allowed_s:
                what = (
                    "nothing that can be used came"
                    if reading.opened
                    else "cannot be opened: no answer"
                )
                self._lose(reading, f"{what} for {allowed_s:g} s", now_s)
                reading.leave(0.0)
                self._stuck.append(reading)
        self._looked_s = now_s

    def _lose(self, reading: _Reading[Item], reason: str, now_s: float) -> None:
        self._current = None
        if reading.opened and now_s - reading.opened_s > _STEADY_S:
            self._failures = 0
        self._retry_at_s = now_s + backoff_s(self._failures, self._backoff_bounds_s)
        self._failures += 1
        self._follows = False
        reason = scrubbed(reason)
        if self.state.state != "lost":
            self.losses += 1
            log.warning("%s: lost: %s", self._shown, reason)
        self.state = SourceState(
            state="lost", detail=f"{self._shown}: {reason}", losses=self.losses
        )

    # ---- told by the reading thread

    def _opened(self, reading: _Reading[Item]) -> None:
        with self._changed:
            reading.opened = True
            reading.opened_s = reading.heard_s = time.monotonic()
            if not self._stale_s and self._current is reading:  # it need not say anything
                self._runs()

    def _give(self, reading: _Reading[Item], item: Item | FrameError) -> None:
        mono_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        with self._changed:
            if self._current is not reading:
                return
            if not isinstance(item, FrameError):  # what cannot be used is no sign of life
                reading.heard_s = mono_ns / 1e9
                self._runs()
            self.received += 1
            if len(self._items) >= self._keep:
                self._items.popleft()
                self.dropped += 1
                self._items_follow_no_more()
            if isinstance(item, FrameError):
                self._items.append(item)
                self._follows = False
            else:
                self._items.append(Taken(item, mono_ns, wall_ns, self._follows))
                self._follows = True
            self._changed.notify_all()

    def _runs(self) -> None:
        if self.state.state == "lost":
            log.warning("%s: recovered", self._shown)
        if self.state.state != "running":
            self.state = SourceState(state="running", detail=self._shown, losses=self.losses)

    def _items_follow_no_more(self) -> None:
        """The oldest was dropped: what is the oldest now does not follow on what was taken."""
        if self._items:
            first = self._items[0]
            if isinstance(first, Taken):
                self._items[0] = first._replace(follows=False)
        else:
            self._follows = False

    def _ended(self, reading: _Reading[Item], reason: str | EdgeError) -> None:
        with self._changed:
            if self._current is not reading:
                return
            if isinstance(reason, EdgeError):
                self._current, self._failure = None, reason
            else:
                self._lose(reading, reason, time.monotonic())
            self._changed.notify_all()


class _Reading(Generic[Item]):
    """One attempt: opens, reads until it is lost or left, and closes, all in its own thread."""

    def __init__(self, stream: Stream[Item], now_s: float) -> None:
        self.opened = False
        self.opened_s = 0.0
        self.heard_s = now_s
        """When it last said something, or began."""
        self._stream = stream
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def leave(self, timeout_s: float) -> None:
        """Nobody listens any more; wait a little for it to let go of the device."""
        self._left.set()
        if timeout_s and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        stream = self._stream
        try:
            reader = stream._open_reader()
            try:
                stream._opened(self)
                while not self._left.is_set():
                    try:
                        item: Item | FrameError | None = reader.read(_POLL_S)
                    except FrameError as error:
                        item = FrameError(str(error))  # that one holds frames, and they the reader
                    if item is not None:
                        stream._give(self, item)
            finally:
                reader.close()
        except Lost as lost:
            stream._ended(self, str(lost))
        except EdgeError as error:
            stream._ended(self, error)
        except Exception as error:  # a library may raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]  # its text may hold a password
            log.debug("%s: %s in %s", stream._shown, type(error).__name__, where)
            stream._ended(self, f"{type(error).__name__}: {error}")
