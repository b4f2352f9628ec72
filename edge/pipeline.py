"""The frame loop of one source: eight hops from `source.read` to the outbox.

Two threads a pipeline: one reads the source into a mailbox, the other does everything else. A live
source's mailbox holds the newest frame only, and counts what it dropped; any other waits.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edge import companions, seams
from edge import config as configuration
from edge.bundle import Bundle
from edge.clock import Clock
from edge.companions import Companion, context_of
from edge.config import AdapterConfig, PipelineConfig
from edge.engines.host import Hosts
from edge.errors import ConfigError, EdgeError, FrameError, SourceError
from edge.frame_stats import FrameStats
from edge.happenings import Happening
from edge.mailbox import Mailbox
from edge.manifest import ImagePreprocess
from edge.model import Model
from edge.motion import MotionGate
from edge.payloads import payload_of
from edge.recognize.bundles import open_any
from edge.rules import Chain
from edge.seams import EndOfStream
from edge.stages import Stage
from edge.state import Gaps
from edge.types import Detections, Frame, Outcome, Prediction
from edge.wire import (
    Event,
    Payload,
    PipelineState,
    PipelineTelemetry,
    SourceRef,
    SourceState,
    kind_of,
)

_READ_S = 0.2
_MAX_BAD_IN_A_ROW = 1000

log = logging.getLogger(__name__)

Append = Callable[[Event], bool]
"""Hands an event to the outbox. False: dropped."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one frame came to: its prediction, and what the rules found worth an event."""

    frame: Frame
    prediction: Prediction
    outcome: Outcome | None
    happenings: tuple[Happening, ...] = ()


