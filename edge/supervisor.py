"""The parent of an agent: starts it as a child and restarts it with back-off when it dies.

A child that was stopped, or that has ended by itself, is not restarted; nor is one that fails in
its first seconds with an error that a restart would meet again. One that ended because an engine
went bad is started again at once, since the next start takes another engine.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from edge.backoff import backoff_s
from edge.signals import call_on_signals

_EARLY_S = 10.0
_BACKOFF_S = (1.0, 60.0)
_NEVER_RESTART = {0, 2, 3, 6, 130}  # done; mend it first; delivered later; Ctrl-C
_OUR_ERRORS = range(2, 8)
_WITHOUT_THAT_ENGINE = 9  # it is in quarantine now: what comes next is another one
_PR_SET_PDEATHSIG = 1
CHILD_MARK = "EDGE_SUPERVISED"

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> int:
    """Run `edge run` with these arguments as a child until it ends for good; its exit code."""
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    starting = threading.Lock()

    def stop() -> None:
        with starting:
            stopping.set()
            if child is not None:
                child.terminate()  # not SIGINT: a child that still imports shows a traceback for it

    call_on_signals(stop)
    failures = 0
    while True:
        started_s = time.monotonic()
        # In a session of its own, so that a terminal's Ctrl-C reaches it once, through us.
        with starting:
            if stopping.is_set():
                return 0
            child = subprocess.Popen(
                [sys.executable, "-m", "edge", "run", *arguments],
                start_new_session=True,
                env={**os.environ, CHILD_MARK: str(os.getpid())},
            )
        code = child.wait()
        lasted_s = time.monotonic() - started_s
        if stopping.is_set():
            return max(code, 0)
        first_and_early = failures == 0 and lasted_s < _EARLY_S
        if code in _NEVER_RESTART or (code in _OUR_ERRORS and first_and_early):
            return code
        failures = 1 if lasted_s > 10 * _EARLY_S else failures + 1
        wait_s = 0.0 if code == _WITHOUT_THAT_ENGINE else backoff_s(failures - 1, _BACKOFF_S)
        log.error("the agent ended with %s; starting it again in %.1f s", _name(code), wait_s)
        stopping.wait(wait_s)
        if stopping.is_set():
            return 0


def follow_parent() -> None:
    """In the child: be terminated when the parent dies, however it dies (Linux only)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        log.debug("no prctl here: this agent outlives a killed parent")
    if os.environ[CHILD_MARK] != str(os.getppid()):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
