from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from builders import Running, frame, wait_until

from edge import intake
from edge.engines.host import Hosts
from edge.errors import BundleError, ConfigError, EngineError, FrameError, SourceError
from edge.frame_stats import FrameStats
from edge.mailbox import Mailbox
from edge.outbox import HIGH, LOW, NORMAL
from edge.pipeline import Pipeline
from edge.seams import EndOfStream
from edge.sources.synthetic import DemoWrist
from edge.types import Array, Frame
from edge.wire import Event, SourceState

BUNDLE = "builtin:wrist_activity"


class Script:
    """A source that does what it is told, step by step, and then ends."""

    live = False

    def __init__(self, *steps: Any, forever: bool = False) -> None:
        self.state = SourceState(state="running")
        self.closed = 0
        self._steps: Iterator[Any] = iter(steps)
        self._number = 0
        self._forever = forever

    def read(self, timeout_s: float) -> Frame | None:
        step = next(self._steps, None if self._forever else EndOfStream())
        if isinstance(step, Exception):
            raise step
        if step is None:
            time.sleep(0.001)
            return None
        self._number += 1
        return frame(step, self._number - 1)

    def close(self) -> None:
        self.closed += 1


def build(*steps: Any, forever: bool = False, **options: Any) -> Pipeline:
    options.setdefault("rules", [])
    pipeline = Pipeline("wrist", bundle=BUNDLE, source={"type": "demo-wrist"}, **options)
    pipeline.intake.source = Script(*steps, forever=forever)
    return pipeline


def windows(count: int) -> list[Array]:
    """What a wrist did: standing, walking and so on."""
    source = DemoWrist(DemoWrist.Config(speed=1e9, activity_s=10), name="wrist")
    frames = [source.read(1.0) for _ in range(count)]
    return [found.data for found in frames if found is not None]


def ran(pipeline: Pipeline, *, room: int = 10**9) -> list[Event]:
    """The events of a whole run; the outbox has room for the first ones only."""
    events: list[Event] = []

    def append(event: Event) -> bool:
        events.append(event)
        return len(events) <= room

    with pipeline:
        pipeline.run(append, threading.Event())
    return events


# ---- the frame loop


def test_every_frame_becomes_a_step_in_order() -> None:
    data = windows(8)
    with build(*data) as pipeline:
        steps = list(pipeline)
        assert [step.frame.number for step in steps] == list(range(8))
        for step, window in zip(steps, data, strict=True):
            assert step.prediction.labels == pipeline.model.manifest.labels
            again = pipeline.model.predict(window)
            np.testing.assert_array_equal(again.scores, step.prediction.scores)
        assert pipeline.last is steps[-1]


def test_events_are_handed_over_in_order_and_say_where_they_come_from() -> None:
    pipeline = build(*windows(5), variant="onnx-fp32")
    events = ran(pipeline)
    assert [event.source and event.source.frame for event in events] == [0, 1, 2, 3, 4]
    assert {(event.kind, event.pipeline, event.engine) for event in events} == {
        ("classification", "wrist", "onnx:cpu")
    }
    assert events[0].model == pipeline.model.ref
    assert [event.time.mono_ns for event in events] == [0, 1, 2, 3, 4], "the time of the capture"
    assert (events[0].device, events[0].epoch, events[0].seq) == ("", "", 0)


def test_rules_decide_what_is_an_event() -> None:
    data = windows(1) * 4
    assert len(ran(build(*data, rules=[{"type": "on_change"}]))) == 1
    assert len(ran(build(*data, rules=[{"type": "debounce", "frames": 3}]))) == 2
    by_the_bundle = build(*data, rules=None)
    assert len(ran(by_the_bundle)) <= 4


def test_an_event_that_found_no_room_is_not_counted() -> None:
    pipeline = build(*windows(5))
    assert len(ran(pipeline, room=3)) == 5
    assert (pipeline.telemetry.events, pipeline.telemetry.frames) == (3, 5)


@pytest.mark.parametrize("live", [True, False])
def test_a_full_outbox_holds_up_files_and_not_what_is_live(live: bool) -> None:
    waits = {}
    for when_full in ("auto", "block", "drop"):
        with build(when_full=when_full) as pipeline:
            pipeline.source.live = live
            waits[when_full] = pipeline.blocks_when_full
    assert waits == {"auto": not live, "block": True, "drop": False}


def test_the_priority_is_a_number_for_the_outbox() -> None:
    priorities = {}
    for name in ("low", "normal", "high"):
        with build(priority=name) as pipeline:
            priorities[name] = pipeline.priority
    assert priorities == {"low": LOW, "normal": NORMAL, "high": HIGH}


def test_bad_frames_are_counted_and_skipped() -> None:
    good, other = windows(2)
    holes = good.copy()
    holes[3, 2] = np.nan
    pipeline = build(FrameError("unreadable"), good, holes, None, np.zeros((5, 5)), other)
    events = ran(pipeline)
    assert [event.source and event.source.frame for event in events] == [0, 3]
    telemetry = pipeline.telemetry
    assert (telemetry.frames, telemetry.bad_frames, telemetry.drops) == (2, 3, 0)
    assert set(telemetry.latency_ms) == {"preprocess", "infer", "postprocess"}


