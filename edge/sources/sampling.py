"""What live sources of samples share: a stream of samples, made into windows; and regular polling.

The newest window is worth most, but none can be made of samples that are missing: those that were
not taken yet are kept, up to a bound, and what does not fit is counted as dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from edge.errors import ConfigError, FrameError
from edge.sources.records import Sample
from edge.sources.stream import Reader, Stream, Taken
from edge.sources.windows import Plan, Windows
from edge.types import Array, Frame
from edge.wire import SourceState

_KEEP = 4096
_ALIKE_S = 1e-6  # two that arrive together did not happen together

Item = TypeVar("Item")


class LiveSource(Generic[Item]):
    """Windows of the items that a stream gives. An adapter says how it is opened, and what an item
    adds to the windows. `channels` are the names of a window's columns."""

    live = True

    def __init__(self, plan: Plan, *, name: str, shown: str, stale_s: float) -> None:
        self.channels = plan.channels
        self._name = name
        self._shown = shown
        self._windows = Windows(plan)
        self._last: Taken[Item] | None = None
        self._stream: Stream[Item] = Stream(self._open, shown=shown, stale_s=stale_s, keep=_KEEP)

    def _open(self) -> Reader[Item]:
        """Open the device. Lost when that fails."""
        raise NotImplementedError

    def _add(self, taken: Taken[Item]) -> None:
        """Put an item into the windows."""
        raise NotImplementedError

    @property
    def state(self) -> SourceState:
        """Starting, running, or lost, and why."""
        return self._stream.state

    @property
    def counts(self) -> dict[str, int]:
        """Samples, and what became of them; how often the device was lost."""
        return {
            **self._windows.counts,
            "dropped": self._stream.dropped,
            "lost": self._stream.losses,
        }

    def read(self, timeout_s: float) -> Frame | None:
        """The next window: float32 [T, C], captured when its last sample came."""
        until_s = time.monotonic() + timeout_s
        while (made := self._windows.take()) is None:
            wait_s = until_s - time.monotonic()
            try:
                taken = self._stream.take(max(0.0, wait_s))
                if taken is None:
                    return None
                if not taken.follows:
                    self._windows.restart()
            except FrameError as error:
                self._windows.bad()
                raise FrameError(f"{self._shown}: {error}") from error
            self._last = taken
            try:
                self._add(taken)
            except FrameError as error:
                raise FrameError(f"{self._shown}: {error}") from error
            if wait_s <= 0:
                return None
        assert self._last is not None
        return Frame(
            data=made[1],
            source=self._name,
            number=made[0],
            mono_ns=self._last.mono_ns,
            wall_ns=self._last.wall_ns,
        )

    def close(self) -> None:
        """Let go of the device, for good."""
        self._stream.close()


class SampleSource(LiveSource[Sample]):
    """Windows of single samples. One that does not say when it was taken counts as taken when it
    came, where that matters."""

    def __init__(self, plan: Plan, *, name: str, shown: str, stale_s: float) -> None:
        super().__init__(plan, name=name, shown=shown, stale_s=stale_s)
        self._by_arrival = plan.on_grid or plan.max_gap_s > 0
        self._came_s = 0.0

    def _add(self, taken: Taken[Sample]) -> None:
        values, time_s, follows = taken.item
        if not follows:
            self._windows.restart()
        if time_s is None and self._by_arrival:
            time_s = self._came_s = max(taken.mono_ns / 1e9, self._came_s + _ALIKE_S)
        self._windows.add(values, time_s)


class Poll:
    """Asks a device for a sample `rate_hz` times a second; turns that were missed are left out."""

    def __init__(
        self, ask: Callable[[], Array], *, rate_hz: float, close: Callable[[], None] | None = None
    ) -> None:
        self._ask = ask
        self._close = close
        self._period_s = 1 / rate_hz
        self._due_s = time.monotonic()

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample when it is due; its time is half way between question and answer."""
        wait_s = self._due_s - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, wait_s))
        asked_s = time.monotonic()
        self._due_s = max(self._due_s + self._period_s, asked_s)
        values = self._ask()
        return Sample(values, (asked_s + time.monotonic()) / 2)

    def close(self) -> None:
        """Let go of the device."""
        if self._close is not None:
            self._close()


def needs(what: str, package: str, extra: str, error: Exception) -> ConfigError:
    """The error that says how the library of an adapter is installed."""
    problem = ConfigError(f"source {what} needs {package}; pip install 'edgewright[{extra}]'")
    problem.__cause__ = error
    return problem
