"""Successive halving: every survivor takes its turn in a lap, and the slower half goes.

Invariant: candidates are compared by laps that they shared, each held against the yardstick of that
lap, so that a machine that changes its speed changes it for all. Nothing that was measured is lost
when somebody interrupts.

After Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (2016), with the spread of the medians as the reason to keep one longer.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from edge.errors import EngineError

DRIFT = 0.15
"""How far the yardstick may move within a lap, or from lap to lap."""
TIE = (0.01, 0.04)
"""Within this share of the best the earlier candidate is taken: the plainer one. It is the standard
error of the best's median, in these bounds."""
HOPELESS = (10.0, 3.0)
"""So many times slower than the best after one lap, and after two, is out at once."""
_LAPS = 3
_FINAL = 3
_FINAL_LAPS = 12
_REPEATS = 3

C = TypeVar("C", bound=Hashable)


@dataclasses.dataclass(frozen=True, slots=True)
class Standing(Generic[C]):
    """One candidate: its cost (the median of its laps), its quartiles, and whether it is still
    in."""

    candidate: C
    cost: float
    low: float
    high: float
    laps: int
    alive: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Found(Generic[C]):
    """`ranking` has the best first. `noisy` is the reason not to trust it too far, or empty;
    `enough` whether it may be used at all; `refused` holds reasons by candidate."""

    ranking: list[Standing[C]]
    refused: dict[C, str]
    noisy: str
    enough: bool
    interrupted: bool
    laps: int


