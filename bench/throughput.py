"""Frames a second with overlap, with a core busy elsewhere, and of many streams on one engine.

    python bench/throughput.py [--rounds 12] [--json]

Each case against a bare session on the same model file. Blocks of frames alternate in one process,
so that a change of the machine's speed hits both; a ratio is the median over pairs of blocks.
YOLOX-nano is measured too where EDGE_ASSETS names its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge.bundle import Bundle
from edge.clock import Clock
from edge.config import PipelineConfig, decode_pipeline
from edge.cores import cores
from edge.engines.host import Hosts
from edge.lanes import workers
from edge.model import open_any
from edge.pipeline import Pipeline
from edge.sources.synthetic import DemoMeter
from edge.types import Array, Frame
from edge.wire import SourceState

_STREAMS = 16
_TURNS = 40
_HOG = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"

Row = dict[str, Any]
"""case, metric, ours, reference and their ratio, of which more is better."""


class Subject(NamedTuple):
    """A model with its picture and the variant that both sides run."""

    name: str
    bundle: Bundle
    variant: str
    picture: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for subject in subjects():
        rows += overlap(subject, rounds=arguments.rounds)
        rows += core_busy(subject, rounds=arguments.rounds)
    rows += streams(subject, turns=_TURNS)
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def subjects() -> list[Subject]:
    """meter_reader, and YOLOX-nano where it is at hand, with a photograph as it came (its resizing
    is a third of what a frame costs beside the run) and with one of the model's size."""
    meter = DemoMeter(DemoMeter.Config(), name="bench").picture(3)
    found = [Subject("meter_reader", Bundle.open("builtin:meter_reader"), "onnx-fp32", meter)]
    assets = os.environ.get("EDGE_ASSETS")
    if assets:
        import cv2

        photograph = cv2.imread(str(Path(assets) / "images" / "bus.jpg"))
        bundle = open_any(Path(assets) / "models" / "yolox_nano_coco_416.onnx")
        for picture in (photograph, cv2.resize(photograph, (416, 416))):
            name = f"yolox_nano {picture.shape[1]}x{picture.shape[0]}"
            found.append(Subject(name, bundle, bundle.manifest.variants[0].name, picture))
    return found


# ---- the cases


def overlap(subject: Subject, *, rounds: int) -> list[Row]:
    """A file's frames, rules included ÷ the best that bare sessions do with all cores: one with as
    many threads, or as many at once with one thread each."""
    count = cores()
    frames = _frames_per_block(subject)
    with _ours(subject) as ours:
        sides = {
            "ours": ours,
            "wide": _bare(subject, threads=count, at_once=1),
            "narrow": _bare(subject, threads=1, at_once=count),
        }
        took = _alternate(sides, frames, rounds)
    best = min(("wide", "narrow"), key=lambda name: statistics.median(took[name]))
    case = f"{subject.name}, {count} threads, against {best}"
    return [_row(case, "frames a second", frames, took["ours"], took[best])]


def core_busy(subject: Subject, *, rounds: int) -> list[Row]:
    """The same with one core kept busy by another process ÷ ONNX Runtime as it is by default."""
    frames = _frames_per_block(subject)
    core = max(os.sched_getaffinity(0))
    with _ours(subject) as ours:
        sides = {"ours": ours, "default": _bare(subject, threads=0, at_once=1)}
        hog = subprocess.Popen([sys.executable, "-c", _HOG, str(core)])
        try:
            took = _alternate(sides, frames, rounds)
        finally:
            hog.kill()
            hog.wait()
    case = f"{subject.name}, one core busy, against ORT's defaults"
    return [_row(case, "frames a second", frames, took["ours"], took["default"])]


def streams(subject: Subject, *, turns: int, count: int = _STREAMS) -> list[Row]:
    """Live streams that give more than their engine can take, until each has had so many turns on
    average: the frames of the poorest and of the richest ÷ an equal share, and all of them together
    ÷ bare sessions before and after."""
    hosts, stop = Hosts(workers=count), threading.Event()
    pipelines = []
    for number in range(count):
        config = _config(subject, name=f"stream-{number}", live=True)
        pipeline = Pipeline.from_config(config, hosts=hosts, clock=Clock(), bundle=subject.bundle)
        pipeline.intake.source = _Camera(subject.picture)
        pipelines.append(pipeline)
    threads = [
        threading.Thread(target=pipeline.run, args=(lambda event: True, stop), daemon=True)
        for pipeline in pipelines
    ]
    bare = _bare(subject, threads=1, at_once=cores())
    frames = _frames_per_block(subject)
    took = [bare(frames) for _ in range(4)][1:]
    for thread in threads:
        thread.start()
    while not all(_done(pipelines)):  # the first ones warm up
        time.sleep(0.01)
    before, began = _done(pipelines), time.perf_counter()
    while sum(_done(pipelines)) - sum(before) < count * turns:
        time.sleep(0.01)
    after, lasted = _done(pipelines), time.perf_counter() - began
    stop.set()
    for thread in threads:
        thread.join(5)
    took += [bare(frames) for _ in range(3)]
    for pipeline in pipelines:
        pipeline.close()
    hosts.close()
    done = [now - then for now, then in zip(after, before, strict=True)]
    case, equal = f"{subject.name}, {count} streams", sum(done) / count
    return [
        _ratio(case, "frames of the poorest", min(done), equal),
        _ratio(case, "frames of the richest", max(done), equal),
        _ratio(case, "frames a second", sum(done) / lasted, frames / statistics.median(took)),
    ]


