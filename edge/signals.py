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
_AGAIN_S = 0.02


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


def interrupt_between_imports() -> None:
    """SIGINT raises KeyboardInterrupt, as it does in any Python program, but only after an import.

    Raised in the middle of one it can get lost: where a native module sets itself up, an
    ImportError comes of it or nothing at all, and the command would go on with the next engine.
    """

    def handle(_: int, frame: FrameType | None) -> None:
        if _in_import(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, handle)


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _install(handle: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