class Search(Generic[C]):
    """`measure` gives the cost of one turn of a candidate, lower being better, or EngineError;
    `yardstick` that of something that never changes. The candidates come in the order in which
    they are preferred when there is nothing between them."""

    def __init__(
        self,
        candidates: Sequence[C],
        *,
        measure: Callable[[C], float],
        yardstick: Callable[[], float],
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[Search[C]], None] = lambda search: None,
        relative: bool = True,
    ) -> None:
        """With `relative` a cost is in proportion to the yardstick's, as times are."""
        self.alive = list(candidates)
        self._order = {candidate: place for place, candidate in enumerate(candidates)}
        self._measure, self._yardstick, self._tell = measure, yardstick, tell
        self._clock, self._relative = clock, relative
        self.budget_s = budget_s
        self._began_s = clock()
        self._turns: dict[C, list[tuple[float, float]]] = {one: [] for one in candidates}
        self._partial: dict[C, float] = {}
        self._dropped: list[C] = []
        self.refused: dict[C, str] = {}
        self._levels: list[float] = []
        self.laps = self.repeated = 0
        self._unsteady = 0
        self._shifts: list[float] = []

    def run(self) -> Found[C]:
        """To the end, or to KeyboardInterrupt."""
        interrupted = False
        try:
            self._rounds()
        except KeyboardInterrupt:
            interrupted = True
            if not self.laps and self._partial:
                self._levels.append(1.0)
                self._turns |= {one: [(cost, 1.0)] for one, cost in self._partial.items()}
        return self._found(interrupted)

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began_s

    def standings(self) -> list[Standing[C]]:
        """The survivors by cost, then those that went, the last to go first."""
        alive = [self._standing(one, True) for one in self.alive if self._turns[one]]
        gone = [self._standing(one, False) for one in reversed(self._dropped)]
        return [*sorted(alive, key=lambda standing: standing.cost), *gone]

    # ---- rounds

    def _rounds(self) -> None:
        while self.alive:
            last = len(self.alive) <= _FINAL
            for _ in range(_FINAL_LAPS if last else _LAPS):
                if self._over or not self.alive:
                    return
                self._lap()
                if self.laps <= len(HOPELESS):
                    self._drop_hopeless(HOPELESS[self.laps - 1])
            if last:
                return
            if len(self.alive) > _FINAL:
                self._halve()

    @property
    def _over(self) -> bool:
        return self.spent_s > self.budget_s and self.laps >= 2

    def _lap(self) -> None:
        """All survivors once; again when the yardstick moved meanwhile, but not for ever.

        A speed that comes twice in a row is the machine's new one.
        """
        usual = self._levels[-1] if self._levels else None
        for attempt in range(_REPEATS):
            turns, first, second = self._turn_all()
            level = (first + second) / 2
            shift = max(_apart(first, second), _apart(level, usual or level))
            steady = shift <= DRIFT
            if steady or attempt == _REPEATS - 1 or self.spent_s > self.budget_s:
                break
            self._shifts.append(shift)
            self.repeated += 1
            if _apart(first, second) <= DRIFT:
                usual = level
        if not steady:
            self._shifts.append(shift)
            self._unsteady += 1
        self._levels.append(level)
        for candidate, cost in turns.items():
            self._turns[candidate].append((cost, level))
        self.laps += 1
        self._tell(self)

    def _turn_all(self) -> tuple[dict[C, float], float, float]:
        turns: dict[C, float] = {}
        self._partial = turns
        first = self._yardstick()
        # Another one begins each time: who comes first is at no advantage.
        shift = self.laps % max(1, len(self.alive))
        for candidate in [*self.alive[shift:], *self.alive[:shift]]:
            try:
                turns[candidate] = self._measure(candidate)
            except EngineError as error:
                self.refused[candidate] = str(error)
                self.alive.remove(candidate)
                self._turns[candidate].clear()
        return turns, first, self._yardstick()

    def _drop_hopeless(self, factor: float) -> None:
        """Each by its best lap: one bad turn is nobody's fault."""
        costs = {one: min(cost for cost, _ in self._turns[one]) for one in self.alive}
        best = min(costs.values(), default=0.0)
        self._drop([one for one in self.alive if costs[one] > factor * best])

    def _halve(self) -> None:
        """Drop the slower half, but for those that cannot be told from the last that stays."""
        standings = [one for one in self.standings() if one.alive]
        half = math.ceil(len(standings) / 2)
        bound = standings[half - 1].high
        near = sum(one.low <= bound for one in standings[half:])
        keep = min(half + near, math.ceil(len(standings) * 3 / 4), len(standings) - 1)
        self._drop([one.candidate for one in standings[keep:]])

    def _drop(self, slow: list[C]) -> None:
        worst_first = sorted(slow, key=lambda one: -self._standing(one, True).cost)
        self._dropped += worst_first
        self.alive = [one for one in self.alive if one not in set(slow)]

    # ---- what came of it

    def _standing(self, candidate: C, alive: bool) -> Standing[C]:
        level = statistics.median(self._levels)
        costs = [
            cost / at * level if self._relative and at > 0 else cost
            for cost, at in self._turns[candidate]
        ]
        middle = statistics.median(costs)
        if len(costs) > 1:
            low, _, high = statistics.quantiles(costs, n=4, method="inclusive")
        else:
            low = high = middle
        return Standing(candidate, middle, low, high, len(costs), alive)

    def _found(self, interrupted: bool) -> Found[C]:
        ranking = self.standings()
        alive = [one for one in ranking if one.alive]
        if alive:
            best = min(alive, key=lambda one: one.cost)
            tied = [one for one in alive if one.cost <= best.cost * (1 + _tie(best))]
            first = min(tied, key=lambda one: self._order[one.candidate])
            ranking = [first, *(one for one in ranking if one is not first)]
        enough = bool(alive) and self.laps >= 2 and all(one.laps >= 2 for one in alive)
        return Found(ranking, self.refused, self._noise(), enough, interrupted, self.laps)

    def _noise(self) -> str:
        """Why not to trust it too far: more than a quarter of the laps was unsteady in the end, or
        more than half at first; or the machine has another speed for good."""
        if self._unsteady * 4 > self.laps or self.repeated * 2 > self.laps:
            return (
                f"the machine changed its speed by up to {max(self._shifts):.0%}: of {self.laps}"
                f" laps {self.repeated} were repeated, and {self._unsteady} are unsteady all the"
                " same"
            )
        if not self._levels:
            return ""
        part = max(1, len(self._levels) // 4)
        began, ended = (
            statistics.median(levels) for levels in (self._levels[:part], self._levels[-part:])
        )
        if _apart(began, ended) > DRIFT:
            word = "slower" if ended > began else "faster"
            return f"the machine ended {_apart(began, ended):.0%} {word} than it began"
        return ""


def _tie(best: Standing[C]) -> float:
    """The standard error of a median is 1.25 sigma / sqrt(n), and sigma is the quartiles' distance
    over 1.35 where the noise is normal; as a share."""
    error = 0.93 * (best.high - best.low) / math.sqrt(best.laps) / max(best.cost, 1e-12)
    return min(max(error, TIE[0]), TIE[1])


def _apart(one: float, other: float) -> float:
    """The difference as a share of the smaller."""
    return abs(one - other) / max(min(one, other), 1e-12)
