"""One tuning: from a bundle, through proofs and laps, to a record.

Invariant: only what gave its golden answers here, and keeps the bounds that were asked for, is ever
ranked; who fails on the way is named with the reason.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge import tuning
from edge.accelerators import AUTO, EngineRequest
from edge.bundle import Bundle
from edge.cores import cores
from edge.engines.guard import Guard
from edge.errors import ConfigError, EngineError
from edge.tuner.candidates import Candidate, accuracy_drop, grid
from edge.tuner.conditions import Conditions
from edge.tuner.energy import Meter
from edge.tuner.measuring import Bench, Block, resident_mb, same_memory
from edge.tuner.search import Found, Search, Standing
from edge.tuning import Figures, Objective, Record, spread
from edge.wire import wall_text

_EPSILON = 1e-9
_SAME_MEMORY = 1.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for, and how long. Bounds of None are none; `streams` matter for throughput
    alone."""

    objective: Objective = "latency"
    max_accuracy_drop: float | None = None
    max_rss_mb: float | None = None
    streams: int = 1
    budget_s: float = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a tuning is: `detail` in words, and the standings once there are laps."""

    phase: str
    detail: str
    standings: Sequence[Standing[Candidate]] = ()
    spent_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The record, unless too little was measured for one; the best so far, however little."""

    record: Record | None
    best: Standing[Candidate] | None
    interrupted: bool
    laps: int
    repeated: int


