"""The frame loop of one source: eight hops from `source.read` to the outbox.

One thread reads the source into a mailbox: a live source's holds the newest frame only, and counts
what it dropped; any other waits. Another thread does everything else; or, with several lanes, each
lane's thread makes predictions of frames, and rules see them in the order of the frames.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edge import companions, lanes, seams
from edge import config as configuration
from edge.bundle import Bundle
from edge.clock import Clock
from edge.companions import Companion, context_of
from edge.config import AdapterConfig, PipelineConfig
from edge.engines.host import Hosts
from edge.errors import ConfigError, FrameError
from edge.frame_stats import FrameStats
from edge.happenings import Happening
from edge.intake import Intake
from edge.lanes import Lane, Worked
from edge.manifest import ImagePreprocess, WindowPreprocess
from edge.model import Model, open_any
from edge.motion import MotionGate
from edge.ordered import Ordered
from edge.pace import Pace
from edge.payloads import payload_of
from edge.quality import Quality
from edge.rules import Chain
from edge.stages import Stage
from edge.state import Gaps
from edge.types import Frame, Outcome, Prediction
from edge.wire import (
    Event,
    Payload,
    PipelineState,
    PipelineTelemetry,
    SourceRef,
    kind_of,
)

_JOIN_S = 2.0
_MAX_NOTICES = 1000

Append = Callable[[Event], bool]
"""Hands an event to the outbox. False: dropped."""


class Step(msgspec.Struct, frozen=True, kw_only=True, eq=False):
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
        source: seams.Source = seams.find("sources", config.source.type)(
            config.source.options, name=config.name, preprocess=manifest.preprocess
        )
        self.intake = Intake(
            source, name=self.name, stats=self.stats, clock=clock, stop=lambda: self._stop
        )
        self.companions = [Companion(sensor, pipeline=self.name) for sensor in config.sensors]
        self._own_hosts = Hosts(workers=lanes.workers(config, bundle)) if hosts is None else None
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
            self._lanes = lanes.build(config, self.model, self.stages)
        except BaseException:
            self._close_models()
            raise
        self._gaps = Gaps(config.gap_s) if self.model.state else None
        self.pace = Pace(config.max_fps)
        self._quality: Quality | None = None
        if config.quality is not None:
            given = manifest.preprocess
            channels = given.channels if isinstance(given, WindowPreprocess) else ()
            self._quality = Quality(config.quality, live=source.live, channels=channels)
        self._noticed: collections.deque[Event] = collections.deque(maxlen=_MAX_NOTICES)
        self.last: Step | None = None
        self._stop = threading.Event()
        self._parallel: Ordered[Lane, Frame, Worked] | None = None

    def __iter__(self) -> Iterator[Step]:
        """Frame by frame, until the source ends or the pipeline is closed.

        SourceError when the source can never work; EngineError when the engine fails.
        """
        self._start()
        while (worked := self._next()) is not None:
            step = self._finish(worked)
            if step is not None:
                yield step
        if self.intake.failure is not None:
            raise self.intake.failure

    def run(self, append: Append, stop: threading.Event) -> None:
        """Run to the end, handing every event to `append`; returns at `stop` too."""
        self._stop = stop
        for step in self:
            payloads: list[Payload] = [*step.happenings]
            try:
                if step.outcome is not None:
                    payloads.append(payload_of(step.outcome))
            except FrameError as error:
                self.intake.bad_frame(error)
            for payload in payloads:
                if append(self._event(step.frame, payload)):
                    self.stats.events += 1

    def _next(self) -> Worked | None:
        if self._parallel is not None:
            return self._parallel.fetch()
        lane = self._lanes[0]
        frame = self._take(lane)
        return None if frame is None else lane.work(frame)

    def _take(self, lane: Lane) -> Frame | None:
        """The next frame that is worth an inference; None at the end.

        Where other streams run the engine too, the lane has its turn first, so that a frame which
        waited for it is not an old one, and no more threads are busy than the engine has slots.
        """
        mailbox = self.intake.mailbox
        while True:
            if (wait_s := self.pace.wait_s(time.monotonic())) > 0:
                self._stop.wait(wait_s)
            turn = len(self._lanes) <= lane.model.most_lanes and lane.model.shared
            if turn and not (mailbox.wait(self._stop) and lane.model.take_turn(self._stop)):
                return None
            passes = False
            try:
                frame = mailbox.take(self._stop)
                if frame is None:
                    return None
                self.pace.taken(time.monotonic())
                if self._quality is not None:
                    noticed = self._quality.look(frame)
                    self._noticed.extend(self._event(frame, payload) for payload in noticed)
                passes = self._gate is None or self._gate.passes(frame)
            finally:
                if not passes:
                    lane.model.give_turn()
            if not passes:
                self.stats.skip()
                continue
            if self._gaps is not None and self._gaps.before(frame):
                lane.model.state.reset()
                self.stats.state_resets += 1
            return frame

    def _finish(self, worked: Worked) -> Step | None:
        """Hop six: the rules. None for a frame that cannot be used."""
        frame, prediction, moments, bad = worked
        try:
            if prediction is None:
                raise bad or FrameError("no prediction")
            outcome = self._rules(prediction, frame.mono_ns, frame.size)
        except FrameError as error:
            if self._gaps is not None:
                self._gaps.missed()
            self.intake.bad_frame(error)
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

    def _start(self) -> None:
        if not self.intake.started:
            self.intake.start()
            if len(self._lanes) > 1:
                self._parallel = Ordered(
                    self._lanes,
                    take=self._take,
                    work=Lane.work,
                    # What waits to be fetched grows old; from a file there is no harm in it.
                    ahead=len(self._lanes) * (1 if self.source.live else 2),
                    name=self.name,
                    stopped=lambda: self._stop.is_set(),
                )
            for companion in self.companions:
                companion.start()

    # ---- for whoever watches

    def notices(self) -> list[Event]:
        """Events of the source's condition since the last call: lost, recovered, no good any more.

        They come beside the steps, since a source that is away gives none.
        """
        events = self.intake.notices()
        while self._noticed:
            events.append(self._noticed.popleft())
        return events

    @property
    def source(self) -> seams.Source:
        """Where its frames come from."""
        return self.intake.source

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
        return PipelineState(
            model=self.model.ref,
            engine=self.model.engine,
            source=self.intake.state,
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
            drops=self.intake.mailbox.drops,
            bad_frames=stats.bad_frames,
            events=stats.events,
            fps=round(stats.fps, 2),
            latency_ms=stats.latencies(),
            idle=stats.idle,
            state_resets=stats.state_resets,
            received=self.intake.received,
            source=dict(getattr(self.source, "counts", {})),
            sensors={companion.name: companion.counts for companion in self.companions},
        )

    def close(self) -> None:
        """Stop reading and free the engine unless it is shared. May be called twice."""
        self._stop.set()
        self.intake.join(_JOIN_S)
        if self._parallel is not None:
            self._parallel.join(_JOIN_S)
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


def _manifest_rule(rule: Mapping[str, Any], bundle: Bundle) -> AdapterConfig:
    return configuration.decode_adapter("rules", rule, where=f"{bundle.path}: manifest")