def test_a_source_of_nothing_but_bad_frames_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_MAX_BAD_IN_A_ROW", 5)
    bad = [FrameError("unreadable")] * 4
    assert len(ran(build(*bad, *windows(1), *bad, *windows(1)))) == 2
    with pytest.raises(SourceError, match="5 bad frames in a row; the last: unreadable"):
        ran(build(*bad, *bad))


def test_a_live_source_of_nothing_but_bad_frames_may_mend_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "_MAX_BAD_IN_A_ROW", 5)
    pipeline = build(*[FrameError("noise on the line")] * 20, *windows(1))
    pipeline.source.live = True
    assert len(ran(pipeline)) == 1
    assert pipeline.telemetry.bad_frames == 20


def test_a_failing_engine_ends_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = build(*windows(3), forever=True)

    def fail(tensor: Array) -> dict[str, Array]:
        raise EngineError("out of memory")

    monkeypatch.setattr(pipeline.model, "infer", fail)
    with pytest.raises(EngineError, match="out of memory"):
        ran(pipeline)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SourceError("no such file"), "no such file"),
        (ValueError("from a library"), "source wrist: ValueError: from a library"),
    ],
)
def test_a_source_that_can_never_work_ends_the_pipeline(error: Exception, words: str) -> None:
    pipeline = build(*windows(1), error)
    with pytest.raises(SourceError, match=words):
        ran(pipeline)
    assert pipeline.state.source == SourceState(state="failed", detail=words)
    assert pipeline.telemetry.frames == 1, "what came before is not lost"


def test_a_pipeline_ends_when_it_is_asked_to() -> None:
    pipeline = build(*windows(1), forever=True)
    with Running(lambda stop: pipeline.run(lambda event: True, stop)):
        wait_until(lambda: pipeline.telemetry.frames == 1)
    source = pipeline.source
    assert isinstance(source, Script)
    wait_until(lambda: source.closed)
    pipeline.close()
    pipeline.close()


def test_leaving_the_loop_early_lets_go_of_the_source() -> None:
    pipeline = build(*windows(20), forever=True)
    source = pipeline.source
    with pipeline:
        for _ in pipeline:
            break
    assert isinstance(source, Script) and source.closed


def test_frames_come_no_faster_than_asked() -> None:
    pipeline = build(*windows(8), max_fps=50)
    began = time.monotonic()
    assert len(ran(pipeline)) == 8
    assert time.monotonic() - began >= 6 / 50


def test_pipelines_share_an_engine() -> None:
    hosts = Hosts()
    first, second = build(*windows(2), hosts=hosts), build(*windows(2), hosts=hosts)
    assert len(ran(first)) == 2
    assert len(ran(second)) == 2, "the first one has left the engine open"
    hosts.close()


def test_all_mistakes_of_a_call_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline("a b", bundle=BUNDLE, source={"type": "camra"}, rotat=90, max_fps=-1)
    assert len(caught.value.problems) == 4
    with pytest.raises(BundleError, match="no such bundle"):
        Pipeline("a", bundle="nothing", source={"type": "demo-wrist"})
    with pytest.raises(BundleError, match="no variant 'gpu'; there are"):
        build(variant="gpu")
    with pytest.raises(ConfigError, match="the model has no class cat"):
        build(rules=[{"type": "filter", "classes": ["cat"]}])


# ---- the mailbox


def test_in_a_live_mailbox_the_newest_wins() -> None:
    mailbox, stop = Mailbox(1, newest_wins=True), threading.Event()
    for number in range(5):
        mailbox.put(frame(np.zeros(1), number), stop)
    mailbox.end()
    newest = mailbox.take(stop)
    assert newest is not None and newest.number == 4
    assert mailbox.take(stop) is None
    assert mailbox.drops == 4


def test_a_mailbox_of_a_file_waits_for_room_and_drops_nothing() -> None:
    mailbox, stop = Mailbox(2, newest_wins=False), threading.Event()

    def fill() -> None:
        for number in range(20):
            mailbox.put(frame(np.zeros(1), number), stop)
        mailbox.end()

    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    taken = []
    while found := mailbox.take(stop):
        taken.append(found.number)
    filler.join(10)
    assert (taken, mailbox.drops) == (list(range(20)), 0)


def test_waiting_at_a_mailbox_can_be_interrupted() -> None:
    full, empty = Mailbox(1, newest_wins=False), Mailbox(1, newest_wins=False)
    full.put(frame(np.zeros(1)), threading.Event())
    with (
        Running(lambda stop: full.put(frame(np.zeros(1)), stop)),
        Running(lambda stop: None if empty.take(stop) is None else pytest.fail("a frame?")),
    ):
        time.sleep(0.05)


def test_stats_bear_having_seen_nothing() -> None:
    stats = FrameStats()
    assert (stats.fps, stats.latencies()) == (0.0, {})
    assert stats.idle_s(since_s=time.monotonic() - 5) >= 5
    now_ns = time.monotonic_ns()
    for ended_ns in (now_ns - 500_000_000, now_ns):
        stats.frame((ended_ns - 9_000_000, ended_ns - 5_000_000, ended_ns - 1_000_000, ended_ns))
    assert {stage: took.p50 for stage, took in stats.latencies().items()} == {
        "preprocess": 4.0,
        "infer": 4.0,
        "postprocess": 1.0,
    }
    assert stats.fps == 2.0 and stats.idle_s(since_s=0) < 5
