"""Several threads work on the items of one stream, and the results come in the order of the items.

Invariant: items are taken one by one, so that whoever takes them sees each, in order; and no more
of them are under way or waiting to be fetched than `ahead`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_WAIT_S = 0.1

Lane = TypeVar("Lane")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class Ordered(Generic[Lane, Item, Result]):
    """One thread for each lane: it takes an item, works on it, and leaves the result."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        take: Callable[[Lane], Item | None],
        work: Callable[[Lane, Item], Result],
        ahead: int,
        name: str,
        stopped: Callable[[], bool],
    ) -> None:
        """`take` gives the next item, or None at the end and once it is `stopped`. It is called by
        one thread at a time."""
        self._take = take
        self._work = work
        self._ahead = ahead
        self._stopped = stopped
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = self._fetched = 0
        self._done: dict[int, Result | _Failed] = {}
        self._working = len(lanes)
        self._threads = [
            threading.Thread(
                target=self._run, args=(lane,), name=f"lane-{name}-{number}", daemon=True
            )
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def fetch(self) -> Result | None:
        """The next result; None when there are no more, or at once at the stop.

        Raises what `take` or `work` raised, when it is the turn of that item.
        """
        with self._changed:
            while self._fetched not in self._done:
                if self._stopped() or not self._working:
                    return None
                self._changed.wait(_WAIT_S)
            if self._stopped():
                return None
            result = self._done.pop(self._fetched)
            self._fetched += 1
            self._changed.notify_all()
        if isinstance(result, _Failed):
            raise result.error
        return result

    def join(self, timeout_s: float) -> None:
        """Wait for the threads after a stop; one that hangs is left behind."""
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self, lane: Lane) -> None:
        try:
            while self._one(lane):
                pass
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def _one(self, lane: Lane) -> bool:
        """Work on one item; False at the end."""
        with self._taking:
            if not self._wait_for_room():
                return False
            number = self._taken
            try:
                item = self._take(lane)
            except BaseException as error:
                self._leave(number, _Failed(error))
                self._taken += 1
                return False
            if item is None:
                return False
            self._taken += 1
        try:
            self._leave(number, self._work(lane, item))
        except BaseException as error:
            self._leave(number, _Failed(error))
            return False
        return True

    def _wait_for_room(self) -> bool:
        with self._changed:
            while self._taken - self._fetched >= self._ahead and not self._stopped():
                self._changed.wait(_WAIT_S)
            return not self._stopped()

    def _leave(self, number: int, result: Result | _Failed) -> None:
        with self._changed:
            self._done[number] = result
            self._changed.notify_all()
