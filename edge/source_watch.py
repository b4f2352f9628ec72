"""Losses and recoveries of one source, noticed by its `state` alone. Pure; time is passed in.

Invariant: `lost` and `recovered` are told by turns. The first loss is told at once; what a source
that flaps loses after that is told in one pair every `quiet_s`, with the count of losses.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import NamedTuple

from edge.conditions import SourceData
from edge.wire import SourceState

Size = tuple[int, int]
_FRAME_S = 2.0
"""How long a recovery waits for its first frame, which shows whether the size has changed."""


class Moment(NamedTuple):
    """Monotonic and wall time in nanoseconds."""

    mono_ns: int
    wall_ns: int


@dataclasses.dataclass(slots=True)
class _Outage:
    began: Moment
    detail: str
    size: Size | None
    losses: int = 1
    lost_ns: int = 0
    down_ns: int | None = None
    back: Moment | None = None
    back_detail: str = ""
    frame: bool = False
    told: bool = False


class SourceWatch:
    """Is shown the state of a source often, by any thread; tells what became of it.

    A source that is still `starting` after `starting_s` counts as lost from the beginning.
    """

    def __init__(self, *, starting_s: float = 10.0, quiet_s: float = 10.0) -> None:
        self._starting_ns = round(starting_s * 1e9)
        self._quiet_ns = round(quiet_s * 1e9)
        self._lock = threading.Lock()
        self._began: Moment | None = None
        self._losses = 0
        self._running: SourceState | None = None
        self._down = False
        self._not_counted = False
        self._outage: _Outage | None = None
        self._quiet_until_ns = 0
        self._size: Size | None = None

    def settled(self, state: SourceState, size: Size | None) -> bool:
        """Whether a look would tell nothing new, as with nearly every frame."""
        same = size is None or size == self._size
        return same and self._outage is None and state == self._running

    def look(
        self, state: SourceState, now: Moment, *, frame: bool = False, size: Size | None = None
    ) -> None:
        """The state now; whether a frame came with it, and the size of one that is a picture."""
        with self._lock:
            self._look(state, now)
            self._size = size or self._size
            if frame and self._outage is not None and not self._down:
                self._outage.frame = True

    def _look(self, state: SourceState, now: Moment) -> None:
        self._began = self._began or now
        late = now.mono_ns - self._began.mono_ns >= self._starting_ns
        down = state.state == "lost" or (state.state == "starting" and late)
        counted, self._losses = max(0, state.losses - self._losses), state.losses
        if counted and self._not_counted:
            counted, self._not_counted = counted - 1, False
        if down and not self._down:
            self._not_counted = state.state == "starting"
            began = self._began if self._not_counted else now
            self._lost(began, state.detail, losses=max(1, counted))
        elif down and counted:  # it was back between two looks, and was lost again
            self._more(counted)
        elif not down and self._down:
            self._recovered(now, state.detail)
            self._more(counted)
        elif counted:  # it was lost and came back between two looks
            self._lost(now, state.detail, losses=counted)
            self._recovered(now, state.detail)
        self._down = down
        self._running = state if state.state == "running" else None

    def _lost(self, began: Moment, detail: str, *, losses: int) -> None:
        if self._outage is None:
            self._outage = _Outage(began, detail, self._size, losses=losses)
        else:
            self._outage.losses += losses
        self._outage.down_ns, self._outage.back = began.mono_ns, None
        self._outage.frame = False

    def _more(self, losses: int) -> None:
        if self._outage is not None:
            self._outage.losses += losses

    def _recovered(self, now: Moment, detail: str) -> None:
        outage = self._outage
        if outage is None or outage.down_ns is None:
            return
        outage.lost_ns += now.mono_ns - outage.down_ns
        outage.down_ns, outage.back, outage.back_detail = None, now, detail

    def take(self, mono_ns: int) -> list[tuple[SourceData, Moment]]:
        """What has to be told by now, with the moment at which it happened."""
        with self._lock:
            outage = self._outage
            told: list[tuple[SourceData, Moment]] = []
            if outage is None:
                return told
            if not outage.told and mono_ns >= self._quiet_until_ns:
                outage.told, self._quiet_until_ns = True, mono_ns + self._quiet_ns
                lost = SourceData(state="lost", detail=outage.detail, losses=outage.losses)
                told.append((lost, outage.began))
            back = outage.back
            if not outage.told or back is None:
                return told
            if outage.frame or mono_ns - back.mono_ns >= _FRAME_S * 1e9:
                told.append((self._came_back(outage), back))
                self._outage = None
            return told

    def _came_back(self, outage: _Outage) -> SourceData:
        changed = outage.frame and outage.size is not None and outage.size != self._size
        return SourceData(
            state="recovered",
            detail=outage.back_detail,
            lost_s=round(outage.lost_ns / 1e9, 1),
            losses=outage.losses,
            size=self._size if changed else None,
            size_before=outage.size if changed else None,
        )
