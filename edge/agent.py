"""The agent: every worker of a device in one table; signals, health and an orderly end.

Order of a stop: pipelines end, the outbox commits what they left, senders get `drain_s` to deliver
it, then everything is closed. A worker that dies unexpectedly ends the agent; what is committed
stays in the outbox.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge import __version__, board, seams
from edge.bundle import Bundle
from edge.clock import Clock, ClockWatch
from edge.config import Config, PipelineConfig
from edge.engines.guard import Guard
from edge.engines.host import Hosts
from edge.errors import ConfigError, EdgeError, SinkError
from edge.health import Health
from edge.lanes import workers
from edge.model import open_any
from edge.outbox import HIGH, Outbox
from edge.pipeline import Pipeline
from edge.sender import Sender
from edge.status import StatusServer
from edge.wire import AlarmData, ClockData, Event, State, Telemetry, event_of

_TICK_S = 0.2
_JOIN_S = 3.0
_BLOCK_S = 60.0

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Worker:
    """One thread: its name and what it runs until the event is set."""

    name: str
    run: Callable[[threading.Event], None]


class Agent:
    """Runs the pipelines and sinks of one edge.toml in this process."""

    def __init__(self, config: Config, *, bundles: Mapping[str, Bundle] | None = None) -> None:
        """Build everything, open bundles, engines and the outbox; nothing runs yet.

        `bundles` are opened ones by the name of the pipeline, in place of those that it names.
        Raises what stands in the way: ConfigError, BundleError, EngineError, OutboxError.
        """
        self._config = config
        self._clock = Clock()
        self._guard = Guard(
            Path(config.device.state_dir),
            trial_s=config.engines.trial_s,
            hang_s=config.engines.hang_s,
        )
        self._started_s = time.monotonic()
        self.pipelines: list[Pipeline] = []
        opened: list[tuple[PipelineConfig, Bundle]] = []
        for pipeline in config.pipelines:
            with _named(config, pipeline):
                bundle = (bundles or {}).get(pipeline.name) or open_any(pipeline.bundle)
            opened.append((pipeline, bundle))
        self._hosts = Hosts(self._guard, workers=sum(workers(*each) for each in opened))
        try:
            for pipeline, bundle in opened:
                with _named(config, pipeline):
                    self.pipelines.append(
                        Pipeline.from_config(
                            pipeline, hosts=self._hosts, clock=self._clock, bundle=bundle
                        )
                    )
            sinks = {
                sink.name: seams.find("sinks", sink.type)(sink.options, device=config.device.id)
                for sink in config.sinks
            }
            self.outbox = Outbox(
                Path(config.device.state_dir),
                list(sinks),
                device=config.device.id,
                config=config.outbox,
                clock=self._clock,
            )
        except BaseException:
            self._close_pipelines()
            raise
        self.senders = [
            Sender(name, sink, self.outbox, self._describe, config.outbox, self._clock)
            for name, sink in sinks.items()
        ]
        self._board = board.Board()
        self._health = Health(
            self.pipelines,
            self._board,
            config=config.device,
            clock=self._clock,
            append=lambda event: self.outbox.append(event, timeout_s=0.0, priority=HIGH),
        )
        self._failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Run until `stop`, until every source has ended, or until a worker dies.

        Raises what the worker died of; SinkError when all sources ended and events are left.
        """
        stop_pipelines, stop_services = threading.Event(), threading.Event()
        pipelines = [
            Worker(f"pipeline-{pipeline.name}", self._pipeline_worker(pipeline))
            for pipeline in self.pipelines
        ]
        services = [
            *(Worker(f"sender-{sender.name}", sender.run) for sender in self.senders),
            Worker("reporter", self._report),
            Worker("engines", self._guard.run),
            Worker("health", self._health.run),
            Worker("status", StatusServer(Path(self._config.device.state_dir), self.status).run),
        ]
        for pipeline in self.pipelines:
            ref, model = pipeline.model.ref, pipeline.model
            log.info(
                "pipeline %s: %s %s (%s) on %s; %s",
                pipeline.name, ref.name, ref.version, ref.variant, model.engine, model.placement,
            )  # fmt: skip
        self._report_quarantined()
        service_threads = [self._start(worker, stop_services) for worker in services]
        pipeline_threads = [self._start(worker, stop_pipelines) for worker in pipelines]
        try:
            while not stop.is_set() and self._cause() is None:
                if not any(thread.is_alive() for thread in pipeline_threads):
                    break
                stop.wait(_TICK_S)
            asked = stop.is_set()
            stop_pipelines.set()
            _join(pipeline_threads)
            self._health.tell()
            left = self._drain(threading.Event() if asked else stop, wait_for_sinks=not asked)
        finally:
            stop_services.set()
            stop_pipelines.set()
            _join(service_threads)
            self._close_pipelines()
            self.outbox.close()
        cause = self._cause()
        if cause is not None:
            raise cause
        log.info("stopped; %d events wait in the outbox", left)
        if left and not asked:
            raise SinkError(f"{left} events are not delivered yet; they stay in the outbox")

    def status(self) -> dict[str, Any]:
        """What `edge status` shows; `problems` is empty when all is well."""
        pipelines = {}
        problems = []
        for pipeline in self.pipelines:
            state, stats = pipeline.state, pipeline.telemetry
            idle_s = pipeline.stats.idle_s(since_s=self._started_s)
            stalled = idle_s > self._config.device.stall_s and state.source.state != "ended"
            if stalled or state.source.state in ("lost", "failed"):
                reason = state.source.detail or pipeline.stats.last_bad
                detail = f": {reason}" if reason else ""
                problems.append(
                    f"pipeline {pipeline.name}: source {state.source.state}{detail},"
                    f" no frame for {idle_s:.0f} s"
                )
            if state.fallback and pipeline.prefers:
                problems.append(f"pipeline {pipeline.name}: on {state.engine}: {state.fallback}")
            pipelines[pipeline.name] = {
                "engine": state.engine,
                "placement": str(state.placement),
                "source": state.source.state,
                "frames": stats.frames,
                "drops": stats.drops,
                "idle": stats.idle,
                "bad_frames": stats.bad_frames,
                "events": stats.events,
                "fps": stats.fps,
                "idle_s": round(idle_s, 1),
            }
        sinks = {}
        for sender in self.senders:
            if not sender.connected:
                problems.append(f"sink {sender.name}: {sender.problem}")
            sinks[sender.name] = {
                "connected": sender.connected,
                "confirmed": sender.confirmed,
                "outbox_depth": self.outbox.depth(sender.name),
            }
            refused = self.outbox.refused(sender.name)
            if refused:
                problems.append(f"sink {sender.name}: {refused} events refused; they are kept")
        if self._health.problem:
            problems.append(self._health.problem)
        if self.outbox.problem:
            problems.append(f"outbox: {self.outbox.problem}")
        if self.outbox.drops:
            problems.append(f"outbox: {self.outbox.drops} events dropped; is the disk full?")
        return {
            "device": self._config.device.id,
            "ok": not problems,
            "problems": problems,
            "pipelines": pipelines,
            "sinks": sinks,
            "board": {
                "temperature_c": self._board.temperature_c(),
                "throttled": self._board.read().throttled,
                "pace": self._health.pace,
            },
            "outbox_drops": self.outbox.drops,
        }

    # ---- workers

    def _cause(self) -> BaseException | None:
        """What a worker, or the outbox's own thread, died of."""
        return self._failure or self.outbox.failure

    def _pipeline_worker(self, pipeline: Pipeline) -> Callable[[threading.Event], None]:
        def append(event: Event) -> bool:
            wait_s = _BLOCK_S if pipeline.blocks_when_full else 0.0
            return self.outbox.append(event, timeout_s=wait_s, priority=pipeline.priority)

        return lambda stop: pipeline.run(append, stop)

    def _report(self, stop: threading.Event) -> None:
        """Send the state when it changes, and telemetry every `telemetry_s`."""
        told = None
        jumps = ClockWatch(self._clock)
        due_s = time.monotonic() + self._config.device.telemetry_s
        while not stop.wait(1.0):
            self._report_jump(jumps.look())
            for alarm in self._guard.alarms():
                self._report_alarm(alarm)
            states = {pipeline.name: pipeline.state for pipeline in self.pipelines}
            if told is not None and states != told:
                for sender in self.senders:
                    sender.announce()
            told = states
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._config.device.telemetry_s
                for sender in self.senders:
                    sender.report(self._telemetry())

    def _report_jump(self, jump: ClockData | None) -> None:
        """A clock that jumped is corrected by an event; committed events keep their bytes."""
        if jump is None:
            return
        log.warning("the wall clock jumped by %.1f s", jump.offset_ms / 1000)
        self.outbox.append(event_of(jump, time=self._clock.now()), timeout_s=0.0, priority=HIGH)

    def _report_alarm(self, alarm: AlarmData) -> bool:
        event = event_of(alarm, time=self._clock.now())
        return self.outbox.append(event, timeout_s=0.0, priority=HIGH)

    def _report_quarantined(self) -> None:
        """Say which engines the last process, or this start, found bad, and what it cost.

        How many frames a live source gave while nobody read them is reckoned from the pace at which
        they came before; what a file holds is read again.
        """
        live = any(pipeline.source.live for pipeline in self.pipelines)
        for record in self._guard.untold():
            facts = dict(record.facts)
            ended_s, pace = facts.pop("ended_mono_s", None), facts.pop("frames_per_s", 0.0)
            if ended_s is not None:
                facts["down_s"] = round(max(0.0, time.monotonic() - ended_s), 2)
                facts["frames_lost"] = round(facts["down_s"] * pace) if live else 0
            alarm = AlarmData(
                code=f"engine_quarantined_{record.kind}", detail=str(record), facts=facts
            )
            if self._report_alarm(alarm):
                self._guard.quarantine.tell(record)

    def _start(self, worker: Worker, stop: threading.Event) -> threading.Thread:
        def guarded() -> None:
            try:
                worker.run(stop)
            except EdgeError as error:
                self._failure = self._failure or error
            except BaseException as error:
                log.exception("%s died", worker.name)
                self._failure = self._failure or error

        thread = threading.Thread(target=guarded, name=worker.name, daemon=True)
        thread.start()
        return thread

    # ---- what is told

    def _describe(self, connection: int) -> State:
        return State(
            device=self._config.device.id,
            online=True,
            connection=connection,
            version=__version__,
            epoch=self.outbox.epoch,
            last_seq=self.outbox.last_seq,
            pipelines={pipeline.name: pipeline.state for pipeline in self.pipelines},
        )

    def _telemetry(self) -> Telemetry:
        return Telemetry(
            device=self._config.device.id,
            time=self._clock.now(),
            pipelines={pipeline.name: pipeline.telemetry for pipeline in self.pipelines},
            epoch=self.outbox.epoch,
            last_seq=self.outbox.last_seq,
            outbox={sender.name: self.outbox.depth(sender.name) for sender in self.senders},
            outbox_drops=self.outbox.drops,
            memory_mb=board.memory_mb(),
            temperature_c=self._board.temperature_c(),
            board=self._board.read(),
            pace=self._health.pace,
            engines=self._hosts.telemetry,
        )

    # ---- the end

    def _drain(self, hurry: threading.Event, *, wait_for_sinks: bool) -> int:
        """Let the senders deliver what is left; returns how many events remain.

        A sink that is not connected is waited for only when nobody asked to stop.
        """
        self.outbox.flush(_JOIN_S)
        deadline = time.monotonic() + self._config.device.drain_s
        while True:
            left = max((self.outbox.depth(sender.name) for sender in self.senders), default=0)
            useful = wait_for_sinks or any(sender.connected for sender in self.senders)
            if not left or not useful or time.monotonic() >= deadline or hurry.is_set():
                return left
            time.sleep(0.02)

    def _close_pipelines(self) -> None:
        for pipeline in self.pipelines:
            pipeline.close()
        self._hosts.close()


@contextmanager
def _named(config: Config, pipeline: PipelineConfig) -> Iterator[None]:
    """What is wrong, is wrong in this pipeline of this file."""
    try:
        yield
    except ConfigError as error:
        where = f"{config.path}: pipeline {pipeline.name}"
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error


def _join(threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + _JOIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            log.warning("%s did not end in time and is left behind", thread.name)
