"""What a board says of itself while it is tuned: energy, other work, heat, its hardware."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import ConfigError
from edge.hardware import Hardware, read
from edge.tuner import energy
from edge.tuner.conditions import Conditions

# ---- the board


def put(root: Path, **files: Any) -> Path:
    for name, value in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value))
    return root


def rapl(root: Path, *, package: int, core: int = 0) -> Path:
    zone = root / "class/powercap/intel-rapl:0"
    part = root / "class/powercap/intel-rapl:0:0"
    for folder, value in ((zone, package), (part, core)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(str(value))
        (folder / "max_energy_range_uj").write_text("10000000")
    return root


def test_energy_is_counted_by_packages_and_over_the_end_of_the_counter(tmp_path: Path) -> None:
    meter = energy.find(rapl(tmp_path, package=9_000_000, core=5))
    assert meter.source == "RAPL: intel-rapl:0"
    meter.start()
    rapl(tmp_path, package=1_500_000, core=900)
    assert meter.stop() == pytest.approx(2.5)


def test_a_sensor_of_power_is_added_up_over_time(tmp_path: Path) -> None:
    sensor = tmp_path / "class/hwmon/hwmon3/power1_input"
    sensor.parent.mkdir(parents=True)
    sensor.write_text("4000000")
    meter = energy.find(tmp_path)
    meter.start()
    threading.Event().wait(0.2)
    joules = meter.stop()
    assert 0.5 < joules < 20, "four watts over two tenths of a second, however late it was asked"


def test_a_board_without_a_meter_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not measure its power: there is no RAPL in"):
        energy.find(tmp_path)
    if os.geteuid():
        (rapl(tmp_path, package=1) / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
        with pytest.raises(ConfigError, match="cannot be read by this user"):
            energy.find(tmp_path)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Callable[..., Conditions]]:
    def conditions(**given: Any) -> Conditions:
        return Conditions(tmp_path, own_ticks=lambda: given["own"](), clock=lambda: given["now"]())

    yield conditions


def test_others_that_keep_the_machine_busy_are_noticed(
    tmp_path: Path, busy: Callable[..., Conditions]
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    moment = {"own": 0.0, "now": 0.0}
    put(tmp_path, proc__stat="cpu  100 0 100 1000 50 0 0 0 0 0\ncpu0 1 2 3")
    conditions = busy(own=lambda: moment["own"], now=lambda: moment["now"])
    moment |= {"now": 10.0, "own": 10.0 * ticks}
    put(tmp_path, proc__stat=f"cpu  {100 + 10 * ticks} 0 100 5000 50 0 0 0 0 0")
    assert conditions.notes() == [], "all of it was ours"
    put(tmp_path, proc__stat=f"cpu  {100 + 15 * ticks} 0 100 5000 50 0 0 {5 * ticks} 0 0")
    assert conditions.notes() == ["other processes kept 1.0 cores busy"]


def test_throttling_and_heat_are_said_where_they_show(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu0"
    put(tmp_path, **{f"{cpu}__thermal_throttle__core_throttle_count": 3})
    conditions = Conditions(tmp_path)
    assert conditions.notes() == []
    put(tmp_path, **{f"{cpu}__thermal_throttle__core_throttle_count": 5})
    put(tmp_path, **{f"{cpu}__cpufreq__scaling_max_freq": 1_000_000})
    put(tmp_path, **{f"{cpu}__cpufreq__cpuinfo_max_freq": 2_400_000})
    put(tmp_path, sys__class__thermal__thermal_zone0__temp=85_000)
    assert conditions.notes() == [
        "the processor was throttled 2 times",
        "the processor is held to 1000 of 2400 MHz",
        "the board is at 85 degrees Celsius",
    ]


def test_hardware_is_read_from_x86_and_from_arm_with_two_kinds_of_cores(tmp_path: Path) -> None:
    one = put(
        tmp_path / "x86", proc__cpuinfo="model name\t: Big 9\nflags\t: fpu avx2 avx512f foo\n" * 2
    )
    (one / "dev/dri").mkdir(parents=True)
    (one / "dev/dri/renderD128").touch()
    assert read(one, count=2, architecture="x86_64") == Hardware(
        architecture="x86_64", cpu="Big 9", cores=2, features=("avx2", "avx512f"),
        devices=("dri/renderD128",),
    )  # fmt: skip
    core = "CPU implementer\t: 0x41\nFeatures\t: fp asimd asimddp\nCPU part\t: {}\n\n"
    board = put(
        tmp_path / "arm", proc__cpuinfo=core.format("0xd05") + core.format("0xd0b"),
    )  # fmt: skip
    (board / "proc/device-tree").mkdir()
    (board / "proc/device-tree/model").write_text("Some Board 5\0")
    found = read(board, count=8, architecture="aarch64")
    assert found.cpu == "Some Board 5, 0x41:0xd05, 0x41:0xd0b"
    assert found.features == ("asimd", "asimddp")
    assert read(tmp_path / "none", count=1, architecture="x").cpu == "unknown"
