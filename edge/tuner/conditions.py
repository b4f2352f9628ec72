"""What else the machine did while it was measured: other processes, throttling, heat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from edge.board import Board

BUSY_CORES = 0.25
"""Of one core, that others may use before it is said."""
_SLOWED = 0.8
_HOT_C = 80.0


def _own_ticks() -> float:
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * os.sysconf(
        "SC_CLK_TCK"
    )


class Conditions:
    """From its making on. `root` holds /proc and /sys, `own_ticks` is the processor time of this
    process and of those that it started."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        own_ticks: Callable[[], float] = _own_ticks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._own_ticks, self._clock = root, own_ticks, clock
        self._busy, self._began_s, self._own = self._busy_ticks(), clock(), own_ticks()
        self._board = Board(root)
        self._throttled = self._board.read().throttle_count or 0

    def notes(self) -> list[str]:
        """What was not as it should be, so far; empty when all was quiet or nothing can be seen."""
        notes = []
        others = self.others()
        if others > BUSY_CORES:
            notes.append(f"other processes kept {others:.1f} cores busy")
        board = self._board.read()
        count = (board.throttle_count or 0) - self._throttled
        if count > 0:
            notes.append(f"the processor was throttled {count} times")
        limit, most = board.cpu_limit_mhz, board.cpu_max_mhz
        if limit and most and limit < _SLOWED * most:
            notes.append(f"the processor is held to {limit} of {most} MHz")
        hottest = self._board.temperature_c()
        if hottest is not None and hottest >= _HOT_C:
            notes.append(f"the board is at {hottest:.0f} degrees Celsius")
        return notes

    def others(self) -> float:
        """Cores that were busy with something else, what the hypervisor took included."""
        elapsed = (self._clock() - self._began_s) * os.sysconf("SC_CLK_TCK")
        if elapsed <= 0 or self._busy is None:
            return 0.0
        busy = (self._busy_ticks() or self._busy) - self._busy
        return max(0.0, (busy - (self._own_ticks() - self._own)) / elapsed)

    def _busy_ticks(self) -> float | None:
        """User, nice, system, irq, softirq and steal of all cores; guest is within user."""
        try:
            line = (self._root / "proc/stat").read_text(encoding="ascii").partition("\n")[0]
            values = [int(word) for word in line.split()[1:9]]
        except (OSError, ValueError):
            return None
        return float(sum(values) - sum(values[3:5])) if len(values) == 8 else None
