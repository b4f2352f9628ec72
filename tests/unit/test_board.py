from __future__ import annotations

from pathlib import Path

import pytest

from edge import board
from edge.board import Board
from edge.wire import BoardTelemetry


def write(root: Path, **files: str) -> None:
    """Files of a sysfs tree; `__` stands for / in a name."""
    for name, text in files.items():
        file = root / "sys" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def zone(root: Path, number: int, kind: str, temp: str) -> None:
    folder = f"class__thermal__thermal_zone{number}"
    write(root, **{f"{folder}__temp": temp, f"{folder}__type": kind})


def test_a_board_that_shows_nothing_says_nothing(tmp_path: Path) -> None:
    assert Board(tmp_path).temperature_c() is None
    assert Board(tmp_path).read() == BoardTelemetry()


def test_the_hottest_zone_is_the_temperature(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "41500")
    zone(tmp_path, 1, "gpu-thermal", "52250")
    zone(tmp_path, 2, "cpu-thermal", "43000")
    zone(tmp_path, 3, "broken", "no number")
    (tmp_path / "sys/class/thermal/thermal_zone9").mkdir()
    assert Board(tmp_path).zones() == {"cpu-thermal": 43.0, "gpu-thermal": 52.25}
    assert Board(tmp_path).temperature_c() == 52.25


def test_zones_that_cannot_be_true_do_not_count(tmp_path: Path) -> None:
    zone(tmp_path, 0, "CPU-therm", "48000")
    zone(tmp_path, 1, "PMIC-Die", "100000")  # a Jetson's, whatever its true temperature
    zone(tmp_path, 2, "gpu-thermal", "-256000")  # switched off
    assert Board(tmp_path).zones() == {"CPU-therm": 48.0}


def test_the_flags_of_a_raspberry_pi_are_words(tmp_path: Path) -> None:
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    read = Board(tmp_path).read()
    assert read.throttled == ["under-voltage", "throttled"]
    assert read.throttled_since_boot == ["under-voltage", "throttled"]
    (firmware / "get_throttled").write_text("80000\n")
    read = Board(tmp_path).read()
    assert (read.throttled, read.throttled_since_boot) == ([], ["soft temperature limit"])


def test_the_alarm_of_a_raspberry_pi_s_voltage_is_under_voltage(tmp_path: Path) -> None:
    write(tmp_path, class__hwmon__hwmon0__name="nvme", class__hwmon__hwmon0__in0_lcrit_alarm="1")
    assert Board(tmp_path).read().throttled == []
    write(tmp_path, class__hwmon__hwmon1__name="rpi_volt")
    write(tmp_path, class__hwmon__hwmon1__in0_lcrit_alarm="1")
    assert Board(tmp_path).read().throttled == ["under-voltage"]


def test_a_processor_that_the_kernel_holds_back_is_throttled(tmp_path: Path) -> None:
    devices = (("pwm-fan", 3), ("cpufreq-cpu0", 0), ("cpufreq-cpu4", 2), ("TCC Offset", 5))
    for number, (kind, state) in enumerate(devices):
        folder = f"class__thermal__cooling_device{number}"
        write(tmp_path, **{f"{folder}__type": kind, f"{folder}__cur_state": str(state)})
    for core, (now, limit) in enumerate(((600, 1800), (1500, 1500))):
        folder = f"devices__system__cpu__cpu{core}"
        write(
            tmp_path,
            **{
                f"{folder}__cpufreq__scaling_cur_freq": str(now * 1000),
                f"{folder}__cpufreq__scaling_max_freq": str(limit * 1000),
                f"{folder}__cpufreq__cpuinfo_max_freq": "1800000",
                f"{folder}__thermal_throttle__core_throttle_count": str(core + 2),
            },
        )
    write(
        tmp_path, class__hwmon__hwmon3__oc1_event_cnt="4", class__hwmon__hwmon3__oc2_event_cnt="1"
    )
    read = Board(tmp_path).read()
    assert read.throttled == ["cooling: cpufreq-cpu4"]
    assert (read.cpu_mhz, read.cpu_limit_mhz, read.cpu_max_mhz) == (1500, 1800, 1800)
    assert (read.throttle_count, read.over_current_count) == (5, 5)


def test_the_tree_of_another_root_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, 0, "cpu-thermal", "61000")
    monkeypatch.setenv(board.ROOT_VARIABLE, str(tmp_path))
    assert Board().temperature_c() == 61.0


def test_this_process_uses_memory() -> None:
    assert 5 < board.memory_mb() < 100_000
