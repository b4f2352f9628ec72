"""What the board measures of its power: counters of energy, or sensors of power read many times.

RAPL (powercap) and hwmon's energy*_input count microjoules; hwmon's power*_input, which the INA
sensors of ARM boards use, shows microwatts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge.errors import ConfigError

_SAMPLE_S = 0.02


class Meter(Protocol):
    """Measures what is used between `start` and `stop`. `source` says where it reads."""

    source: str

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """Joules since the start."""


def find(root: Path = Path("/sys")) -> Meter:
    """The board's meter; ConfigError where it has none that can be read.

    Of RAPL the packages count, and not their parts, which would be counted twice.
    """
    unreadable = []
    for places, make in (
        (_packages(root), lambda paths: _Counters(paths, "RAPL")),
        (sorted(root.glob("class/hwmon/hwmon*/energy*_input")), lambda paths: _Counters(paths)),
        (sorted(root.glob("class/hwmon/hwmon*/power*_input")), lambda paths: _Sensors(paths)),
    ):
        readable = [path for path in places if _number(path) is not None]
        unreadable += [str(path) for path in places if path not in readable]
        if readable:
            meter: Meter = make(readable)
            return meter
    if unreadable:
        raise ConfigError(
            f"--objective energy: {', '.join(unreadable)} cannot be read by this user; run it as"
            " root, or let the file be read"
        )
    raise ConfigError(
        "--objective energy: this board does not measure its power: there is no RAPL in"
        f" {root}/class/powercap, and no energy or power sensor in {root}/class/hwmon. Take another"
        " objective"
    )


class _Counters:
    """Counters that only grow, and begin anew at their limit."""

    def __init__(self, paths: list[Path], source: str = "hwmon") -> None:
        self.source = f"{source}: {', '.join(path.parent.name for path in paths)}"
        self._limits = {
            path: _number(path.with_name("max_energy_range_uj")) or 1 << 64 for path in paths
        }
        self._before: dict[Path, int] = {}

    def start(self) -> None:
        self._before = {path: _number(path) or 0 for path in self._limits}

    def stop(self) -> float:
        used = 0
        for path, limit in self._limits.items():
            used += ((_number(path) or 0) - self._before.get(path, 0)) % limit
        return used / 1e6


class _Sensors:
    """Power now, added up by a thread that looks many times a second."""

    def __init__(self, paths: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self.source = f"hwmon: {', '.join(path.parent.name for path in paths)}"
        self._paths, self._clock = paths, clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0

    def start(self) -> None:
        self._stop.clear()
        self._joules = 0.0
        self._thread = threading.Thread(target=self._add_up, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        return self._joules

    def _add_up(self) -> None:
        before_s, watts = self._clock(), self._watts()
        while True:
            ended = self._stop.wait(_SAMPLE_S)
            now_s, now = self._clock(), self._watts()
            self._joules += (now_s - before_s) * (watts + now) / 2
            before_s, watts = now_s, now
            if ended:
                return

    def _watts(self) -> float:
        return sum(_number(path) or 0 for path in self._paths) / 1e6


def _packages(root: Path) -> list[Path]:
    zones = root.glob("class/powercap/intel-rapl*:*/energy_uj")
    return sorted(path for path in zones if path.parent.name.count(":") == 1)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
