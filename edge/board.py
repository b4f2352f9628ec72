"""What the board shows of itself under /sys and /proc: memory, temperature, throttling, voltage;
and memory given back to it.

Whatever a board does not show is left out; nothing is asked of it by running a program.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from edge.wire import BoardTelemetry

ROOT_VARIABLE = "EDGE_SYSFS_ROOT"
"""The folder in which `sys` lies, where that is not /: in a container, or a test."""
_FIXED_ZONES = {"PMIC-Die"}
"""Zones of Jetson boards that always show 100 degrees."""
_PLAUSIBLE_C = (-60.0, 150.0)
_RASPBERRY_FLAGS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SLOWING = ("cpufreq", "devfreq", "Processor")
_SINCE_BOOT = 16
"""The same flags, so many bits higher, say whether it has been so since the boot."""


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


class Board:
    """Reads what one board shows, below `root`, by default $EDGE_SYSFS_ROOT or /."""

    def __init__(self, root: Path | None = None) -> None:
        root = root or Path(os.environ.get(ROOT_VARIABLE) or "/")
        self._class = root / "sys/class"
        self._devices = root / "sys/devices"

    def temperature_c(self) -> float | None:
        """The hottest thermal zone in degrees Celsius; None on a board without one."""
        return max(self.zones().values(), default=None)

    def zones(self) -> dict[str, float]:
        """Degrees Celsius of every thermal zone by its type; of several of a type the hottest."""
        zones: dict[str, float] = {}
        for folder in sorted(self._class.glob("thermal/thermal_zone*")):
            name = _text(folder / "type") or folder.name
            value = _number(folder / "temp")
            if value is None or name in _FIXED_ZONES:
                continue
            if _PLAUSIBLE_C[0] < value / 1000 < _PLAUSIBLE_C[1]:
                zones[name] = max(value / 1000, zones.get(name, -273.15))
        return zones

    def read(self) -> BoardTelemetry:
        """Everything at once."""
        flags = self._raspberry_flags()
        throttled = [name for bit, name in _RASPBERRY_FLAGS.items() if flags >> bit & 1]
        before = [
            name for bit, name in _RASPBERRY_FLAGS.items() if flags >> (bit + _SINCE_BOOT) & 1
        ]
        throttled += [f"cooling: {name}" for name in self._cooling()]
        if self._low_voltage() and _RASPBERRY_FLAGS[0] not in throttled:
            throttled.append(_RASPBERRY_FLAGS[0])
        now_mhz, limit_mhz, most_mhz = self._frequencies()
        return BoardTelemetry(
            zones_c=self.zones(),
            throttled=throttled,
            throttled_since_boot=before,
            throttle_count=self._throttle_count(),
            over_current_count=self._over_current_count(),
            cpu_mhz=now_mhz,
            cpu_limit_mhz=limit_mhz,
            cpu_max_mhz=most_mhz,
        )

    def _raspberry_flags(self) -> int:
        """The firmware's flags of a Raspberry Pi, hexadecimal; 0 elsewhere."""
        text = _text(self._devices / "platform/soc/soc:firmware/get_throttled")
        try:
            return int(text, 16)
        except ValueError:
            return 0

    def _low_voltage(self) -> bool:
        """The alarm of the hwmon driver rpi_volt."""
        return any(
            _number(folder / "in0_lcrit_alarm") == 1
            for folder in self._class.glob("hwmon/hwmon*")
            if _text(folder / "name") == "rpi_volt"
        )

    def _cooling(self) -> Iterator[str]:
        """Cooling devices that hold a processor back now; a fan that turns is none of them."""
        for folder in sorted(self._class.glob("thermal/cooling_device*")):
            kind = _text(folder / "type")
            slows = any(name in kind for name in _SLOWING)
            if slows and (_number(folder / "cur_state") or 0) > 0:
                yield kind

    def _frequencies(self) -> tuple[int | None, int | None, int | None]:
        """MHz of the fastest core: now, what it is held to, and what it could do."""
        cores = [*self._devices.glob("system/cpu/cpu[0-9]*/cpufreq")]
        found = []
        for name in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq"):
            values = [value for core in cores if (value := _number(core / name)) is not None]
            found.append(round(max(values) / 1000) if values else None)
        return found[0], found[1], found[2]

    def _throttle_count(self) -> int | None:
        """How often the cores were throttled by heat since the boot, where x86 counts it."""
        counts = [
            value
            for file in self._devices.glob("system/cpu/cpu*/thermal_throttle/core_throttle_count")
            if (value := _number(file)) is not None
        ]
        return sum(counts) if counts else None

    def _over_current_count(self) -> int | None:
        """How often a Jetson was throttled because its input current was too high, or its voltage
        too low."""
        counts = [
            value
            for file in self._class.glob("hwmon/hwmon*/oc*_event_cnt")
            if (value := _number(file)) is not None
        ]
        return sum(counts) if counts else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:
        return None
