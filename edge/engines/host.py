"""EngineHost: one engine for all pipelines that use the same (bundle, variant, accelerator).

Invariant: an engine is only ever run by one stream at a time, and the streams take turns.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from edge import accelerators, seams
from edge.accelerators import AUTO, CPU, SHAPE_OPS, EngineRequest
from edge.bundle import Bundle
from edge.engines.building import build
from edge.engines.faults import EngineFault
from edge.engines.guard import Guard, Quarantined
from edge.engines.watch import Watch
from edge.errors import BundleError, ConfigError, EngineError
from edge.manifest import Variant
from edge.types import Array, TensorSpec
from edge.wire import EngineTelemetry, Latency, Placement

_CLOSE_S = 3.0
_RECENT = 512

log = logging.getLogger(__name__)


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
        request = dataclasses.replace(request, threads=request.threads or default_threads())
        self._guard = guard
        self._engine: seams.Engine
        self._watch: Watch | None = None
        if guard is None:
            self._engine = build(bundle, variant, engine, request)
        else:
            self._engine, self._watch = guard.admit(bundle, variant, engine, request)
        self._turns = Turns()
        self._runs = 0
        self._recent: collections.deque[tuple[int, int, int]] = collections.deque(maxlen=_RECENT)
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
        watch, recent = self._watch, self._recent.copy()
        return EngineTelemetry(
            streams=self.streams,
            runs=self._runs,
            infer_ms=_latency([(ended - began) / 1e6 for _, began, ended in recent]),
            wait_ms=_latency([(began - asked) / 1e6 for asked, began, _ in recent]),
            not_finite=watch.not_finite if watch else 0,
            still=watch.still if watch else 0,
            over_time=watch.over_time if watch else 0,
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives."""
        return self._engine.outputs

    def infer(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """Run the model once; the outputs belong to the caller, who may keep arrays for them: see
        seams.Engine.

        FrameError for an answer that is not finite; EngineFault when the engine has gone bad.
        """
        asked_ns = time.monotonic_ns()
        self._turns.take(None)
        try:
            watch = self._watch
            began_ns = time.monotonic_ns() if watch is None else watch.enter()
            try:
                outputs = self._engine.run(inputs, into)
            except EngineError as error:
                self._failed(error)
                raise
            finally:
                ended_ns = time.monotonic_ns() if watch is None else watch.leave()
            self._runs += 1
            self._recent.append((asked_ns, began_ns, ended_ns))
            if watch is not None:
                try:
                    watch.look(inputs, outputs, (ended_ns - began_ns) / 1e6)
                except EngineFault as fault:
                    self._gone_bad(fault)
                    raise
            return outputs
        finally:
            self._turns.give()

    def _failed(self, error: EngineError) -> None:
        """An error in the middle of work; EngineFault where the engine is to blame."""
        failure = error if self._watch is None else self._watch.failed(error)
        if isinstance(failure, EngineFault):
            self._gone_bad(failure)
            raise failure from error

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
            request.threads,
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


class Chosen(NamedTuple):
    """What runs: `fallback` says why it is not what was asked for, or is empty."""

    variant: Variant
    host: EngineHost
    fallback: str


def choose(
    bundle: Bundle, hosts: Hosts, *, variant: str = AUTO, request: EngineRequest | None = None
) -> Chosen:
    """The first engine that runs a variant as `request` wants it.

    Tried in order: the accelerator asked for with each variant and engine, then, unless the policy
    is `require`, the CPU. `require` also wants every node there, but for SHAPE_OPS. EngineError
    when none does, with the reason of each; BundleError for a variant that is not there.
    """
    request = request or EngineRequest()
    if variant == AUTO:
        variants = bundle.manifest.variants
    else:
        try:
            variants = (bundle.manifest.variant(variant),)
        except KeyError as error:
            raise BundleError(f"{bundle.path}: {error.args[0]}") from error
    reasons: list[str] = []
    faults: list[str] = []
    for candidate, engine, wanted in _candidates(variants, request):
        label = f"{candidate.name} on {engine}:{wanted.accelerator}"
        try:
            host = hosts.get(bundle, candidate, engine=engine, request=wanted)
            if request.policy == "require":
                _require_placement(host, wanted.accelerator)
        except EngineError as error:
            reasons.append(f"{label}: {error}")
            if isinstance(error, EngineFault | Quarantined):
                faults.append(reasons[-1])
            continue
        host.streams += 1
        elsewhere = wanted.accelerator != request.accelerator != AUTO or (
            engine != request.engine != AUTO
        )
        if elsewhere and not reasons:
            reasons.append(f"no engine runs {candidate.format} on {request.accelerator}")
        chosen = Chosen(candidate, host, "; ".join(reasons if elsewhere else faults))
        _tell(chosen, wanted, hosts.guard)
        return chosen
    if len(reasons) == 1:
        raise EngineError(f"{bundle.path}: {reasons[0]}")
    raise EngineError(f"{bundle.path}: no variant runs here: " + "; ".join(reasons))


def _tell(chosen: Chosen, wanted: EngineRequest, guard: Guard | None) -> None:
    """Nothing is silent: `prefer` makes an alarm of a fallback, `any` a line in the log."""
    name, placement = chosen.host.name, chosen.host.placement
    model = chosen.variant.name
    if chosen.fallback:
        text = f"{model} runs on {name}: {chosen.fallback}"
        if guard is not None and wanted.policy == "prefer":
            guard.alarm("engine_fallback", text)
        else:
            log.warning("engine fallback: %s", text)
    left = {op: count for op, count in placement.elsewhere.items() if op not in SHAPE_OPS}
    if left:
        counted = ", ".join(f"{count} {op}" for op, count in sorted(left.items()))
        text = f"{model} runs on {name}: {counted} are not on {wanted.accelerator} ({placement})"
        if guard is not None and wanted.policy == "prefer":
            guard.alarm("engine_partly_placed", text)
        else:
            log.warning("engine partly placed: %s", text)


def default_threads() -> int:
    """The cores that this process may use, at most 4."""
    return min(4, len(os.sched_getaffinity(0)))


def _candidates(
    variants: tuple[Variant, ...], request: EngineRequest
) -> Iterator[tuple[Variant, str, EngineRequest]]:
    """Variants with an engine and an accelerator, the preferred ones first."""
    found = False
    known = request.accelerator in (AUTO, *accelerators.TABLE)
    if not known and request.engine in (AUTO, *seams.ENGINES):
        raise EngineError(
            f"accelerator {request.accelerator!r} is not supported; there are"
            f" {', '.join(accelerators.names())}"
        )
    for accelerator, asked in _preferences(request):
        same = accelerator == request.accelerator
        wanted = dataclasses.replace(
            request,
            accelerator=accelerator,
            options=_options(accelerator, request.options if same else None),
        )
        for variant in variants:
            for engine in _engines(accelerator, asked, variant):
                found = True
                yield variant, engine, wanted
    if not found:
        formats = ", ".join(sorted({variant.format for variant in variants}))
        raise EngineError(f"no engine runs {formats} on {request.accelerator}")


def _preferences(request: EngineRequest) -> list[tuple[str, str]]:
    """Accelerators, each with the engine that is asked for; the last resort is any engine's CPU."""
    if request.accelerator == AUTO:
        names = seams.names("engines") if request.engine == AUTO else [request.engine]
        at_hand = {accelerator for name in names for accelerator in available(name)}
        wanted = [name for name in accelerators.TABLE if name in at_hand or name == CPU]
    else:
        wanted = [request.accelerator]
    preferences = [(accelerator, request.engine) for accelerator in wanted]
    if request.policy == "require" or (CPU, AUTO) in preferences:
        return preferences
    return [*preferences, (CPU, AUTO)]


def available(engine: str) -> list[str]:
    """The accelerators that an engine has here; none when its runtime is not installed."""
    try:
        module = importlib.import_module(seams.find("engines", engine).__module__)
        found: list[str] = module.available()
    except (ImportError, AttributeError, EngineError):
        return []
    return found


def _engines(accelerator: str, asked: str, variant: Variant) -> list[str]:
    row = accelerators.TABLE.get(accelerator)
    if asked != AUTO:
        names = [asked]
    elif row is not None:
        names = list(row.engines)
    else:
        return []
    try:
        return [name for name in names if variant.format in seams.find("engines", name).formats]
    except ConfigError as error:
        raise EngineError(str(error)) from error


def _options(accelerator: str, given: Any) -> accelerators.Options | None:
    """The options given, or the accelerator's defaults."""
    row = accelerators.TABLE.get(accelerator)
    if given is not None or row is None:
        chosen: accelerators.Options | None = given
        return chosen
    try:
        return row.options()
    except TypeError as error:
        raise EngineError(
            f"accelerator {accelerator}: accelerator_options are missing: {error}"
        ) from error


def _require_placement(host: EngineHost, accelerator: str) -> None:
    """EngineError unless every node, but for shape operators, is where it was asked for."""
    placement = host.placement
    if accelerator == CPU:
        return
    if not placement.nodes:
        raise EngineError(
            f'{host.name}: policy "require", but this runtime cannot tell where nodes run'
        )
    left = {op: count for op, count in placement.elsewhere.items() if op not in SHAPE_OPS}
    if left:
        counted = ", ".join(f"{count} {op}" for op, count in sorted(left.items()))
        raise EngineError(
            f'{host.name}: policy "require", but {counted} run elsewhere ({placement});'
            f" allowed on the CPU are {', '.join(sorted(SHAPE_OPS))}"
        )


def _latency(took_ms: list[float]) -> Latency | None:
    if not took_ms:
        return None
    p50, p95, p99 = np.percentile(took_ms, (50, 95, 99)).round(3).tolist()
    return Latency(p50=p50, p95=p95, p99=p99)
