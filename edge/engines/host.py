"""EngineHost: one engine for all pipelines that use the same (bundle, variant, accelerator).

An engine has slots: so many runs may be under way at once, each in a twin of the engine, as many as
threads want it and threads × slots are not more than the cores. Invariant: a slot is only ever used
by one stream at a time, and the streams take turns.

Runs of several streams are not put together into one of a larger batch: that was measured to gain
less than a tenth for pictures, and more only for a net that takes less than handing it on does.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from edge import accelerators, seams
from edge.accelerators import EngineRequest
from edge.bundle import Bundle
from edge.cores import cores
from edge.engines.building import build
from edge.engines.faults import EngineFault
from edge.engines.guard import Guard
from edge.engines.watch import Watch
from edge.errors import EngineError
from edge.frame_stats import latency
from edge.manifest import Variant
from edge.types import Array, TensorSpec
from edge.wire import EngineTelemetry, Placement

_CLOSE_S = 3.0
_STOP_S = 0.1
_RECENT = 512
_MOST_THREADS = 4

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Waiting(Generic[T]):
    """One who waits: `come` is locked until `item` is his."""

    def __init__(self) -> None:
        self.item: T | None = None
        self.come = threading.Lock()
        self.come.acquire()


class Turns(Generic[T]):
    """Things that are lent one by one, in the order in which they were asked for.

    Each stream asks with one frame at a time, so that all come round before one comes again.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._free = [*things]
        self._waiting: collections.deque[_Waiting[T]] = collections.deque()
        self._lock = threading.Lock()

    def take(self, timeout_s: float = -1, *, stop: threading.Event | None = None) -> T | None:
        """Wait for a thing, at most so long or until `stop`; None when none came. `give` it back.

        Waiting, one keeps one's place in the queue.
        """
        with self._lock:
            if self._free:
                return self._free.pop()
            mine = _Waiting[T]()
            self._waiting.append(mine)
        try:
            if stop is None:
                come = mine.come.acquire(timeout=timeout_s)
            else:
                while not (come := mine.come.acquire(timeout=_STOP_S)) and not stop.is_set():
                    pass
        except BaseException:  # Ctrl-C: what comes now would be lost
            self._leave(mine)
            if mine.item is not None:
                self.give(mine.item)
            raise
        if not come:
            self._leave(mine)
        return mine.item

    def give(self, thing: T) -> None:
        """To the one who has waited longest."""
        with self._lock:
            if self._waiting:
                first = self._waiting.popleft()
                first.item = thing
                first.come.release()
            else:
                self._free.append(thing)

    def _leave(self, mine: _Waiting[T]) -> None:
        with self._lock:
            if mine.item is None:
                self._waiting.remove(mine)


class Slot:
    """One run at a time: an engine, who watches it, and what was counted here."""

    __slots__ = ("engine", "recent_ns", "runs", "waited_ns", "watch")

    def __init__(self, engine: seams.Engine, watch: Watch | None) -> None:
        self.engine = engine
        self.watch = watch
        self.waited_ns = 0
        """How long the one who has it had waited for it."""
        self.runs = 0
        self.recent_ns: collections.deque[tuple[int, int]] = collections.deque(maxlen=_RECENT)
        """How long was waited for each run, and how long it took."""


