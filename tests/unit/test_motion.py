from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from needs import need_module

from edge.errors import ConfigError
from edge.frame_stats import FrameStats
from edge.motion import MotionConfig, MotionGate
from edge.pipeline import Pipeline
from edge.seams import EndOfStream
from edge.sources.synthetic import DemoMeter
from edge.types import Array, Frame, Reading
from edge.wire import SourceState

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 360, 640


def scene(thing_x: int | None = None, *, light: int = 0, noise: float = 0.0) -> Array:
    """A grey wall, and a thing of 40 x 40 pixels before it."""
    picture = np.full((HEIGHT, WIDTH, 3), 120.0 + light)
    if thing_x is not None:
        picture[200:240, thing_x : thing_x + 40] = 220
    picture += RNG.normal(0, noise, picture.shape) if noise else 0
    return picture.clip(0, 255).astype(np.uint8)


def passed(*frames: Array, fps: float = 10, **options: float) -> list[int]:
    """The numbers of the frames that a gate lets pass."""
    need_module("cv2")
    gate = MotionGate(MotionConfig(**{"linger_s": 0.0, **options}))  # type: ignore[arg-type]
    return [
        number
        for number, data in enumerate(frames)
        if gate.passes(
            Frame(data=data, source="s", number=number, mono_ns=int(number / fps * 1e9), wall_ns=0)
        )
    ]


def test_a_still_scene_is_looked_at_once_and_then_now_and_then() -> None:
    assert passed(*[scene(100)] * 50) == [0]
    assert passed(*[scene(100)] * 50, at_least_every_s=2) == [0, 20, 40]


def test_what_moves_is_looked_at() -> None:
    walk = [scene(100)] * 5 + [scene(x) for x in range(120, 200, 20)] + [scene(180)] * 5
    assert passed(*walk) == [0, 5, 6, 7, 8]


def test_frames_after_a_motion_pass_for_a_while() -> None:
    frames = [scene()] * 5 + [scene(100)] * 20
    assert passed(*frames, linger_s=0.5) == [*range(5), *range(5, 11)]


def test_slow_motion_adds_up() -> None:
    slow = [scene(100 + number // 2) for number in range(60)]
    assert 3 <= len(passed(*slow, min_change=60)) < 30, "no single step is a motion"


def test_noise_is_no_motion() -> None:
    assert passed(*[scene(100, noise=10) for _ in range(12)]) == [0]


def test_a_light_that_is_switched_on_is_a_change() -> None:
    assert passed(*[scene()] * 5, *[scene(light=60)] * 5) == [0, 5]


def test_a_change_of_the_picture_size_is_looked_at() -> None:
    small = np.ascontiguousarray(scene(100)[:180])
    assert passed(scene(100), small, small, scene(100)) == [0, 1, 3]


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3), (10, 0, 3), (5,), (1, 1, 3)])
def test_what_is_no_picture_is_left_for_others_to_refuse(shape: tuple[int, ...]) -> None:
    assert passed(np.zeros(shape, np.uint8), np.zeros(shape, np.float32))[0] == 0


class Recorded:
    """Frames of the demo's counter, as fast as they are taken; their clock is the recording's."""

    live = False

    def __init__(self, frames: int) -> None:
        self.state = SourceState(state="running")
        self._meter = DemoMeter(DemoMeter.Config(fps=30, frames=frames), name="meter")
        self._numbers = iter(range(frames))

    def read(self, timeout_s: float) -> Frame | None:
        number = next(self._numbers, None)
        if number is None:
            raise EndOfStream
        return Frame(
            data=self._meter.picture(number),
            source="meter", number=number, mono_ns=int(number / 30 * 1e9), wall_ns=0,
        )  # fmt: skip

    def close(self) -> None:
        pass


def test_a_pipeline_skips_idle_frames_counts_them_and_reads_the_same() -> None:
    need_module("onnxruntime")
    readings, counted = {}, {}
    gates: dict[str, dict[str, Any]] = {
        "all": {},
        "gated": {"motion": {"min_area": 0.01, "min_change": 30, "linger_s": 0.3}},
    }
    for name, options in gates.items():
        with Pipeline(
            "meter",
            bundle="builtin:meter_reader",
            source={"type": "images", "path": "unused.png"},
            rules=[{"type": "reading", "digits": 6}, {"type": "on_change"}],
            **options,
        ) as pipeline:
            pipeline.intake.source = Recorded(60)
            outcomes = [step.outcome for step in pipeline]
            readings[name] = [one.value for one in outcomes if isinstance(one, Reading)]
            counted[name] = pipeline.telemetry
    assert readings["gated"] == readings["all"] != []
    assert (counted["all"].frames, counted["all"].idle) == (60, 0)
    assert counted["gated"].idle > 10
    assert counted["gated"].frames + counted["gated"].idle == 60


def test_a_gate_that_skips_is_not_a_stall() -> None:
    stats = FrameStats()
    stats.skip()
    assert stats.idle == 1 and stats.idle_s(since_s=time.monotonic() - 500) < 60


def test_a_gate_is_for_pictures() -> None:
    with pytest.raises(ConfigError, match="motion: wrist_activity takes no pictures"):
        Pipeline("wrist", bundle="builtin:wrist_activity", source={"type": "demo-wrist"}, motion={})
