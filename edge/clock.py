"""The clocks of this machine, behind one object that tests replace."""

from __future__ import annotations

import ctypes
import functools
import time
import uuid
from pathlib import Path
from typing import Literal

from edge.types import Array, Frame
from edge.wire import ClockData, Time, wall_text

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@functools.cache
def boot_id() -> str:
    """The kernel's boot id; a random one for this process where there is no Linux /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def _clock_state() -> Literal["synced", "unsynced", "unknown"]:
    """What the kernel says of the wall clock, without asking to change it."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return "unknown"
    if state < 0:
        return "unknown"
    return "unsynced" if state == _TIME_ERROR else "synced"


def capture(data: Array, *, source: str, number: int) -> Frame:
    """A frame captured now."""
    return Frame(
        data=data,
        source=source,
        number=number,
        mono_ns=time.monotonic_ns(),
        wall_ns=time.time_ns(),
    )


class Clock:
    """Monotonic and wall time in nanoseconds, and the `Time` of a frame."""

    def __init__(self) -> None:
        self._state: Literal["synced", "unsynced", "unknown"] = "unknown"
        self._checked_ns: int | None = None

    def mono_ns(self) -> int:
        """Monotonic time since some fixed point in this boot."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Wall time since 1970, UTC."""
        return time.time_ns()

    def now(self) -> Time:
        """The wire's time of this moment."""
        return self.stamp(mono_ns=self.mono_ns(), wall_ns=self.wall_ns())

    def stamp(self, *, mono_ns: int, wall_ns: int) -> Time:
        """The wire's time of a moment; asks the kernel about synchronisation every 10 s."""
        if self._checked_ns is None or mono_ns - self._checked_ns > 10_000_000_000:
            self._state, self._checked_ns = _clock_state(), mono_ns
        return Time(wall=wall_text(wall_ns), mono_ns=mono_ns, boot=boot_id(), clock=self._state)


class ClockWatch:
    """Notices when the wall clock jumps against the monotonic one."""

    def __init__(self, clock: Clock, *, threshold_s: float = 2.0) -> None:
        self._clock = clock
        self._threshold_ns = round(threshold_s * 1e9)
        self._offset_ns = clock.wall_ns() - clock.mono_ns()

    def look(self) -> ClockData | None:
        """What to report when the clock has jumped since the last look; drift is followed."""
        mono_ns = self._clock.mono_ns()
        offset_ns = self._clock.wall_ns() - mono_ns
        jump_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        if abs(jump_ns) < self._threshold_ns:
            return None
        return ClockData(boot=boot_id(), mono_ns=mono_ns, offset_ms=round(jump_ns / 1e6))
