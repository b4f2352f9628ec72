"""Several frames of a stream are worked on at once, and nobody can tell but by the time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from builders import Running, wait_until

from edge import lanes
from edge.bundle import Bundle
from edge.clock import Clock
from edge.config import decode_pipeline
from edge.engines.host import Hosts
from edge.errors import EngineError, FrameError
from edge.lanes import Lane, Worked
from edge.pipeline import Pipeline
from edge.sources.synthetic import DemoMeter
from edge.types import Array, Frame
from edge.wire import Event

from .test_pipeline import BUNDLE, Script, build, windows

IMAGES = {"type": "images", "path": "unused.png"}


class Slow:
    """Each frame takes a lane as long as chance will have it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[str] = set()
        chance, work = random.Random(3), Lane.work

        def slowly(lane: Lane, frame: Frame) -> Worked:
            self.threads.add(threading.current_thread().name)
            time.sleep(chance.random() * 0.005)
            return work(lane, frame)

        monkeypatch.setattr(Lane, "work", slowly)


def script() -> list[Any]:
    """Thirty windows, some of which cannot be used."""
    steps: list[Any] = windows(30)
    steps[7] = np.full_like(steps[7], np.nan)
    steps[8] = np.zeros((5, 5))
    steps.insert(20, FrameError("unreadable"))
    return steps


def events_of(pipeline: Pipeline) -> list[tuple[Any, bytes]]:
    events: list[Event] = []

    def append(event: Event) -> bool:
        events.append(event)
        return True

    with pipeline:
        pipeline.run(append, threading.Event())
    return [(event.source and event.source.frame, bytes(event.data)) for event in events]


@pytest.mark.parametrize(
    "rules", [[], [{"type": "on_change"}], [{"type": "debounce", "frames": 3}]]
)
def test_the_events_are_those_of_one_lane_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, rules: list[Any]
) -> None:
    options = {"variant": "onnx-fp32", "rules": rules}
    expected = events_of(build(*script(), **options))
    slow = Slow(monkeypatch)
    pipeline = build(*script(), lanes=3, **options)
    assert events_of(pipeline) == expected
    assert slow.threads == {f"lane-wrist-{number}" for number in range(3)}
    telemetry = pipeline.telemetry
    assert (telemetry.frames, telemetry.bad_frames, telemetry.drops) == (28, 3, 0)
    assert set(telemetry.latency_ms) == {"preprocess", "infer", "postprocess"}
    assert telemetry.fps > 0


def test_predictions_stay_as_they_are_while_their_lane_goes_on() -> None:
    meter = DemoMeter(DemoMeter.Config(rate=50), name="m")
    pictures = [meter.picture(number) for number in range(24)]
    found: dict[int, list[Any]] = {}
    for lanes_asked in (1, 3):
        with Pipeline(
            "meter", bundle="builtin:meter_reader", source=IMAGES, rules=[], lanes=lanes_asked
        ) as pipeline:
            pipeline.intake.source = Script(*pictures)
            found[lanes_asked] = [step.prediction for step in pipeline]
    assert len(found[1]) == len(found[3]) == 24
    for one, other in zip(found[1], found[3], strict=True):
        assert len(one) > 0
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.classes, other.classes)


def test_one_lane_is_the_thread_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with build(*windows(3)) as pipeline:
        assert len([*pipeline]) == 3
    assert slow.threads == {threading.current_thread().name}


def test_who_leaves_the_loop_comes_back_to_the_next_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(monkeypatch)
    with build(*windows(9), lanes=2) as pipeline:
        first = [next(iter(pipeline)).frame.number for _ in range(4)]
        assert [*first, *(step.frame.number for step in pipeline)] == [*range(9)]


def test_a_failing_engine_ends_the_pipeline_after_the_frames_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Slow(monkeypatch)
    with build(*windows(20), lanes=3) as pipeline:
        for lane in pipeline._lanes:
            infer = lane.model.infer

            def fail(tensor: Array, infer: Any = infer) -> Mapping[str, Array]:
                if tensor[0, 0, 0] == marked[0, 0]:
                    raise EngineError("out of memory")
                answer: Mapping[str, Array] = infer(tensor)
                return answer

            monkeypatch.setattr(lane.model, "infer", fail)
        source = pipeline.source
        assert isinstance(source, Script)
        data = windows(20)
        marked = data[11] = np.full_like(data[11], 0.123)
        pipeline.intake.source = Script(*data)
        marked = pipeline.model.preprocess(marked)[0][0].copy()
        seen = []
        with pytest.raises(EngineError, match="out of memory"):
            for step in pipeline:
                seen.append(step.frame.number)
        assert seen == [*range(11)]


def test_a_pipeline_stops_and_closes_while_its_lanes_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.pipeline._JOIN_S", 0.05)
    monkeypatch.setattr("edge.engines.host._CLOSE_S", 0.05)
    go_on, inside = threading.Event(), threading.Semaphore(0)

    def stuck(lane: Lane, frame: Frame) -> Worked:
        inside.release()
        go_on.wait(30)
        return Worked(frame, None, (), FrameError("too late"))

    monkeypatch.setattr(Lane, "work", stuck)
    pipeline = build(*windows(20), lanes=2)
    with Running(lambda stop: pipeline.run(lambda event: True, stop)):
        assert inside.acquire(timeout=10) and inside.acquire(timeout=10)
    pipeline.close()
    pipeline.close()
    assert pipeline.telemetry.frames == 0
    go_on.set()
    parallel = pipeline._parallel
    assert parallel is not None
    parallel.join(10)
    assert not any(thread.is_alive() for thread in parallel._threads)


