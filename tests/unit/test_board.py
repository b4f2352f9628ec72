from __future__ import annotations

from pathlib import Path

from edge import board


def test_the_hottest_zone_is_the_temperature(tmp_path: Path) -> None:
    assert board.temperature_c(tmp_path) is None
    for zone, text in enumerate(("41500\n", "52250\n", "no number\n")):
        (tmp_path / f"thermal_zone{zone}").mkdir()
        (tmp_path / f"thermal_zone{zone}/temp").write_text(text)
    (tmp_path / "thermal_zone9").mkdir()
    assert board.temperature_c(tmp_path) == 52.25


def test_this_process_uses_memory() -> None:
    assert 5 < board.memory_mb() < 100_000
