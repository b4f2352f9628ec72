"""EngineHost: one engine for all pipelines that use the same (bundle, variant, accelerator).

Invariant: an engine is only ever run by one stream at a time, and the streams take turns.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from edge import accelerators, seams
from edge.accelerators import EngineRequest
from edge.bundle import Bundle
from edge.engines.building import build
from edge.engines.faults import EngineFault
from edge.engines.guard import Guard
from edge.engines.watch import Watch
from edge.errors import EngineError
from edge.manifest import Variant
from edge.types import Array
from edge.wire import EngineTelemetry, Latency, Placement

_CLOSE_S = 3.0
_RECENT = 512


class Turns:
    """A lock that is given in the order in which it was asked for.

    Each stream asks with one frame at a time, so that all come round before one comes again.
    """

    def __init__(self) -> None:
        self._waiting: collections.deque[threading.Event] = collections.deque()
        self._lock = threading.Lock()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and pass it on at the end."""
        self.take(None)
        try:
            yield
        finally:
            self.give()

    def take(self, timeout_s: float | None) -> bool:
        """Wait for the turn, at most so long; False when it did not come."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(timeout_s):
            return True
        with self._lock:
            if mine.is_set():
                return True
            self._waiting.remove(mine)
            return False

    def give(self) -> None:
        """To the one who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class EngineHost:
    """Owns one engine; `infer` may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        *,
        engine: str,
        request: EngineRequest,
        guard: Guard | None = None,
    ) -> None:
        """The engine called `engine`, as `guard` lets it in; without one it is not proved."""
        settings = request.settings
        if not settings.threads:
            settings = msgspec.structs.replace(settings, threads=default_threads())
            request = dataclasses.replace(request, settings=settings)
        self._guard = guard
        self._engine: seams.Engine
        self._watch: Watch | None = None
        if guard is None:
            self._engine = build(bundle, variant, engine, request)
        else:
            self._engine, self._watch = guard.admit(bundle, variant, engine, request)
        self._turns = Turns()
        self._runs = 0
        self._infer_ms: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._wait_ms: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self.streams = 0
        """How many streams have asked for this host."""

    @property
    def name(self) -> str:
        """Where it runs, e.g. onnx:cpu."""
        return self._engine.name

    @property
    def placement(self) -> Placement:
        """Where the nodes run, as the runtime tells."""
        return self._engine.placement

    @property
    def telemetry(self) -> EngineTelemetry:
        """Counters and latencies so far."""
        watch = self._watch
        return EngineTelemetry(
            streams=self.streams,
            runs=self._runs,
            infer_ms=_latency(self._infer_ms),
            wait_ms=_latency(self._wait_ms),
            not_finite=watch.not_finite if watch else 0,
            still=watch.still if watch else 0,
            over_time=watch.over_time if watch else 0,
        )

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; the outputs belong to the caller.

        FrameError for an answer that is not finite; EngineFault when the engine has gone bad.
        """
        asked = time.perf_counter()
        with self._turns.turn():
            began = time.perf_counter()
            outputs = self._run(inputs)
            took_ms = (time.perf_counter() - began) * 1e3
            self._runs += 1
            self._infer_ms.append(took_ms)
            self._wait_ms.append((began - asked) * 1e3)
            if self._watch is not None:
                try:
                    self._watch.look(inputs, outputs, took_ms)
                except EngineFault as fault:
                    self._gone_bad(fault)
                    raise
            return outputs

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        watch = self._watch
        if watch is None:
            return self._engine.run(inputs)
        watch.enter()
        try:
            return self._engine.run(inputs)
        except EngineError as error:
            failure = watch.failed(error)
            if isinstance(failure, EngineFault):
                self._gone_bad(failure)
                raise failure from error
            raise
        finally:
            watch.leave()

    def _gone_bad(self, fault: EngineFault) -> None:
        if self._guard is not None and self._watch is not None:
            self._guard.bad(self._watch, fault)

    def close(self) -> None:
        """Free the engine, after a run that is under way; one that hangs is left behind."""
        if not self._turns.take(_CLOSE_S):
            return
        try:
            self._engine.close()
            if self._guard is not None and self._watch is not None:
                self._guard.forget(self._watch)
        finally:
            self._turns.give()


class Hosts:
    """The hosts of one agent, by what they run. Closed together."""

    def __init__(self, guard: Guard | None = None) -> None:
        """Without a guard engines are neither proved nor watched: for who does that by himself."""
        self.guard = guard
        self._hosts: dict[Any, EngineHost] = {}
        self._refused: dict[Any, EngineError] = {}

    def get(
        self, bundle: Bundle, variant: Variant, *, engine: str, request: EngineRequest
    ) -> EngineHost:
        """The host for this variant on this engine, started if there is none yet."""
        key = (
            bundle.identity,
            variant.name,
            engine,
            request.accelerator,
            accelerators.canonical(request.options),
            request.settings,
            request.max_latency_ms,
        )
        if key in self._refused:
            raise self._refused[key]
        if key not in self._hosts:
            try:
                self._hosts[key] = EngineHost(
                    bundle, variant, engine=engine, request=request, guard=self.guard
                )
            except EngineError as error:
                # What another stream wants again need not be tried again.
                self._refused[key] = error
                raise
        return self._hosts[key]

    @property
    def telemetry(self) -> dict[str, EngineTelemetry]:
        """The numbers of each engine, by its name and what it runs."""
        return {
            f"{host.name} {key[1]} {key[0][7:15]}": host.telemetry
            for key, host in self._hosts.items()
        }

    def close(self) -> None:
        """Close every host."""
        while self._hosts:
            self._hosts.popitem()[1].close()


def default_threads() -> int:
    """The cores that this process may use, at most 4."""
    return min(4, len(os.sched_getaffinity(0)))


def _latency(recent_ms: collections.deque[float]) -> Latency | None:
    values = list(recent_ms.copy())
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(3).tolist()
    return Latency(p50=p50, p95=p95, p99=p99)