# ---- how many there are


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.engines.host.cores", lambda: 4)
    monkeypatch.setattr("edge.lanes.cores", lambda: 4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("bundle", "source", "options", "count", "threads"),
    [
        ("meter_reader", IMAGES, {}, 4, 1),
        ("meter_reader", IMAGES, {"threads": 2}, 2, 2),
        ("meter_reader", IMAGES, {"threads": 4}, 1, 4),
        ("meter_reader", IMAGES, {"lanes": 1}, 1, 4),
        ("meter_reader", IMAGES, {"lanes": 2}, 2, 2),
        ("meter_reader", IMAGES, {"lanes": 6}, 6, 1),
        ("meter_reader", {"type": "demo-meter"}, {}, 1, 4),
        ("meter_reader", {"type": "demo-meter"}, {"lanes": 2, "threads": 4}, 2, 4),
        ("wrist_activity", {"type": "demo-wrist"}, {}, 1, 4),
    ],
    ids=str,
)
def test_files_have_a_lane_for_each_core_and_what_is_live_the_whole_engine(
    bundle: str, source: dict[str, Any], options: dict[str, Any], count: int, threads: int
) -> None:
    with Pipeline("p", bundle=f"builtin:{bundle}", source=source, **options) as pipeline:
        assert len(pipeline._lanes) == count
        host = pipeline.model._host
        slots = min(count, 4 // threads)
        assert (len(host._slots), host.request.settings.threads) == (slots, threads)


def test_a_pipeline_on_a_device_has_a_lane_more_than_the_device_has_slots() -> None:
    table = {"name": "p", "bundle": "", "source": IMAGES, "accelerator": "edgetpu"}
    assert lanes.workers(decode_pipeline(table), Bundle.open("builtin:meter_reader")) >= 2


# ---- many streams on one engine


class Live(Script):
    """A live source that gives its first frame, and the others when it is told to."""

    live = True

    def __init__(self, *steps: Any) -> None:
        super().__init__(*steps, forever=True)
        self.go_on = threading.Event()

    def read(self, timeout_s: float) -> Frame | None:
        if self._number and not self.go_on.wait(0.01):
            return None
        return super().read(timeout_s)


def shared(hosts: Hosts, *steps: Any, **options: Any) -> Pipeline:
    pipeline = Pipeline.from_config(
        decode_pipeline(
            {"name": "s", "bundle": "", "source": {"type": "demo-meter"}, "rule": [], **options}
        ),
        hosts=hosts,
        clock=Clock(),
        bundle=Bundle.open(options.get("bundle") or BUNDLE),
    )
    pipeline.intake.source = Live(*steps)
    return pipeline


def test_a_stream_that_waits_for_its_turn_then_takes_the_newest_frame() -> None:
    hosts = Hosts(workers=2)
    first, second = shared(hosts, threads=1), shared(hosts, *windows(6), threads=1)
    host = first.model._host
    assert host is second.model._host and host.streams == 2
    held, source = [host.take() for _ in host._slots], second.source
    assert isinstance(source, Live)
    found: list[int] = []

    def run(stop: threading.Event) -> None:
        second._stop = stop
        found.extend(step.frame.number for step in second)

    with Running(run):
        wait_until(lambda: len(host._turns._waiting) == 1)
        source.go_on.set()
        wait_until(lambda: second.telemetry.drops == 5)
        for slot in held:
            assert slot is not None
            host.give(slot)
        wait_until(lambda: bool(found) or second.telemetry.frames > 0)
    assert found == [5]
    assert len(host._turns._free) == len(host._slots), "the turn has been given back"
    hosts.close()


def test_a_stop_does_not_wait_for_a_turn() -> None:
    hosts = Hosts(workers=2)
    first, second = shared(hosts, threads=1), shared(hosts, *windows(1), threads=1)
    host = first.model._host
    held = [host.take() for _ in host._slots]
    with Running(lambda stop: second.run(lambda event: True, stop)):
        wait_until(lambda: len(host._turns._waiting) == 1)
    for slot in held:
        assert slot is not None
        host.give(slot)
    hosts.close()


def test_who_has_a_turn_waits_for_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams, whose second model is the first one: with one slot."""
    monkeypatch.setattr("edge.engines.host.cores", lambda: 1)
    hosts = Hosts(workers=2)
    picture = DemoMeter(DemoMeter.Config(), name="m").picture(3)
    again = {"bundle": "builtin:meter_reader", "stage": [{"bundle": "builtin:meter_reader"}]}
    pipelines = [shared(hosts, picture, picture, **again) for _ in range(2)]
    host = pipelines[0].model._host
    assert len(host._slots) == 1 and host.streams == 4
    runs = [Running(lambda stop, one=one: one.run(lambda event: True, stop)) for one in pipelines]
    for running in runs:
        running.__enter__()
    wait_until(lambda: all(pipeline.telemetry.frames for pipeline in pipelines))
    for running in runs:
        running.__exit__(None, None, None)
    assert "stages" in pipelines[0].telemetry.latency_ms
    hosts.close()


def test_a_gate_that_skips_a_frame_gives_the_turn_back() -> None:
    hosts = Hosts(workers=2)
    picture = DemoMeter(DemoMeter.Config(), name="m").picture(3)
    options: dict[str, Any] = {"bundle": "builtin:meter_reader", "motion": {"linger_s": 0}}
    options |= {"source": IMAGES, "lanes": 1}
    first, second = shared(hosts, **options), shared(hosts, *[picture] * 9, **options)
    host = first.model._host
    assert isinstance(second.source, Live)
    second.source.go_on.set()
    with Running(lambda stop: second.run(lambda event: True, stop)):
        wait_until(lambda: second.telemetry.idle == 8)
        wait_until(lambda: len(host._turns._free) == len(host._slots))
    hosts.close()
