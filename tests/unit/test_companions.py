"""Sensors beside a pipeline's own source: what its events carry of them, and that they never end
it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from builders import draft, wait_until

from edge import config as configuration
from edge import config_schema, seams
from edge.config import SensorConfig
from edge.errors import ConfigError, FrameError, SourceError
from edge.pipeline import Pipeline
from edge.seams import EndOfStream
from edge.wire import Event, decode_event, encode, event_schema

BUNDLE = "builtin:wrist_activity"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A chip of 41.3 °C, as hwmon shows it."""
    chip = tmp_path / "hwmon" / "hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("soc\n")
    (chip / "temp1_input").write_text("41300\n")
    return tmp_path / "hwmon"


def thermometer(board: Path, **changes: Any) -> dict[str, Any]:
    table = {
        "name": "board", "type": "hwmon", "device": "soc", "channels": ["temp1"], "rate_hz": 100.0,
        "root": str(board), **changes,
    }  # fmt: skip
    return table


@pytest.fixture
def run() -> Iterator[Callable[..., tuple[Pipeline, list[Event]]]]:
    """A wrist that goes on for ever, with these sensors beside it; its events."""
    stop, threads, made = threading.Event(), [], []

    def start(*sensors: dict[str, Any]) -> tuple[Pipeline, list[Event]]:
        events: list[Event] = []
        source = {"type": "demo-wrist", "speed": 200.0}
        pipeline = Pipeline("wrist", bundle=BUNDLE, source=source, rules=[], sensor=[*sensors])
        made.append(pipeline)
        thread = threading.Thread(
            target=pipeline.run, args=(lambda event: events.append(event) is None, stop)
        )
        thread.start()
        threads.append(thread)
        return pipeline, events

    yield start
    stop.set()
    for thread, pipeline in zip(threads, made, strict=True):
        thread.join(20)
        pipeline.close()


def test_events_carry_the_latest_sample_and_its_age(board: Path, run: Any) -> None:
    pipeline, events = run(thermometer(board))
    wait_until(lambda: events and events[-1].context, 20)
    context = json.loads(encode(events[-1]))["context"]
    assert context["board"]["temp1"] == 41.3
    assert context.keys() == {"board"} and -1 < context["board"]["age_s"] < 5
    (board / "hwmon0" / "temp1_input").write_text("70000\n")
    wait_until(lambda: events[-1].context["board"]["temp1"] == 70.0, 20)
    assert pipeline.state.sensors["board"].state == "running"
    assert pipeline.telemetry.sensors["board"]["used"] > 0


def test_a_sensor_that_dies_is_a_state_and_its_sample_grows_old(board: Path, run: Any) -> None:
    pipeline, events = run(thermometer(board))
    wait_until(lambda: events and events[-1].context, 20)
    (board / "hwmon0").rename(board / "away")
    wait_until(lambda: pipeline.state.sensors["board"].state == "lost", 20)
    wait_until(lambda: events[-1].context["board"]["age_s"] > 0.3, 20)
    assert events[-1].context["board"]["temp1"] == 41.3
    count = len(events)
    wait_until(lambda: len(events) > count, 20)
    (board / "away").rename(board / "hwmon5")
    wait_until(lambda: pipeline.state.sensors["board"].state == "running", 20)
    assert pipeline.state.source.state == "running"


def test_several_sensors_and_one_that_was_never_there(board: Path, run: Any) -> None:
    pipeline, events = run(thermometer(board), thermometer(board, name="absent", device="nothing"))
    wait_until(lambda: events and events[-1].context, 20)
    wait_until(lambda: pipeline.state.sensors["absent"].state == "lost", 20)
    assert {*events[-1].context} == {"board"}
    assert "there are hwmon0 (soc)" in pipeline.state.sensors["absent"].detail


