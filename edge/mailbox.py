"""Where frames wait between the thread that reads a source and the one that works on them.

Invariant: never more than its capacity of frames, and every frame that is dropped is counted.
"""

from __future__ import annotations

import collections
import threading

from edge.types import Frame

_WAIT_S = 0.1


class Mailbox:
    """Frames between the reading and the working thread: at most `capacity` of them."""

    def __init__(self, capacity: int, *, newest_wins: bool) -> None:
        self.drops = 0
        self._frames: collections.deque[Frame] = collections.deque()
        self._capacity = capacity
        self._newest_wins = newest_wins
        self._changed = threading.Condition()
        self._ended = False

    def put(self, frame: Frame, stop: threading.Event) -> None:
        """Leave a frame; waits for room unless the newest wins."""
        with self._changed:
            while len(self._frames) >= self._capacity and not stop.is_set():
                if self._newest_wins:
                    self._frames.popleft()
                    self.drops += 1
                else:
                    self._changed.wait(_WAIT_S)
            self._frames.append(frame)
            self._changed.notify_all()

    def wait(self, stop: threading.Event) -> bool:
        """Whether there is a frame to take; waits for one. False when there will be none."""
        with self._changed:
            while not self._frames and not self._ended and not stop.is_set():
                self._changed.wait(_WAIT_S)
            return bool(self._frames) and not stop.is_set()

    def take(self, stop: threading.Event) -> Frame | None:
        """The oldest frame; waits for one. None when the source has ended, or at `stop`."""
        with self._changed:
            while not self._frames and not self._ended and not stop.is_set():
                self._changed.wait(_WAIT_S)
            if stop.is_set() or not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def end(self) -> None:
        """No more frames will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