class EngineHost:
    """Owns an engine and its twins; `infer` may be called from any thread."""

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
        self.request = fit(request)
        self.on_cores = request.on_cores
        """Whether a run keeps cores busy, rather than a device beside them."""
        self.most_slots = self.request.slots
        """How many slots there are room for."""
        self._bundle, self._variant, self._guard = bundle, variant, guard
        self._slots = [self._first(engine, self.request)]
        self._turns = Turns(self._slots)
        self._wanted = 0
        self.streams = 0
        """How many streams have asked for this host."""

    def _first(self, engine: str, request: EngineRequest) -> Slot:
        if self._guard is None:
            return Slot(build(self._bundle, self._variant, engine, request), None)
        return Slot(*self._guard.admit(self._bundle, self._variant, engine, request))

    def _twin(self) -> Slot:
        first = self._slots[0]
        if self._guard is None or first.watch is None:
            return Slot(first.engine.twin(), None)
        return Slot(*self._guard.admit_twin(first.engine, first.watch, self._bundle, self._variant))

    def join(self) -> None:
        """One stream more."""
        self.streams += 1
        self.widen()

    def widen(self) -> None:
        """One thread more will run the model: one slot more, if there is room for it."""
        self._wanted += 1
        if not len(self._slots) < min(self._wanted, self.most_slots):
            return
        try:
            twin = self._twin()
        except EngineError as error:
            self.most_slots = len(self._slots)
            log.warning("%s: no more than %d slots: %s", self.name, self.most_slots, error)
            return
        self._slots.append(twin)
        self._turns.give(twin)

    @property
    def name(self) -> str:
        """Where it runs, e.g. onnx:cpu."""
        return self._slots[0].engine.name

    @property
    def placement(self) -> Placement:
        """Where the nodes run, as the runtime tells."""
        return self._slots[0].engine.placement

    @property
    def telemetry(self) -> EngineTelemetry:
        """Counters and latencies so far."""
        slots = self._slots
        watches = [slot.watch for slot in slots if slot.watch]
        recent_ns = [taken for slot in slots for taken in slot.recent_ns.copy()]
        return EngineTelemetry(
            streams=self.streams,
            slots=len(slots),
            runs=sum(slot.runs for slot in slots),
            infer_ms=latency([took / 1e6 for _, took in recent_ns]) if recent_ns else None,
            wait_ms=latency([waited / 1e6 for waited, _ in recent_ns]) if recent_ns else None,
            not_finite=sum(watch.not_finite for watch in watches),
            still=sum(watch.still for watch in watches),
            over_time=sum(watch.over_time for watch in watches),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives."""
        return self._slots[0].engine.outputs

    def take(self, stop: threading.Event | None = None) -> Slot | None:
        """Wait for one's turn, and have a slot until it is given back; None at `stop`."""
        asked_ns = time.monotonic_ns()
        slot = self._turns.take(stop=stop)
        if slot is not None:
            slot.waited_ns = time.monotonic_ns() - asked_ns
        return slot

    def give(self, slot: Slot) -> None:
        """The turn is over."""
        self._turns.give(slot)

    def infer(
        self,
        inputs: Mapping[str, Array],
        into: dict[str, Array] | None = None,
        slot: Slot | None = None,
    ) -> dict[str, Array]:
        """Run the model once, in the `slot` that one has or else in one's turn; the outputs belong
        to the caller, who may keep arrays for them: see seams.Engine.

        FrameError for an answer that is not finite; EngineFault when the engine has gone bad.
        """
        if slot is not None:
            return self._run(slot, inputs, into)
        slot = self.take()
        assert slot is not None
        try:
            return self._run(slot, inputs, into)
        finally:
            self._turns.give(slot)

    def _run(
        self, slot: Slot, inputs: Mapping[str, Array], into: dict[str, Array] | None
    ) -> dict[str, Array]:
        watch = slot.watch
        began_ns = time.monotonic_ns() if watch is None else watch.enter()
        try:
            outputs = slot.engine.run(inputs, into)
        except EngineError as error:
            self._failed(watch, error)
            raise
        finally:
            ended_ns = time.monotonic_ns() if watch is None else watch.leave()
        took_ns = ended_ns - began_ns
        slot.runs += 1
        slot.recent_ns.append((slot.waited_ns, took_ns))
        if watch is not None:
            try:
                watch.look(inputs, outputs, took_ns / 1e6)
            except EngineFault as fault:
                self._gone_bad(watch, fault)
                raise
        return outputs

    def _failed(self, watch: Watch | None, error: EngineError) -> None:
        """An error in the middle of work; EngineFault where the engine is to blame."""
        failure = error if watch is None else watch.failed(error)
        if isinstance(failure, EngineFault):
            self._gone_bad(watch, failure)
            raise failure from error

    def _gone_bad(self, watch: Watch | None, fault: EngineFault) -> None:
        if self._guard is not None and watch is not None:
            self._guard.bad(watch, fault)

    def close(self) -> None:
        """Free the engines, after runs that are under way; one that hangs is left behind."""
        deadline_s = time.monotonic() + _CLOSE_S
        taken: list[Slot] = []
        try:
            for _ in self._slots:
                slot = self._turns.take(max(0.0, deadline_s - time.monotonic()))
                if slot is None:
                    return
                taken.append(slot)
                slot.engine.close()
                if self._guard is not None and slot.watch is not None:
                    self._guard.forget(slot.watch)
        finally:
            for slot in taken:
                self._turns.give(slot)


class Hosts:
    """The hosts of one agent, by what they run. Closed together."""

    def __init__(self, guard: Guard | None = None, *, workers: int = 1) -> None:
        """Without a guard engines are neither proved nor watched: for who does that by himself.

        `workers` is how many threads will run engines at once: an engine for which no number of
        threads is asked for gets a share of the cores.
        """
        self.guard = guard
        self.workers = workers
        self._hosts: dict[Any, EngineHost] = {}
        self._refused: dict[Any, EngineError] = {}

    def get(
        self, bundle: Bundle, variant: Variant, *, engine: str, request: EngineRequest
    ) -> EngineHost:
        """The host for this variant on this engine, started if there is none yet."""
        request = fit(request, workers=self.workers)
        key = (
            bundle.identity,
            variant.name,
            engine,
            request.accelerator,
            accelerators.canonical(request.options),
            request.settings,
            request.slots,
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


def fit(request: EngineRequest, *, workers: int = 1) -> EngineRequest:
    """The request with numbers where it leaves threads and slots open, and never more of them
    together than there are cores.

    Threads are those asked for, or a share of the cores when so many `workers` run engines at once,
    at most 4. A device beside the cores has one slot unless more are asked for.
    """
    found = cores()
    threads = request.settings.threads
    if threads > found:
        log.info("%d threads were asked for: there are %d cores", threads, found)
    threads = min(threads, found) or min(_MOST_THREADS, max(1, found // workers))
    slots = request.slots or (found if request.on_cores else 1)
    settings = msgspec.structs.replace(request.settings, threads=threads)
    return dataclasses.replace(
        request, settings=settings, slots=max(1, min(slots, found // threads))
    )
