"""What the board shows of itself: memory in use and temperature; and memory given back to it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_THERMAL = Path("/sys/class/thermal")


def memory_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes); 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def give_back_memory() -> None:
    """Let the C library hand back what building and proving engines took and left; glibc only."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass


def temperature_c(root: Path = _THERMAL) -> float | None:
    """The hottest thermal zone in degrees Celsius; None on a board without one."""
    readings = []
    for zone in root.glob("thermal_zone*/temp"):
        try:
            readings.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue
    return max(readings, default=None)
