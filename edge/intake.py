"""The reading thread of a pipeline: from its source to the mailbox, and what became of both.

Invariant: whatever the source does, the mailbox comes to an end; why is in `failure`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge import seams
from edge.clock import Clock
from edge.errors import EdgeError, FrameError, SourceError
from edge.frame_stats import FrameStats
from edge.mailbox import Mailbox
from edge.seams import EndOfStream
from edge.source_watch import Moment, SourceWatch
from edge.types import Frame
from edge.wire import Event, SourceState, event_of

_READ_S = 0.2
_MAX_BAD_IN_A_ROW = 1000

log = logging.getLogger(__name__)


class Intake:
    """Reads one source. A live source's mailbox holds the newest frame only, any other waits."""

    def __init__(
        self,
        source: seams.Source,
        *,
        name: str,
        stats: FrameStats,
        clock: Clock,
        stop: Callable[[], threading.Event],
    ) -> None:
        """`name` is the pipeline's; `stop` gives the event that ends it."""
        self.source = source
        self.mailbox = Mailbox(1 if source.live else 4, newest_wins=source.live)
        self.received = 0
        """Frames that the source gave, and that were none."""
        self.failure: EdgeError | None = None
        self._name = name
        self._stats = stats
        self._clock = clock
        self._stop = stop
        self._watch = SourceWatch()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> SourceState:
        """The source's, or why there is none any more."""
        if self.failure is not None:
            return SourceState(state="failed", detail=str(self.failure))
        return self.source.state

    @property
    def started(self) -> bool:
        """Whether it reads, or has read."""
        return self._thread is not None

    def start(self) -> None:
        """Read, in a thread of its own."""
        self._thread = threading.Thread(target=self._read, name=f"source-{self._name}", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for it after a stop; a source that hangs is left behind."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def bad_frame(self, error: FrameError) -> None:
        """Count one that cannot be used, and say so of the first ones."""
        stats = self._stats
        stats.bad_frames += 1
        stats.last_bad = str(error)
        level = logging.WARNING if stats.bad_frames <= 3 else logging.DEBUG
        log.log(level, "pipeline %s: skipped: %s", self._name, error)

    def notices(self) -> list[Event]:
        """Events of what became of the source since the last call: lost, recovered."""
        self.look(None)
        return [
            event_of(told, time=self._clock.stamp(**moment._asdict()), pipeline=self._name)
            for told, moment in self._watch.take(self._clock.mono_ns())
        ]

    def look(self, frame: Frame | None) -> None:
        """Note the state of the source, and the frame that it gave."""
        state = self.source.state
        size = frame.size if frame is not None and frame.data.ndim == 3 else None
        if not self._watch.settled(state, size):
            now = Moment(self._clock.mono_ns(), self._clock.wall_ns())
            self._watch.look(state, now, frame=frame is not None, size=size)

    def _read(self) -> None:
        bad_in_a_row = 0
        try:
            while not self._stop().is_set():
                try:
                    frame = self.source.read(_READ_S)
                except FrameError as error:
                    self.received += 1
                    self.bad_frame(error)
                    bad_in_a_row += 1
                    if bad_in_a_row >= _MAX_BAD_IN_A_ROW and not self.source.live:
                        raise SourceError(
                            f"source {self._name}: {bad_in_a_row} bad frames in a row;"
                            f" the last: {error}"
                        ) from error
                    continue
                self.look(frame)
                if frame is not None:
                    self.received += 1
                    bad_in_a_row = 0
                    self.mailbox.put(frame, self._stop())
        except EndOfStream:
            pass
        except EdgeError as error:
            self.failure = error
        except Exception as error:  # a source's library may raise anything
            log.exception("source %s failed", self._name)
            self.failure = SourceError(f"source {self._name}: {type(error).__name__}: {error}")
        finally:
            self.mailbox.end()
            self.source.close()
