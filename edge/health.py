"""How the sources and the board are: what becomes of them is told by events, and heat slows work.

A worker of the agent. What pipelines noticed of their sources is committed from here, because a
source that is away gives no frames to commit anything with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from edge.board import Board
from edge.clock import Clock
from edge.config import DeviceConfig
from edge.heat import Heat, HeatStep
from edge.pipeline import Pipeline
from edge.wire import AlarmData, Event, event_of

_TICK_S = 0.25

log = logging.getLogger(__name__)


class Health:
    """Looks at all pipelines of a device, and at its board."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        board: Board,
        *,
        config: DeviceConfig,
        clock: Clock,
        append: Callable[[Event], bool],
    ) -> None:
        self._pipelines = pipelines
        self._board = board
        self._max_c = config.max_temperature_c
        self._heat = Heat(max_c=self._max_c, step_s=config.heat_step_s)
        self._every_s = min(1.0, config.heat_step_s)
        self._clock = clock
        self._append = append
        self._telling = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Until stopped."""
        heat_due_s = 0.0
        while not stop.wait(_TICK_S):
            self.tell()
            now_s = time.monotonic()
            if self._max_c and now_s >= heat_due_s:
                heat_due_s = now_s + self._every_s
                self._look_at_heat(now_s)
        self.tell()

    def tell(self) -> None:
        """Commit what pipelines have noticed of their sources."""
        with self._telling:
            for pipeline in self._pipelines:
                for event in pipeline.notices():
                    self._append(event)

    @property
    def pace(self) -> float:
        """The share of their usual frame rate at which pipelines run."""
        return self._heat.share

    @property
    def problem(self) -> str:
        """What a person should know of the heat; empty when all is well."""
        if self._heat.share >= 1:
            return ""
        return (
            f"board: at {self._board.temperature_c() or 0:.1f} °C, frame rates are held to"
            f" {self._heat.share:.0%}; device.max_temperature_c is {self._max_c:g}"
        )

    def _look_at_heat(self, now_s: float) -> None:
        step = self._heat.look(self._board.temperature_c(), now_s)
        if step is None:
            return
        for pipeline in self._pipelines:
            pipeline.pace.share = step.share
        alarm = self._alarm(step)
        log.warning("%s", alarm.detail)
        self._append(event_of(alarm, time=self._clock.now()))

    def _alarm(self, step: HeatStep) -> AlarmData:
        hotter = step.share < step.before
        what = "lowered" if hotter else "raised"
        if step.share >= 1:
            what = "back"
        return AlarmData(
            code="heat_slower" if hotter else "heat_faster" if step.share < 1 else "heat_over",
            detail=f"{step.temperature_c:.1f} °C: frame rates are {what} to {step.share:.0%}",
            facts={
                "temperature_c": step.temperature_c,
                "max_temperature_c": self._max_c,
                "pace": step.share,
            },
        )
