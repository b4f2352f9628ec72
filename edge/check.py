"""Try everything that an edge.toml names, without running it."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge import golden, seams
from edge.clock import Clock
from edge.config import Config, PipelineConfig, SinkConfig
from edge.engines.guard import Guard
from edge.engines.host import Hosts
from edge.errors import BundleError, EdgeError, FrameError, OutboxError, SourceError
from edge.model import Model
from edge.pipeline import Pipeline
from edge.seams import EndOfStream
from edge.types import Frame

SOURCE_S = 15.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried: `exit_code` 0 when it is well."""

    what: str
    detail: str
    exit_code: int = 0


def try_everything(config: Config, *, source_s: float = SOURCE_S) -> Iterator[Finding]:
    """Findings one by one: bundle, engine with golden cases, source and sensors of each pipeline;
    sinks; the state directory."""
    hosts = Hosts(
        Guard(
            Path(config.device.state_dir),
            trial_s=config.engines.trial_s,
            hang_s=config.engines.hang_s,
            marks=False,
        )
    )
    try:
        for pipeline in config.pipelines:
            yield from _try_pipeline(pipeline, hosts, source_s)
    finally:
        hosts.close()
    for sink in config.sinks:
        yield _try(f"sink {sink.name}", lambda sink=sink: _connect(sink, config.device.id))
    yield _try("state_dir", lambda: _writable(Path(config.device.state_dir)))


def _try_pipeline(config: PipelineConfig, hosts: Hosts, source_s: float) -> Iterator[Finding]:
    name = f"pipeline {config.name}"
    try:
        pipeline = Pipeline.from_config(config, hosts=hosts, clock=Clock())
    except EdgeError as error:
        yield Finding(what=name, detail=str(error), exit_code=error.exit_code)
        return
    with pipeline:
        model = pipeline.model
        yield _try(f"{name}: model", lambda: _golden(model))
        for stage in pipeline.stages:
            yield _try(f"{name}: stage {stage.name}", lambda stage=stage: _golden(stage.model))
        yield _try(
            f"{name}: source",
            lambda: _first_frame(pipeline.source, lambda frame: _usable(pipeline, frame), source_s),
        )
        for sensor in pipeline.companions:
            yield _try(
                f"{name}: sensor {sensor.name}",
                lambda sensor=sensor: _first_frame(sensor.source, sensor.said, source_s),
            )


def _try(what: str, action: object) -> Finding:
    try:
        return Finding(what=what, detail=action())  # type: ignore[operator]
    except EdgeError as error:
        return Finding(what=what, detail=str(error), exit_code=error.exit_code)


def _golden(model: Model) -> str:
    results = golden.check(model)
    for result in results:
        if not result.passed:
            raise BundleError(
                f"golden case {result.case} is wrong on {model.engine}:"
                f" {result.measured}; this engine cannot be trusted with this model"
            )
    return (
        f"{model.manifest.name} {model.variant.name} on {model.engine},"
        f" {len(results)} golden cases right; {model.placement}"
        + (f"; fallback: {model.fallback}" if model.fallback else "")
    )


def _first_frame(source: seams.Source, look: Callable[[Frame], str], source_s: float) -> str:
    """Read one frame, and what `look` says of it. A source stuck in a native call is left behind
    after the deadline."""
    outcome: list[str | EdgeError] = []

    def read() -> None:
        deadline = time.monotonic() + source_s
        while time.monotonic() < deadline:
            try:
                frame = source.read(0.2)
            except FrameError:
                continue
            except EndOfStream:
                outcome.append(SourceError("ended without a usable frame"))
                return
            except EdgeError as error:
                outcome.append(error)
                return
            if frame is not None:
                try:
                    outcome.append(look(frame))
                except EdgeError as error:
                    outcome.append(error)
                return
            if source.state.state == "lost":
                outcome.append(SourceError(source.state.detail))
                return

    def read_and_close() -> None:
        try:
            read()
        finally:
            source.close()

    thread = threading.Thread(target=read_and_close, name="check-source", daemon=True)
    thread.start()
    thread.join(source_s)
    if not outcome:
        raise SourceError(f"no frame within {source_s:g} s")
    if isinstance(outcome[0], EdgeError):
        raise outcome[0]
    return outcome[0]


def _usable(pipeline: Pipeline, frame: Frame) -> str:
    what = f"gives {frame.data.dtype} {'x'.join(map(str, frame.data.shape))}"
    try:
        pipeline.model.predict(frame.data)
    except FrameError as error:
        raise SourceError(f"{what}, which the model cannot use: {error}") from error
    return what


def _connect(config: SinkConfig, device: str) -> str:
    sink: seams.Sink = seams.find("sinks", config.type)(config.options, device=device)
    try:
        sink.open(None)
    finally:
        sink.close()
    return "can be reached"


def _writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".check-{os.getpid()}"
        probe.write_bytes(b"edge")
        probe.unlink()
    except OSError as error:
        raise OutboxError(f"{folder}: cannot be written: {error.strerror}") from error
    return f"{folder} can be written"