def tune(
    bundle: Bundle,
    guard: Guard,
    wanted: Wanted,
    *,
    requests: Iterable[EngineRequest] = (EngineRequest(accelerator=AUTO, policy="any"),),
    variants: Iterable[str] = (),
    meter: Meter | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Measure what `requests` allow of the named variants (none: of all).

    Nothing is written but the quarantine. EngineError when nothing is right here; ConfigError when
    the bounds leave nothing.
    """
    session = _Session(bundle, guard, wanted, meter, tell)
    try:
        return session.run(list(requests), set(variants))
    finally:
        session.bench.close()


class _Session:
    def __init__(
        self,
        bundle: Bundle,
        guard: Guard,
        wanted: Wanted,
        meter: Meter | None,
        tell: Callable[[Progress], None],
    ) -> None:
        self._bundle, self._guard, self._wanted, self._tell = bundle, guard, wanted, tell
        self.bench = Bench(bundle, guard, meter=meter)
        self._metered = meter is not None
        self._conditions = Conditions()
        self._refused: dict[str, str] = {}
        self._memory: dict[Candidate, float] = {}
        self._drops = {
            variant.name: accuracy_drop(bundle.manifest, variant)
            for variant in bundle.manifest.variants
        }

    def run(self, requests: list[EngineRequest], names: set[str]) -> Result:
        listed = [v for v in self._bundle.manifest.variants if not names or v.name in names]
        allowed = [v for v in listed if self._exact_enough(v.name)]
        if not allowed:
            raise ConfigError(f"{self._bundle.path}: {self._reasons()}")
        streams = self._wanted.streams if self._wanted.objective == "throughput" else 1
        every = grid(allowed, requests, cores=cores(), streams=streams)
        right = self._right(every)
        if not right:
            raise EngineError(f"{self._bundle.path}: nothing runs right here: {self._reasons()}")
        fitting = self._fitting(right)
        if not fitting:
            raise ConfigError(f"{self._bundle.path}: {self._reasons()}")
        self.bench.kept = fitting[0]
        search = Search(
            fitting,
            measure=lambda candidate: self._cost(self.bench.turn(candidate)),
            yardstick=self.bench.yardstick_ms,
            budget_s=self._wanted.budget_s,
            tell=self._tell_search,
            relative=not self._metered,
        )
        found = search.run()
        for candidate, reason in found.refused.items():
            self._refused[str(candidate)] = reason
        record = self._record(found) if found.enough else None
        return Result(
            record=record,
            best=found.ranking[0] if found.ranking else None,
            interrupted=found.interrupted,
            laps=found.laps,
            repeated=search.repeated,
        )

    # ---- who may take part

    def _exact_enough(self, variant: str) -> bool:
        most, drop = self._wanted.max_accuracy_drop, self._drops[variant]
        if most is None:
            return True
        if drop is None:
            self._refused[variant] = "its accuracy was never measured, and --max-accuracy-drop asks"
        elif drop > most + _EPSILON:
            self._refused[variant] = f"loses {drop:.4g} of accuracy, at most {most:.4g} allowed"
        return variant not in self._refused

    def _right(self, every: Sequence[Candidate]) -> list[Candidate]:
        """Those that prove themselves. Where the plainest settings fail, no other is tried."""
        right: list[Candidate] = []
        failed: set[tuple[str, str, str]] = set()
        succeeded: set[tuple[str, str, str]] = set()
        for number, candidate in enumerate(every, 1):
            way = (candidate.variant, candidate.engine, candidate.accelerator)
            if way in failed:
                continue
            self._tell(Progress(phase="prove", detail=f"{number} of {len(every)}: {candidate}"))
            try:
                self.bench.admit(candidate)
            except EngineError as error:
                if way in succeeded:
                    self._refused[str(candidate)] = str(error)
                else:
                    failed.add(way)
                    self._refused["{} on {}:{}".format(*way)] = str(error)
                continue
            succeeded.add(way)
            right.append(candidate)
        return right

    def _fitting(self, right: Sequence[Candidate]) -> list[Candidate]:
        """Those that keep the bound of memory; for the objective memory those that need least."""
        most = self._wanted.max_rss_mb
        if most is None and self._wanted.objective != "memory":
            return list(right)
        fitting = []
        for candidate in right:
            needed = self._resident_mb(candidate)
            if needed is None:
                continue
            if most is not None and needed > most:
                self._refused[str(candidate)] = f"needs {needed:.0f} MB, at most {most:g} allowed"
            else:
                fitting.append(candidate)
        if self._wanted.objective == "memory" and fitting:
            least = min(self._memory[same_memory(one)] for one in fitting)
            fitting = [
                one for one in fitting if self._memory[same_memory(one)] <= least * _SAME_MEMORY
            ]
        return fitting

    def _resident_mb(self, candidate: Candidate) -> float | None:
        alike = same_memory(candidate)
        if alike not in self._memory:
            self._tell(Progress(phase="memory", detail=str(candidate)))
            try:
                self._memory[alike] = resident_mb(
                    self._bundle, alike, deadline_s=self._guard.trial_s
                )
            except EngineError as error:
                self._refused[str(candidate)] = f"in a process of its own: {error}"
        return self._memory.get(alike)

    # ---- the laps

    def _cost(self, block: Block) -> float:
        if self._wanted.objective == "throughput":
            return block.ms_per_frame
        if self._wanted.objective == "energy" and block.joules is not None:
            return block.joules * 1e3 / block.frames
        return statistics.median(block.took_ms)

    def _tell_search(self, search: Search[Candidate]) -> None:
        detail = f"lap {search.laps}, {len(search.alive)} left"
        if search.repeated:
            detail += f", {search.repeated} laps repeated"
        self._tell(
            Progress(
                phase="measure",
                detail=detail,
                standings=search.standings(),
                spent_s=search.spent_s,
            )
        )

    # ---- what is written

    def _record(self, found: Found[Candidate]) -> Record:
        best: dict[tuple[str, str, str], Candidate] = {}
        for standing in found.ranking:
            one = standing.candidate
            best.setdefault((one.variant, one.engine, one.accelerator), one)
        try:
            for candidate in best.values():
                self._resident_mb(candidate)
        except KeyboardInterrupt:
            pass  # the front is then told without the memory of some
        ranking = tuple(self._figures(standing.candidate) for standing in found.ranking)
        wanted = self._wanted
        return Record(
            key=tuning.current_key(self._bundle.identity, {row.engine for row in ranking}),
            objective=wanted.objective,
            wall=wall_text(time.time_ns()),
            streams=wanted.streams,
            max_accuracy_drop=wanted.max_accuracy_drop,
            max_rss_mb=wanted.max_rss_mb,
            ranking=ranking,
            noisy="; ".join(filter(None, [found.noisy, *self._conditions.notes()])),
            refused=self._refused,
        )

    def _figures(self, candidate: Candidate) -> Figures:
        blocks = self.bench.blocks[candidate]
        per_frame_ms = statistics.median(block.ms_per_frame for block in blocks)
        joules = [block.joules * 1e3 / block.frames for block in blocks if block.joules is not None]
        return Figures(
            variant=candidate.variant,
            engine=candidate.engine,
            accelerator=candidate.accelerator,
            options=candidate.options,
            settings=candidate.settings,
            slots=candidate.slots,
            latency_ms=spread([value for block in blocks for value in block.took_ms]),
            frames_per_s=round(1e3 / per_frame_ms, 2),
            accuracy_drop=self._drops[candidate.variant],
            rss_mb=self._memory.get(same_memory(candidate)),
            energy_mj=round(statistics.median(joules), 4) if joules else None,
        )

    def _reasons(self) -> str:
        return "; ".join(f"{what}: {why}" for what, why in self._refused.items()) or "no variant"


def keep(state_dir: Path, record: Record) -> Path:
    """Write a record. ConfigError when the folder cannot be written."""
    try:
        return tuning.write(state_dir, record)
    except OSError as error:
        raise ConfigError(f"{state_dir}: cannot be written: {error.strerror}") from error
