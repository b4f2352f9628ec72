"""The rule `reading`: detected digits -> what a counter shows, and whether that can be true."""

from __future__ import annotations

import msgspec
import numpy as np

from edge.errors import ConfigError
from edge.types import Array, Detections, Outcome, Reading


class ReadingRule:
    """Assembles the digits of the main row from left to right and checks them against the past.

    A wheel between two digits, a missing digit or an unsure one makes the frame unreadable: no
    outcome, rather than a guess.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`digits` of the counter (0: any number), the last `decimals` of them behind the point.

        `between` is the label of a wheel between two digits; digits below `min_score` are not
        seen. A reading that runs backwards, or rises by more than `max_rise` since the last
        plausible one (0: no bound), is reported as not plausible; after `accept_after` readings in
        a row that agree with one another it is believed (the meter was changed).
        """

        digits: int = 0
        decimals: int = 0
        min_score: float = 0.0
        between: str = "between"
        max_rise: float = 0.0
        accept_after: int = 20

        def __post_init__(self) -> None:
            if self.digits < 0 or self.decimals < 0 or self.accept_after < 1:
                raise ValueError("digits and decimals must be 0 or more, accept_after 1 or more")

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        if not set("0123456789") <= set(labels):
            raise ConfigError("reading: the model must have the labels 0 to 9")
        self._config = config
        self._last: float | None = None
        self._doubted: list[float] = []

    def __call__(self, outcome: Outcome, mono_ns: int) -> Reading | None:
        """A reading from detections; None when the frame cannot be read."""
        if not isinstance(outcome, Detections):
            raise ConfigError("reading: only detections can be read")
        row = main_row(outcome[outcome.scores >= self._config.min_score])
        value = "".join(row.names)
        wrong_count = len(row) != self._config.digits if self._config.digits else not len(row)
        if wrong_count or self._config.between in row.names or not value.isdecimal():
            return None
        number = int(value) / 10**self._config.decimals
        reason = self._doubt(number)
        return Reading(
            value=value,
            number=number,
            confidence=float(row.scores.min()),
            plausible=not reason,
            reason=reason,
        )

    def _doubt(self, number: float) -> str:
        """Why this cannot be true after what was read before; empty when it can."""
        reason = ""
        if self._last is not None and number < self._last:
            reason = f"runs backwards: {number:g} after {self._last:g}"
        elif self._last is not None and 0 < self._config.max_rise < number - self._last:
            reason = f"rises by {number - self._last:g}, more than {self._config.max_rise:g}"
        if not reason:
            self._last, self._doubted = number, []
            return ""
        agrees = not self._doubted or number >= self._doubted[-1]
        self._doubted = [*self._doubted, number] if agrees else [number]
        if len(self._doubted) >= self._config.accept_after:
            self._last, self._doubted = number, []
            return ""
        return reason


def main_row(found: Detections) -> Detections:
    """The longest row of boxes, from left to right.

    A box belongs to the row of another when its centre lies within half of that one's height.
    """
    if not len(found):
        return found
    centre_y = (found.boxes[:, 1] + found.boxes[:, 3]) / 2
    heights = found.boxes[:, 3] - found.boxes[:, 1]
    same: Array = np.abs(centre_y[None, :] - centre_y[:, None]) <= heights[:, None] / 2
    row = found[same[same.sum(axis=1).argmax()]]
    return row[np.argsort(row.boxes[:, 0], kind="stable")]