class Pipeline:
    """A source, a model and rules, run frame by frame. Iterate over it for `Step`s.

    with Pipeline("gate", bundle="models/meter_reader/bundle",
                  source={"type": "camera", "url": 0}) as pipeline:
        for step in pipeline:
            print(step.prediction)
    """

    def __init__(
        self,
        name: str,
        *,
        bundle: str | Path | Bundle,
        source: Mapping[str, Any],
        rules: list[Mapping[str, Any]] | None = None,
        hosts: Hosts | None = None,
        **options: Any,
    ) -> None:
        """`source` and `rules` are tables as in edge.toml; `options` are the other keys of
        [[pipeline]] (variant, threads, max_fps, min_score, roi, rotate, sensor)."""
        document = {"name": name, "source": dict(source), "bundle": "", **options}
        if rules is not None:
            document["rule"] = [dict(rule) for rule in rules]
        config = configuration.decode_pipeline(document)
        opened = bundle if isinstance(bundle, Bundle) else open_any(bundle)
        self._setup(config, opened, hosts, Clock())

    @classmethod
    def from_config(
        cls,
        config: PipelineConfig,
        *,
        hosts: Hosts,
        clock: Clock,
        bundle: Bundle | None = None,
    ) -> Self:
        """A pipeline of an edge.toml, on shared engine hosts; `bundle` if it is open already."""
        pipeline = cls.__new__(cls)
        pipeline._setup(config, bundle or open_any(config.bundle), hosts, clock)
        return pipeline

    def _setup(
        self, config: PipelineConfig, bundle: Bundle, hosts: Hosts | None, clock: Clock
    ) -> None:
        self.name = config.name
        self.stats = FrameStats()
        self._config = config
        self._clock = clock
        manifest = bundle.manifest
        rules = config.rules
        if rules is None:
            rules = tuple(_manifest_rule(rule, bundle) for rule in manifest.rules)
        self._rules = Chain(rules, manifest.labels)
        self.source: seams.Source = seams.find("sources", config.source.type)(
            config.source.options, name=config.name, preprocess=manifest.preprocess
        )
        self.companions = [Companion(sensor, pipeline=self.name) for sensor in config.sensors]
        self._own_hosts = Hosts() if hosts is None else None
        hosts = self._own_hosts if hosts is None else hosts
        self.model = Model(
            bundle,
            hosts=hosts,
            variant=config.variant,
            request=config.request,
            min_score=config.min_score,
            roi=config.roi,
            rotate=config.rotate,
        )
        self.stages: list[Stage] = []
        try:
            self._gate = self._build_gate(config)
            for stage in config.stages:
                opened = Stage.open(stage, self.model, hosts=hosts, rotate=config.rotate)
                if any(opened.name == other.name for other in self.stages):
                    raise ConfigError(f"stage: two are called {opened.name!r}; names must differ")
                self.stages.append(opened)
        except BaseException:
            self._close_models()
            raise
        self._gaps = Gaps(config.gap_s)
        live = self.source.live
        self._mailbox = Mailbox(1 if live else 4, newest_wins=live)
        self._received = 0
        self.last: Step | None = None
        self._stop = threading.Event()
        self._failure: EdgeError | None = None
        self._reader: threading.Thread | None = None

    def __iter__(self) -> Iterator[Step]:
        """Frame by frame, until the source ends or the pipeline is closed.

        SourceError when the source can never work; EngineError when the engine fails.
        """
        self._start()
        next_due = 0.0
        while frame := self._mailbox.take(self._stop):
            step = self._step(frame)
            if step is not None:
                yield step
            if self._config.max_fps:
                next_due = max(time.monotonic(), next_due + 1 / self._config.max_fps)
                self._stop.wait(next_due - time.monotonic())
        if self._failure is not None:
            raise self._failure

    def run(self, append: Append, stop: threading.Event) -> None:
        """Run to the end, handing every event to `append`; returns at `stop` too."""
        self._stop = stop
        for step in self:
            payloads: list[Payload] = [*step.happenings]
            try:
                if step.outcome is not None:
                    payloads.append(payload_of(step.outcome))
            except FrameError as error:
                self._bad_frame(error)
            for payload in payloads:
                if append(self._event(step.frame, payload)):
                    self.stats.events += 1

    def _step(self, frame: Frame) -> Step | None:
        """Hops three to six for one frame; None for one that is idle or cannot be used."""
        moments = {"start": time.monotonic_ns()}
        try:
            if self._gate is not None and not self._gate.passes(frame):
                self.stats.skip()
                return None
            if self._gaps.before(frame) and self.model.state:
                self.model.state.reset()
                self.stats.state_resets += 1
            tensor, geometry = self.model.preprocess(frame.data)
            moments["preprocess"] = time.monotonic_ns()
            raw = self.model.infer(tensor)
            moments["infer"] = time.monotonic_ns()
            prediction = self.model.postprocess(raw, geometry)
            moments["postprocess"] = time.monotonic_ns()
            if self.stages and isinstance(prediction, Detections):
                for stage in self.stages:
                    prediction = stage(frame.data, prediction)
                moments["stages"] = time.monotonic_ns()
            outcome = self._rules(prediction, frame.mono_ns, _size(frame))
        except FrameError as error:
            self._gaps.missed()
            self._bad_frame(error)
            return None
        self.stats.frame(moments)
        self.last = Step(
            frame=frame,
            prediction=prediction,
            outcome=outcome,
            happenings=tuple(self._rules.happened),
        )
        return self.last

    def _event(self, frame: Frame, payload: Payload) -> Event:
        return Event(
            kind=kind_of(payload),
            pipeline=self.name,
            time=self._clock.stamp(mono_ns=frame.mono_ns, wall_ns=frame.wall_ns),
            source=SourceRef(name=frame.source, frame=frame.number),
            model=self.model.ref,
            engine=self.model.engine,
            context=context_of(self.companions, frame.mono_ns) or msgspec.UNSET,
            data=msgspec.Raw(msgspec.json.encode(payload)),
        )

    def _build_gate(self, config: PipelineConfig) -> MotionGate | None:
        if config.motion is None:
            return None
        if not isinstance(self.model.manifest.preprocess, ImagePreprocess):
            raise ConfigError(f"motion: {self.model.manifest.name} takes no pictures")
        return MotionGate(config.motion)

    def _close_models(self) -> None:
        """Free the engines, unless they are shared."""
        if self._own_hosts is not None:
            self._own_hosts.close()

    # ---- the reading thread

    def _start(self) -> None:
        if self._reader is None:
            self._reader = threading.Thread(
                target=self._read, name=f"source-{self.name}", daemon=True
            )
            self._reader.start()
            for companion in self.companions:
                companion.start()

    def _read(self) -> None:
        bad_in_a_row = 0
        try:
            while not self._stop.is_set():
                try:
                    frame = self.source.read(_READ_S)
                except FrameError as error:
                    self._received += 1
                    self._bad_frame(error)
                    bad_in_a_row += 1
                    if bad_in_a_row >= _MAX_BAD_IN_A_ROW and not self.source.live:
                        raise SourceError(
                            f"source {self.name}: {bad_in_a_row} bad frames in a row;"
                            f" the last: {error}"
                        ) from error
                    continue
                if frame is not None:
                    self._received += 1
                    bad_in_a_row = 0
                    self._mailbox.put(frame, self._stop)
        except EndOfStream:
            pass
        except EdgeError as error:
            self._failure = error
        except Exception as error:  # a source's library may raise anything
            log.exception("source %s failed", self.name)
            self._failure = SourceError(f"source {self.name}: {type(error).__name__}: {error}")
        finally:
            self._mailbox.end()
            self.source.close()

    def _bad_frame(self, error: FrameError) -> None:
        self.stats.bad_frames += 1
        self.stats.last_bad = str(error)
        level = logging.WARNING if self.stats.bad_frames <= 3 else logging.DEBUG
        log.log(level, "pipeline %s: skipped: %s", self.name, error)

    # ---- for whoever watches

    @property
    def priority(self) -> int:
        """The priority of this pipeline's events in the outbox: 0, 1 or 2."""
        return ("low", "normal", "high").index(self._config.priority)

    @property
    def prefers(self) -> bool:
        """Whether another engine than the one asked for is something to complain of."""
        return self._config.policy == "prefer"

    @property
    def blocks_when_full(self) -> bool:
        """Whether to wait when the outbox takes no more, rather than drop."""
        if self._config.when_full == "auto":
            return not self.source.live
        return self._config.when_full == "block"

    @property
    def state(self) -> PipelineState:
        """What runs here, and the state of its source."""
        source = self.source.state
        if self._failure is not None:
            source = SourceState(state="failed", detail=str(self._failure))
        return PipelineState(
            model=self.model.ref,
            engine=self.model.engine,
            source=source,
            placement=self.model.placement,
            fallback=self.model.fallback,
            sensors={companion.name: companion.state for companion in self.companions},
        )

    @property
    def telemetry(self) -> PipelineTelemetry:
        """Counters and latencies so far."""
        stats = self.stats
        return PipelineTelemetry(
            frames=stats.frames,
            drops=self._mailbox.drops,
            bad_frames=stats.bad_frames,
            events=stats.events,
            fps=round(stats.fps, 2),
            latency_ms=stats.latencies(),
            idle=stats.idle,
            state_resets=stats.state_resets,
            received=self._received,
            source=dict(getattr(self.source, "counts", {})),
            sensors={companion.name: companion.counts for companion in self.companions},
        )

    def close(self) -> None:
        """Stop reading and free the engine unless it is shared. May be called twice."""
        self._stop.set()
        if self._reader is not None:
            self._reader.join(2.0)
        companions.close(self.companions)
        self._close_models()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _size(frame: Frame) -> tuple[int, int]:
    """Width and height of a picture; those of a window say nothing."""
    return frame.data.shape[1], frame.data.shape[0]


def _manifest_rule(rule: Mapping[str, Any], bundle: Bundle) -> AdapterConfig:
    return configuration.decode_adapter("rules", rule, where=f"{bundle.path}: manifest")
