"""How fast a device may work, by how hot it is: step by step, before the kernel throttles. Pure.

Invariant: one step at a time, and none sooner than a step's effect can show in the temperature.
"""

from __future__ import annotations

import dataclasses

STEPS = (1.0, 0.75, 0.55, 0.4, 0.25, 0.15)
"""The shares of the usual frame rate; the last one is the least."""
_COOL_C = 5.0
_LONGER_UP = 3
_MOST_WAIT = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeatStep:
    """The share of the usual frame rate from now on, and the temperature that made it so."""

    share: float
    before: float
    temperature_c: float


class Heat:
    """Above `max_c` one step down every `step_s`; 5 degrees below it one step up every three times
    `step_s`. A step up that had to be taken back is tried again after twice the time."""

    def __init__(self, *, max_c: float, step_s: float) -> None:
        self._max_c = max_c
        self._step_s = step_s
        self._step = 0
        self._moved_s: float | None = None
        self._cool_since_s: float | None = None
        self._wait = _LONGER_UP
        self._went_up = False

    @property
    def share(self) -> float:
        """The share of the usual frame rate, 0..1."""
        return STEPS[self._step]

    def look(self, temperature_c: float | None, now_s: float) -> HeatStep | None:
        """The step that this temperature asks for; None for none. A temperature that cannot be
        read changes nothing."""
        if temperature_c is None:
            return None
        if temperature_c > self._max_c - _COOL_C:
            self._cool_since_s = None
        elif self._cool_since_s is None:
            self._cool_since_s = now_s
        since_s = self._step_s if self._moved_s is None else now_s - self._moved_s
        if temperature_c > self._max_c:
            if self._step == len(STEPS) - 1 or since_s < self._step_s:
                return None
            if self._went_up:
                self._wait = min(self._wait * 2, _MOST_WAIT)
            return self._move(1, temperature_c, now_s)
        if self._step == 0 or self._cool_since_s is None:
            return None
        if min(since_s, now_s - self._cool_since_s) < self._wait * self._step_s:
            return None
        return self._move(-1, temperature_c, now_s)

    def _move(self, by: int, temperature_c: float, now_s: float) -> HeatStep:
        before = self.share
        self._step += by
        self._moved_s, self._cool_since_s, self._went_up = now_s, None, by < 0
        if self._step == 0:
            self._wait = _LONGER_UP
        return HeatStep(share=self.share, before=before, temperature_c=temperature_c)
