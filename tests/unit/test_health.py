from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import frame, wait_until
from needs import need_module

from edge.board import Board
from edge.clock import Clock
from edge.conditions import QualityData, SourceData
from edge.config import DeviceConfig
from edge.health import Health
from edge.pipeline import Pipeline
from edge.types import Frame
from edge.wire import AlarmData, Event, SourceState

need_module("onnxruntime")
WINDOW = np.zeros((100, 6), np.float32)


class Told:
    """A source that is in the state that a test puts it in, and gives what a test puts there."""

    live = True

    def __init__(self) -> None:
        self.state = SourceState(state="starting")
        self.frames: list[Frame] = []

    def read(self, timeout_s: float) -> Frame | None:
        threading.Event().wait(0.005)
        return self.frames.pop(0) if self.frames else None

    def close(self) -> None:
        pass


def build(**options: Any) -> tuple[Pipeline, Told]:
    pipeline = Pipeline(
        "wrist",
        bundle="builtin:wrist_activity",
        source={"type": "demo-wrist"},
        rules=[],
        **options,
    )
    pipeline.intake.source = source = Told()
    return pipeline, source


def health(
    events: list[Event], *pipelines: Pipeline, root: Path = Path("/nowhere"), **options: Any
) -> Health:
    def append(event: Event) -> bool:
        events.append(event)
        return True

    config = DeviceConfig(**options)
    return Health(pipelines, Board(root), config=config, clock=Clock(), append=append)


def test_losses_are_told_of_any_source_by_its_state_alone() -> None:
    events: list[Event] = []
    pipeline, source = build()
    running = threading.Thread(target=lambda: [*pipeline], daemon=True)
    running.start()
    watch = health(events, pipeline)
    source.state = SourceState(state="lost", detail="the cable is out")
    wait_until(lambda: watch.tell() or events)
    source.state = SourceState(state="running")
    source.frames = [frame(WINDOW, 0)]
    wait_until(lambda: watch.tell() or len(events) == 2)
    pipeline.close()
    running.join(10)
    lost, back = (event.payload for event in events)
    assert isinstance(lost, SourceData) and isinstance(back, SourceData)
    assert (lost.state, lost.detail, back.state) == ("lost", "the cable is out", "recovered")
    assert {(event.kind, event.pipeline) for event in events} == {("source", "wrist")}
    assert events[0].time.mono_ns < events[1].time.mono_ns


def test_a_loss_that_only_the_reading_thread_saw_is_told() -> None:
    """Nobody asks for seconds; the source was away for a moment meanwhile."""
    events: list[Event] = []
    pipeline, source = build()
    source.state = SourceState(state="running")
    running = threading.Thread(target=lambda: [*pipeline], daemon=True)
    running.start()
    looked = threading.Event()
    look = pipeline.intake.look

    def seen(given: Frame | None) -> None:
        look(given)
        if source.state.state == "lost":
            looked.set()

    pipeline.intake.look = seen  # type: ignore[method-assign]
    source.state = SourceState(state="lost")
    assert looked.wait(10)
    source.state = SourceState(state="running")
    source.frames = [frame(WINDOW, 0)]
    wait_until(lambda: pipeline.stats.frames)
    health(events, pipeline).tell()
    pipeline.close()
    running.join(10)
    states = [event.payload.state for event in events]  # type: ignore[union-attr]
    assert states == ["lost", "recovered"]


def test_a_stuck_sensor_is_an_event_of_its_pipeline_with_the_frame() -> None:
    events: list[Event] = []
    quality = {"every_s": 0.001, "frozen_s": 0.02, "ignore": ["flat", "clipped"]}
    pipeline, source = build(quality=quality)
    source.state = SourceState(state="running")
    source.frames = [
        dataclasses.replace(frame(WINDOW, number), mono_ns=number * 10_000_000)
        for number in range(1, 400)
    ]
    running = threading.Thread(target=lambda: [*pipeline], daemon=True)
    running.start()
    watch = health(events, pipeline)
    wait_until(lambda: watch.tell() or events)
    pipeline.close()
    running.join(10)
    (event,) = events
    assert isinstance(event.payload, QualityData)
    assert (event.payload.problem, len(event.payload.channels)) == ("stuck", 6)
    assert event.kind == "quality" and event.source is not None and event.source.frame > 0


def test_without_the_table_nothing_is_looked_at() -> None:
    pipeline, _ = build()
    assert pipeline._quality is None
    pipeline.close()


@pytest.mark.parametrize("max_c", [0.0, 80.0])
def test_heat_slows_every_pipeline_and_is_an_alarm(
    tmp_path: Path, max_c: float, caplog: pytest.LogCaptureFixture
) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("90500\n")
    events: list[Event] = []
    pipelines = [build()[0], build()[0]]
    watch = health(events, *pipelines, root=tmp_path, max_temperature_c=max_c, heat_step_s=1000)
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop,), daemon=True)
    thread.start()
    if max_c:
        wait_until(lambda: events)
    stop.set()
    thread.join(10)
    for pipeline in pipelines:
        assert pipeline.pace.share == watch.pace == (0.75 if max_c else 1.0)
        pipeline.close()
    if not max_c:
        assert events == [] and watch.problem == ""
        return
    (event,) = events
    assert isinstance(event.payload, AlarmData) and event.payload.code == "heat_slower"
    assert event.payload.facts == {"temperature_c": 90.5, "max_temperature_c": 80, "pace": 0.75}
    assert "90.5 °C" in watch.problem and "75%" in watch.problem and "lowered" in caplog.text
