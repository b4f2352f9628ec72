"""One engine at work: what it gives is looked at, and a doubt is settled by its golden cases.

Invariant: an engine is accused only when it fails a golden case that it has passed before. What
the model itself makes of an odd input is an alarm, not a verdict.
"""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from edge.engines.faults import EngineFault
from edge.engines.marks import INSIDE, Mark, Runs
from edge.engines.quarantine import Suspect
from edge.errors import EngineError, FrameError
from edge.finite import all_finite
from edge.types import Array

STILL_FRAMES = 100
_RECENT = 50
_SAMPLES = 64

Alarm = Callable[[str, str], None]
"""Reports a code and a detail."""


class Watch:
    """Told of every run of one engine, before and after, by the thread that runs it."""

    def __init__(
        self,
        suspect: Suspect,
        *,
        mark: Mark | None,
        prove: Callable[[], object],
        alarm: Alarm,
        max_latency_ms: float = 0.0,
    ) -> None:
        """`prove` runs the golden cases and raises EngineFault."""
        self.suspect = suspect
        self.not_finite = self.still = self.over_time = 0
        self.mark = mark
        self.runs = mark or Runs()
        self.enter, self.leave = self.runs.enter, self.runs.leave
        self._prove = prove
        self._alarm = alarm
        self._max_latency_ms = max_latency_ms
        self._recent_ms: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._answer: list[Any] = []
        self._given: list[Any] | None = None
        self._same = 0

    @property
    def entered_ns(self) -> int:
        """The moment at which the run under way began; 0 when there is none."""
        return int(self.runs.words[INSIDE])

    def look(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], took_ms: float
    ) -> None:
        """Look at one answer. FrameError when it is not finite; EngineFault for a bad engine."""
        if self._max_latency_ms:
            self._look_at_time(took_ms)
        answer, finite = [], True
        for array in outputs.values():
            some = _some(array)
            answer += some
            # Where the sample is the whole of it, its sum tells.
            if array.dtype.kind == "f" and not (
                len(some) == array.size and math.isfinite(sum(some))
            ):
                finite = finite and all_finite(array)
        if answer == self._answer:
            self._look_whether_it_moves(inputs)
        else:
            self._answer, self._given, self._same = answer, None, 0
        if not finite:
            self.not_finite += 1
            self._settle("an output is NaN or infinite")
            self._alarm(
                "engine_not_finite",
                f"{self.suspect.name}: an output of {self.suspect.model.name} is NaN or infinite"
                " though the engine gives its golden answers: the model made it of this input",
            )
            raise FrameError("the model's output is not finite")

    def failed(self, error: EngineError) -> EngineError:
        """What an error in the middle of work means: an accelerator that fails is at fault."""
        if not self.suspect.risky or isinstance(error, EngineFault):
            return error
        return EngineFault("error", str(error))

    def _look_at_time(self, took_ms: float) -> None:
        self.over_time += took_ms > self._max_latency_ms
        self._recent_ms.append(took_ms)
        if len(self._recent_ms) == _RECENT and self.over_time:
            median_ms = statistics.median(self._recent_ms)
            if median_ms > self._max_latency_ms:
                self._alarm(
                    "engine_slow",
                    f"{self.suspect.name}: half of the last {_RECENT} inferences took more than"
                    f" {median_ms:.1f} ms where {self._max_latency_ms:g} are allowed",
                )

    def _look_whether_it_moves(self, inputs: Mapping[str, Array]) -> None:
        """Only the answer that was given before raises the question of what it was given to."""
        given = [_some(array) for array in inputs.values()]
        self._same += self._given is not None and given != self._given
        self._given = given
        if self._same >= STILL_FRAMES:
            self._same = 0
            self.still += 1
            self._settle(f"the output stood still over {STILL_FRAMES} inputs that did not")

    def _settle(self, doubt: str) -> None:
        """The golden cases decide; what they cost in time is not the frame's."""
        self.enter()
        try:
            self._prove()
        except EngineFault as fault:
            if fault.kind == "slow":
                return
            raise EngineFault(
                "not_finite" if self.not_finite else fault.kind, f"{doubt}, and {fault.detail}"
            ) from fault
        finally:
            self.leave()


def _some(array: Array) -> list[Any]:
    """Some of its values, or all of a few: enough to see whether anything moves."""
    step = array.size // _SAMPLES
    flat = array.ravel()
    values: list[Any] = (flat[::step] if step > 1 else flat).tolist()
    return values
