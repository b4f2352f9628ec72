"""Engines that take turns in this process, and what one needs of memory in a process of its own."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge import accelerators, board, seams
from edge.bundle import Bundle, on_disk
from edge.engines import trial
from edge.engines.faults import EngineFault, golden_inputs, hold_to_original
from edge.engines.guard import Guard
from edge.engines.watch import Watch
from edge.errors import EngineError
from edge.tuner.candidates import Candidate
from edge.tuner.energy import Meter

_BLOCK_S = 0.03
SPIN_S = 0.08
"""How long threads that spin go on after a run, at the cost of whoever comes next; 0.06 s of
processor time were measured with ONNX Runtime 1.32."""
_METERED_S = 1.0
_SLOW_S = 0.2
_LEAST_RUNS = 3
_KEPT_RUNS = 100
_SHARE = 0.4
"""Of the free memory, for engines that wait for their turn."""
_LEAST_MB = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """One turn of `frames` runs: the times of at most a hundred of them.

    `ms_per_frame` is from the beginning of one run to that of the next, of all slots together: the
    middle one, since a core that is taken away for a moment is not the engine's doing.
    """

    took_ms: list[float]
    frames: int
    ms_per_frame: float
    joules: float | None


class _Open:
    """An engine with its twins, proved."""

    def __init__(self, bundle: Bundle, candidate: Candidate, guard: Guard) -> None:
        variant = bundle.manifest.variant(candidate.variant)
        before_mb = board.memory_mb()
        self._guard = guard
        self.slots: list[tuple[seams.Engine, Watch]] = []
        engine, watch = guard.admit(bundle, variant, candidate.engine, candidate.request)
        self.slots.append((engine, watch))
        try:
            hold_to_original(engine, bundle, variant)
            for _ in range(candidate.slots - 1):
                self.slots.append(guard.admit_twin(engine, watch, bundle, variant))
        except BaseException:
            self.close()
            raise
        self.size_mb = max(_LEAST_MB, board.memory_mb() - before_mb)

    def close(self) -> None:
        for engine, watch in self.slots:
            engine.close()
            self._guard.forget(watch)


class Bench:
    """Runs candidates by turns. Engines stay open between turns as far as memory allows."""

    def __init__(self, bundle: Bundle, guard: Guard, *, meter: Meter | None = None) -> None:
        self._bundle, self._guard, self._meter = bundle, guard, meter
        self._open: collections.OrderedDict[Candidate, _Open] = collections.OrderedDict()
        self._inputs = {
            variant.name: golden_inputs(bundle, variant) for variant in bundle.manifest.variants
        }
        self.blocks: dict[Candidate, list[Block]] = collections.defaultdict(list)
        self.kept: Candidate | None = None
        """The yardstick, which stays open."""

    def admit(self, candidate: Candidate) -> None:
        """Prove it. EngineError, with the reason, for one that does not do."""
        self._get(candidate)

    def yardstick_ms(self) -> float:
        """The time of one run of the candidate that is kept."""
        assert self.kept is not None
        return statistics.median(self._block(self.kept, None).took_ms)

    def turn(self, candidate: Candidate) -> Block:
        """One block of runs, after one that does not count. EngineError when the engine fails."""
        block = self._block(candidate, self._meter)
        self.blocks[candidate].append(block)
        return block

    def _block(self, candidate: Candidate, meter: Meter | None) -> Block:
        opened = self._get(candidate)
        least_s = _METERED_S if meter else _BLOCK_S
        inputs = self._inputs[candidate.variant]
        warm_s = _timed(lambda: opened.slots[0][0].run(inputs))
        took: list[list[float]] = [[] for _ in opened.slots]
        starts: list[list[float]] = [[] for _ in opened.slots]
        if meter:
            meter.start()
        began = time.perf_counter()

        def work(place: int) -> None:
            engine, watch = opened.slots[place]
            with self._watched(watch, first=place == 0):
                least = 1 if warm_s > _SLOW_S else _LEAST_RUNS
                while len(took[place]) < least or time.perf_counter() - began < least_s:
                    start = time.perf_counter()
                    engine.run(inputs)
                    took[place].append((time.perf_counter() - start) * 1e3)
                    starts[place].append(start)
                starts[place].append(time.perf_counter())

        _all_at_once(len(opened.slots), work)
        joules = meter.stop() if meter else None
        if candidate.settings.spinning:
            time.sleep(SPIN_S)
        every = [value for part in took for value in part]
        step = -(-len(every) // _KEPT_RUNS)
        cycles = [(b - a) * 1e3 for part in starts for a, b in itertools.pairwise(part)]
        per_frame_ms = statistics.median(cycles) / len(opened.slots)
        return Block(every[::step], len(every), per_frame_ms, joules)

    def close(self) -> None:
        """Free all engines."""
        while self._open:
            self._open.popitem()[1].close()

    @contextmanager
    def _watched(self, watch: Watch, *, first: bool) -> Iterator[None]:
        """A crash or a hang within is told to the next start; one timer does for all slots."""
        if first:
            with self._guard.inside(watch.mark):
                yield
            return
        watch.enter()
        try:
            yield
        finally:
            watch.leave()

    def _get(self, candidate: Candidate) -> _Open:
        if candidate not in self._open:
            self._make_room()
            try:
                self._open[candidate] = _Open(self._bundle, candidate, self._guard)
            except EngineFault as fault:
                raise EngineError(f"{fault.kind}: {fault.detail}") from fault
        self._open.move_to_end(candidate)
        return self._open[candidate]

    def _make_room(self) -> None:
        """Close whoever has waited longest, when those that wait take too much."""
        free_mb = _free_mb()
        while self._open:
            held_mb = sum(opened.size_mb for opened in self._open.values())
            if held_mb <= _SHARE * (free_mb + held_mb):
                return
            oldest = next((one for one in self._open if one != self.kept), None)
            if oldest is None:
                return
            self._open.pop(oldest).close()


def resident_mb(bundle: Bundle, candidate: Candidate, *, deadline_s: float) -> float:
    """What a process that runs this candidate and nothing else keeps in memory (10^6 bytes).

    EngineError when it cannot be had there.
    """
    with on_disk(bundle) as path:
        answer = trial.try_engine(
            trial.Request(
                bundle=str(path),
                variant=candidate.variant,
                engine=candidate.engine,
                accelerator=candidate.accelerator,
                options=accelerators.canonical(candidate.request.options),
                settings=candidate.settings,
                slots=candidate.slots,
                max_latency_ms=0,
            ),
            deadline_s=deadline_s,
        )
    return answer.rss_mb


def same_memory(candidate: Candidate) -> Candidate:
    """Candidates for which this is the same need the same memory: spinning takes none."""
    settings = msgspec.structs.replace(candidate.settings, spinning=False)
    return dataclasses.replace(candidate, settings=settings)


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _all_at_once(count: int, work: Callable[[int], None]) -> None:
    """Run it in so many threads; the first error of one of them is raised here."""
    if count == 1:
        work(0)
        return
    errors: list[BaseException] = []

    def guarded(place: int) -> None:
        try:
            work(place)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(place,), daemon=True) for place in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _free_mb(meminfo: Path = Path("/proc/meminfo")) -> float:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return 512.0
