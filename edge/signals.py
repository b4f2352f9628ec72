"""SIGTERM and SIGINT, turned into things that threads wait for.

A handler runs in the middle of whatever the main thread does, and may not take a lock that it
holds, such as that of an event it waits for: so what a signal asks for is done in a thread.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

ECHO_S = 0.3
"""Signals nearer to each other say the same thing: the kernel tells the death of a parent once for
each of its threads."""


def stop_on_signals() -> threading.Event:
    """Set at the first SIGTERM or SIGINT; a second one, ECHO_S later, raises KeyboardInterrupt."""
    stop = threading.Event()
    asked: list[float] = []

    def handle(_: int, __: FrameType | None) -> None:
        now_s = time.monotonic()
        if asked and now_s < asked[0] + ECHO_S:
            return
        if asked:
            raise KeyboardInterrupt
        asked.append(now_s)
        threading.Thread(target=stop.set, name="stop", daemon=True).start()

    _install(handle)
    return stop


def call_on_signals(action: Callable[[], None]) -> None:
    """Run `action`, in a thread, at every SIGTERM and SIGINT."""

    def handle(_: int, __: FrameType | None) -> None:
        threading.Thread(target=action, name="stop", daemon=True).start()

    _install(handle)


def _install(handle: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
