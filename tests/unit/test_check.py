from __future__ import annotations

from pathlib import Path
from typing import Any

from edge import config as configuration
from edge.check import Finding, try_everything

SAMPLES = "ax,ay,az,gx,gy,gz\n" + "0,0,9.8,0,0,0\n" * 120


def findings(folder: Path, **changes: Any) -> dict[str, Finding]:
    """What `edge check` finds, by what it tried."""
    (folder / "samples.csv").write_text(SAMPLES)
    pipeline = {
        "name": "wrist",
        "bundle": "builtin:wrist_activity",
        "source": {"type": "csv", "path": "samples.csv"},
        **changes.pop("pipeline", {}),
    }
    sink = changes.pop("sink", {"type": "jsonl", "path": "events.jsonl"})
    document = {"device": {"id": "d", **changes}, "pipeline": [pipeline], "sink": [sink]}
    config = configuration.parse(document, file=folder / "edge.toml", environ={})
    return {finding.what: finding for finding in try_everything(config, source_s=10)}


def test_when_all_is_well_everything_was_tried(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert list(found) == [
        "pipeline wrist: model",
        "pipeline wrist: source",
        "sink jsonl",
        "state_dir",
    ]
    assert {finding.exit_code for finding in found.values()} == {0}
    assert found["pipeline wrist: source"].detail == "gives float32 100x6"
    assert "golden cases right" in found["pipeline wrist: model"].detail


def test_each_thing_that_is_not_well_has_its_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "short.csv").write_text(SAMPLES[:100])
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    for changes, what, code, words in (
        ({"pipeline": {"bundle": "nothing"}}, "pipeline wrist", 3, "no such bundle"),
        ({"pipeline": {"variant": "gpu"}}, "pipeline wrist", 3, "no variant 'gpu'"),
        (
            {"pipeline": {"accelerator": "cuda", "policy": "require"}},
            "pipeline wrist",
            5,
            "has no CUDAExecutionProvider",
        ),
        (
            {"pipeline": {"source": {"type": "csv", "path": "nothing.csv"}}},
            "pipeline wrist: source",
            4,
            "nothing.csv: cannot be read",
        ),
        (
            {"pipeline": {"source": {"type": "csv", "path": "short.csv"}}},
            "pipeline wrist: source",
            4,
            "ended without a usable frame",
        ),
        (
            {"pipeline": {"source": {"type": "csv", "path": "other.csv"}}},
            "pipeline wrist: source",
            4,
            "no column ax, ay, az, gx, gy, gz; it has x, y",
        ),
        (
            {"pipeline": {"source": {"type": "camera", "url": "nothing.mp4"}}},
            "pipeline wrist: source",
            4,
            "cannot be opened",
        ),
        ({"sink": {"type": "jsonl", "path": "file/x"}}, "sink jsonl", 6, "cannot be opened"),
        ({"sink": {"type": "mqtt", "url": "mqtt://127.0.0.1:1"}}, "sink mqtt", 6, "refused"),
        ({"state_dir": "file/state"}, "state_dir", 7, "cannot be written"),
    ):
        found = findings(tmp_path, **changes)
        assert found[what].exit_code == code, found
        assert words in found[what].detail
        others = {finding.exit_code for name, finding in found.items() if name != what}
        assert others <= {0}, found


def test_the_sensors_beside_a_source_are_tried_too(tmp_path: Path) -> None:
    chip = tmp_path / "hwmon" / "hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("soc\n")
    (chip / "temp1_input").write_text("41300\n")
    sensor = {"type": "hwmon", "channels": ["temp1"], "rate_hz": 50.0, "root": "hwmon"}
    sensors = [
        {**sensor, "name": "board", "device": "soc"},
        {**sensor, "name": "away", "device": "gone"},
    ]
    found = findings(tmp_path, pipeline={"sensor": sensors})
    assert found["pipeline wrist: sensor board"] == Finding(
        what="pipeline wrist: sensor board", detail="says temp1 41.3"
    )
    away = found["pipeline wrist: sensor away"]
    assert away.exit_code == 4 and "there are hwmon0 (soc)" in away.detail