class Broken:
    """A source that fails in the way it is told to."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        channels: tuple[str, ...]
        length: int = 0
        hop: int = 0

    live = True
    error: Exception = SourceError("it can never work")

    def __init__(self, config: Config, **_: Any) -> None:
        self.channels = config.channels
        self.state = None

    def read(self, timeout_s: float) -> None:
        time.sleep(0.01)
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SourceError("it can never work"), "it can never work"),
        (ZeroDivisionError("in a library"), "ZeroDivisionError: in a library"),
    ],
)
def test_a_sensor_that_fails_leaves_the_pipeline_alone(
    error: Exception, says: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(seams.SOURCES, "broken", f"{__name__}:Broken")
    monkeypatch.setattr(Broken, "error", error)
    pipeline, events = run({"name": "bad", "type": "broken", "channels": ["x"]})
    wait_until(lambda: len(events) > 3, 20)
    wait_until(lambda: pipeline.state.sensors["bad"] is not None, 20)
    state = pipeline.state.sensors["bad"]
    assert (state.state, state.detail) == ("failed", says)
    assert events[-1].context is msgspec.UNSET


def test_samples_that_cannot_be_used_and_an_end_are_no_failure(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(seams.SOURCES, "broken", f"{__name__}:Broken")
    for error in (FrameError("noise"), EndOfStream()):
        monkeypatch.setattr(Broken, "error", error)
        pipeline, events = run({"name": "bad", "type": "broken", "channels": ["x"]})
        wait_until(lambda events=events: len(events) > 3, 20)
        assert pipeline.state.sensors["bad"] is None, "what the source says of itself"


def test_closing_ends_every_thread(board: Path) -> None:
    before = threading.active_count()
    source = {"type": "demo-wrist", "speed": 1e6, "windows": 3}
    with Pipeline(
        "wrist", bundle=BUNDLE, source=source, rules=[],
        sensor=[thermometer(board), thermometer(board, name="absent", device="nothing")],
    ) as pipeline:  # fmt: skip
        assert len(list(pipeline)) == 3
    pipeline.close()
    wait_until(lambda: threading.active_count() <= before, 20)


# ---- the wire


def test_an_event_without_sensors_has_no_context() -> None:
    assert b"context" not in encode(draft())
    assert decode_event(encode(draft())).context is msgspec.UNSET


def test_the_schema_of_events_knows_the_context() -> None:
    validator = jsonschema.Draft202012Validator(event_schema())
    event = json.loads(encode(draft()))
    good = {**event, "context": {"board": {"temp1": 41.3, "age_s": 0.1}}}
    assert validator.is_valid(event) and validator.is_valid(good)
    assert not validator.is_valid({**event, "context": {"board": {"temp1": "warm"}}})


# ---- what is configured


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": "camera", "url": 0}, "sensor[0].type: camera gives no samples of a sensor"),
        ({"channels": []}, "sensor[0].channels: must name what the sensor gives"),
        ({"channels": ["age_s"]}, "and not age_s"),
        ({"length": 4}, "sensor[0].length: it is the latest sample"),
        ({"name": "a b"}, "sensor[0].name: must be"),
        ({"typo": 1}, "sensor[0].typo: unknown key"),
        ({"type": "nothing"}, "sensor[0].type: no source is called 'nothing'"),
    ],
)
def test_mistakes_are_said_with_their_key(changes: dict[str, Any], says: str, board: Path) -> None:
    sensor = thermometer(board, **changes)
    if "url" in changes:
        sensor = {"name": "c", **changes}
    table = {"name": "p", "bundle": BUNDLE, "source": {"type": "demo-wrist"}, "sensor": [sensor]}
    with pytest.raises(ConfigError) as caught:
        configuration.decode_pipeline(table)
    assert says in str(caught.value)


def test_two_sensors_may_not_have_one_name(board: Path) -> None:
    table = {"name": "p", "bundle": BUNDLE, "source": {"type": "demo-wrist"},
             "sensor": [thermometer(board), thermometer(board)]}  # fmt: skip
    with pytest.raises(ConfigError, match="two are called 'board'"):
        configuration.decode_pipeline(table)


def test_a_file_is_no_companion(tmp_path: Path) -> None:
    sensor = {"name": "log", "type": "csv", "path": str(tmp_path / "x.csv"), "channels": ["v"]}
    with pytest.raises(ConfigError, match=r"sensor p.log: csv reads a file"):
        Pipeline("p", bundle=BUNDLE, source={"type": "demo-wrist"}, sensor=[sensor])


def test_the_schema_and_the_reader_agree(board: Path) -> None:
    validator = jsonschema.Draft202012Validator(config_schema.json_schema())

    def allows(sensor: dict[str, Any]) -> bool:
        pipeline = {
            "name": "p",
            "bundle": "b",
            "source": {"type": "demo-wrist"},
            "sensor": [sensor],
        }
        return bool(
            validator.is_valid({"pipeline": [pipeline], "sink": [{"type": "jsonl", "path": "x"}]})
        )

    assert allows(thermometer(board))
    assert not allows(thermometer(board, length=4))
    assert not allows({"name": "c", "type": "camera", "url": 0})
    assert SensorConfig.__struct_fields__ == ("name", "type", "options")
