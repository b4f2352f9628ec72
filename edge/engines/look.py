"""A look of seconds at the candidates of an agent that has no tuning record.

Invariant: whatever is chosen has given its golden answers, and the bundle's own order stands unless
another candidate is clearly faster: a device does not change its mind for a few per cent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from edge import accelerators, seams
from edge.accelerators import EngineRequest
from edge.bundle import Bundle
from edge.engines.faults import golden_inputs, hold_to_original
from edge.engines.guard import Guard
from edge.engines.watch import Watch
from edge.errors import EngineError
from edge.manifest import Variant
from edge.tuning import Figures, spread
from edge.types import Array

LOOK_S = 2.0
MARGIN = 1.15
"""How much faster than an earlier one a later candidate must be to be preferred."""
_ROUNDS = 12
_BLOCK_S = 0.01

Candidate = tuple[Variant, str, EngineRequest]

log = logging.getLogger(__name__)


class _Runner:
    """One candidate that proved itself."""

    def __init__(
        self, bundle: Bundle, candidate: Candidate, engine: seams.Engine, watch: Watch
    ) -> None:
        self.candidate = candidate
        self.engine = engine
        self.watch = watch
        self.inputs: dict[str, Array] = golden_inputs(bundle, candidate[0])
        self.took_ms: list[float] = []

    def block(self, guard: Guard) -> None:
        with guard.inside(self.watch.mark):
            began = time.perf_counter()
            while time.perf_counter() - began < _BLOCK_S:
                start = time.perf_counter()
                self.engine.run(self.inputs)
                self.took_ms.append((time.perf_counter() - start) * 1e3)


def look(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    guard: Guard,
    *,
    accept: Callable[[seams.Engine], None],
) -> list[Figures]:
    """The candidates that are right, the one to take first; empty when none is.

    All are of one accelerator, in the bundle's order. They take turns for LOOK_S seconds in all,
    their proofs included: what is not proved by then is not looked at. `accept` raises EngineError
    for an engine that does not do.
    """
    deadline = time.monotonic() + LOOK_S
    runners: list[_Runner] = []
    try:
        for variant, name, request in candidates:
            if runners and time.monotonic() > deadline:
                log.info("no time to look at %s on %s", variant.name, name)
                break
            try:
                engine, watch = guard.admit(bundle, variant, name, request)
            except EngineError:
                continue  # whoever chooses tries it again, and tells
            runners.append(_Runner(bundle, (variant, name, request), engine, watch))
            try:
                accept(engine)
                hold_to_original(engine, bundle, variant)
            except EngineError:
                _close(runners.pop(), guard)
        for _ in range(_ROUNDS if len(runners) > 1 else 1):
            for runner in list(runners):
                _run(runner, runners, guard)
            if time.monotonic() > deadline:
                break
        return in_order([_figures(runner) for runner in runners])
    finally:
        for runner in runners:
            _close(runner, guard)


def in_order(found: Sequence[Figures]) -> list[Figures]:
    """The first that is not slower than the fastest by more than MARGIN, then the others."""
    if not found:
        return []
    least_ms = min(row.latency_ms.median for row in found)
    first = next(row for row in found if row.latency_ms.median <= least_ms * MARGIN)
    rest = [row for row in found if row is not first]
    return [first, *sorted(rest, key=lambda row: row.latency_ms.median)]


def _run(runner: _Runner, runners: list[_Runner], guard: Guard) -> None:
    """One turn; a candidate that fails in it is out."""
    try:
        runner.block(guard)
    except EngineError as error:
        log.warning("%s on %s fails: %s", runner.candidate[0].name, runner.engine.name, error)
        runners.remove(runner)
        _close(runner, guard)


def _close(runner: _Runner, guard: Guard) -> None:
    runner.engine.close()
    guard.forget(runner.watch)


def _figures(runner: _Runner) -> Figures:
    variant, name, request = runner.candidate
    took_ms = spread(runner.took_ms)
    return Figures(
        variant=variant.name,
        engine=name,
        accelerator=request.accelerator,
        options=accelerators.canonical(request.options),
        settings=request.settings,
        latency_ms=took_ms,
        frames_per_s=1e3 / max(took_ms.median, 1e-6),
    )
