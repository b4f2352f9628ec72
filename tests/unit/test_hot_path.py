"""What one frame costs, in numbers that no busy machine changes: calls, and bytes allocated.

Timings are for bench/. A ceiling that is broken says that something crept onto the path of every
frame; a number far below its ceiling, that the ceiling can come down.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import need_assets

from edge import frame_stats
from edge.bundle import Bundle
from edge.clock import capture
from edge.engines import host
from edge.engines.guard import Guard
from edge.engines.host import Hosts
from edge.model import open_any
from edge.pipeline import Pipeline
from edge.sources.synthetic import DemoMeter, DemoWrist
from edge.types import Array, Frame

FRAMES = 10
KEPT_BYTES = 4096
"""What all of the frames together may leave behind: the interpreter's own small change."""

Step = Callable[[Frame], object]
Stream = Callable[[Bundle, str, list[Array]], tuple[Step, list[Frame]]]


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """What is done with one frame by a pipeline on a guarded engine that is warm, and frames."""
    for module in (frame_stats, host):
        monkeypatch.setattr(module, "_RECENT", 4)  # soon full, so that no more is kept
    hosts = Hosts(Guard(tmp_path))

    def build(bundle: Bundle, variant: str, shown: list[Array]) -> tuple[Step, list[Frame]]:
        pipeline = Pipeline(
            "hot", bundle=bundle, source={"type": "demo-meter"}, hosts=hosts, variant=variant,
            threads=1,
        )  # fmt: skip
        frames = [
            capture(shown[number % len(shown)], source="hot", number=number)
            for number in range(FRAMES)
        ]

        def step(frame: Frame) -> object:
            """From the mailbox to the rules."""
            pipeline.intake.mailbox.put(frame, pipeline._stop)
            worked = pipeline._next()
            assert worked is not None
            return pipeline._finish(worked)

        for frame in frames:
            step(frame)
        assert pipeline.stats.frames == FRAMES and not pipeline.stats.bad_frames
        return step, frames

    yield build
    hosts.close()


def calls(step: Step, frames: list[Frame]) -> float:
    """Calls of Python and C functions, a frame."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for frame in frames:
        sys.setprofile(counted)
        step(frame)
        sys.setprofile(None)
    return count / len(frames) - 1  # that of setprofile itself


def allocated(step: Step, frames: list[Frame]) -> tuple[int, float]:
    """Bytes that stay after all frames, and the most KiB that one frame held at once."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for frame in frames[:4]:
            step(frame)
        before, most = tracemalloc.get_traced_memory()[0], 0
        for frame in frames:
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            step(frame)
            most = max(most, tracemalloc.get_traced_memory()[1] - held)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before, most / 1024
    finally:
        tracemalloc.stop()
        gc.enable()


def hold(step: Step, frames: list[Frame], *, most_calls: float, most_kib: float) -> None:
    stays, kib = allocated(step, frames)
    assert stays <= KEPT_BYTES
    assert kib <= most_kib, "something of the size of a buffer is allocated with each frame"
    assert calls(step, frames) <= most_calls


@pytest.mark.parametrize(
    ("variant", "most_calls"),
    [("onnx-fp32", 132), ("tflite-fp32", 135), ("onnx-int8", 132), ("tflite-int8", 135)],
)  # now: 123, 126, 123, 126, of which 42 are the mailbox, the pace and the turn at the engine
def test_a_window_of_samples(
    stream: Stream, wrist_bundle: Path, variant: str, most_calls: int
) -> None:
    source = DemoWrist(DemoWrist.Config(speed=1e9), name="hot")
    windows = [frame.data for frame in (source.read(5), source.read(5)) if frame]
    step, frames = stream(Bundle.open(wrist_bundle), variant, windows)
    hold(step, frames, most_calls=most_calls, most_kib=1.5)  # now: 0.7


@pytest.mark.parametrize(
    ("variant", "most_calls"),
    [("onnx-fp32", 198), ("tflite-fp32", 208), ("onnx-int8", 198), ("tflite-int8", 208)],
)  # now: 184, 194, 184, 194, of which the rules, which read a meter, are 57
def test_a_picture(stream: Stream, meter_bundle: Path, variant: str, most_calls: int) -> None:
    meter = DemoMeter(DemoMeter.Config(), name="hot")
    step, frames = stream(Bundle.open(meter_bundle), variant, [meter.picture(3), meter.picture(40)])
    hold(step, frames, most_calls=most_calls, most_kib=72)  # now: 65, and a tensor is 480


def test_a_picture_for_a_model_by_others(stream: Stream) -> None:
    import cv2

    assets = need_assets()
    picture = cv2.imread(str(assets / "images/dog.jpg"))
    assert picture is not None
    step, frames = stream(
        open_any(assets / "models/yolox_nano_coco_416.onnx"),
        "auto",
        [picture, picture[:, ::-1].copy()],
    )
    # Now: 147 and 297, of which 295 are the look whether the output (1178) is finite.
    hold(step, frames, most_calls=158, most_kib=320)