def _done(pipelines: list[Pipeline]) -> list[int]:
    return [pipeline.stats.frames for pipeline in pipelines]


# ---- ours


class _Given:
    """A source that gives so many frames as it is told, and then waits."""

    live = False

    def __init__(self, picture: Array) -> None:
        self.state = SourceState(state="running")
        self._picture = picture
        self._allowed = threading.Semaphore(0)
        self._number = -1

    def allow(self, frames: int) -> None:
        self._allowed.release(frames)

    def read(self, timeout_s: float) -> Frame | None:
        if not self._allowed.acquire(timeout=timeout_s):
            return None
        self._number += 1
        return _frame(self._picture, self._number)

    def close(self) -> None:
        pass


class _Camera:
    """A live source that gives a frame every 5 ms."""

    live = True

    def __init__(self, picture: Array) -> None:
        self.state = SourceState(state="running")
        self._picture = picture
        self._number = -1

    def read(self, timeout_s: float) -> Frame | None:
        time.sleep(0.005)
        self._number += 1
        return _frame(self._picture, self._number)

    def close(self) -> None:
        pass


def _frame(picture: Array, number: int) -> Frame:
    now_ns = time.monotonic_ns()
    return Frame(data=picture, source="bench", number=number, mono_ns=now_ns, wall_ns=now_ns)


def _config(subject: Subject, *, name: str = "bench", live: bool = False) -> PipelineConfig:
    source = {"type": "demo-meter"} if live else {"type": "images", "path": "."}
    return decode_pipeline(
        {"name": name, "bundle": "", "source": source, "variant": subject.variant}
    )


@contextlib.contextmanager
def _ours(subject: Subject) -> Iterator[Callable[[int], float]]:
    """Seconds that a pipeline takes for so many frames of a file."""
    config = _config(subject)
    hosts = Hosts(workers=workers(config, subject.bundle))
    pipeline = Pipeline.from_config(config, hosts=hosts, clock=Clock(), bundle=subject.bundle)
    source = _Given(subject.picture)
    pipeline.intake.source = source
    steps = iter(pipeline)

    def run(frames: int) -> float:
        began = time.perf_counter()
        source.allow(frames)
        for _ in range(frames):
            next(steps)
        return time.perf_counter() - began

    with pipeline:
        yield run
    hosts.close()


# ---- the reference


def _bare(subject: Subject, *, threads: int, at_once: int) -> Callable[[int], float]:
    """Seconds that one session takes for so many runs; `threads` 0 leaves it at its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    variant = subject.bundle.manifest.variant(subject.variant)
    session = onnxruntime.InferenceSession(
        subject.bundle.read(variant.file), options, providers=["CPUExecutionProvider"]
    )
    (spec,) = session.get_inputs()
    feed = {spec.name: np.zeros(spec.shape, variant.inputs[0].dtype)}

    def loop(runs: int) -> None:
        for _ in range(runs):
            session.run(None, feed)

    def run(frames: int) -> float:
        helpers = [threading.Thread(target=loop, args=(frames // at_once,)) for _ in range(at_once)]
        began = time.perf_counter()
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        return time.perf_counter() - began

    return run


# ---- figures


def _frames_per_block(subject: Subject) -> int:
    """Half a second's worth or so, a multiple of the cores."""
    bare = _bare(subject, threads=1, at_once=1)
    bare(2)
    each_s = bare(4) / 4
    return cores() * max(2, round(0.4 / each_s / cores()))


def _alternate(
    sides: dict[str, Callable[[int], float]], frames: int, rounds: int
) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(frames)
    for number in range(rounds):
        order = [*sides] if number % 2 else [*reversed(sides)]
        for name in order:
            took[name].append(sides[name](frames))
    return took


def _row(case: str, metric: str, frames: int, ours_s: list[float], reference_s: list[float]) -> Row:
    """Of seconds for so many frames, in pairs."""
    ratios = [reference / ours for ours, reference in zip(ours_s, reference_s, strict=True)]
    row = _ratio(
        case, metric, frames / statistics.median(ours_s), frames / statistics.median(reference_s)
    )
    return {**row, "ratio": round(statistics.median(ratios), 3)}


def _ratio(case: str, metric: str, ours: float, reference: float) -> Row:
    return {
        "case": case,
        "metric": metric,
        "ours": round(ours, 2),
        "reference": round(reference, 2),
        "ratio": round(ours / reference, 3),
    }


if __name__ == "__main__":
    main()
