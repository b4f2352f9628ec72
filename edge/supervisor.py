"""The parent of an agent: forks it as its child and restarts it with back-off when it dies.

Invariant: the parent forks before it has imported anything that it does not need itself, so that
supervision costs no second start of the interpreter and next to no memory; everything else, down
to reading the command line, is the child's. A child that was stopped, or that has ended by itself,
is not restarted; nor is one that fails in its first seconds with an error that a restart would meet
again. One that ended because an engine went bad is started again at once, since the next start
takes another engine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

from edge.signals import call_on_signals

_EARLY_S = 10.0
_BACKOFF_S = (1.0, 60.0)
_NEVER_RESTART = {0, 2, 3, 6, 130}  # done; mend it first; delivered later; Ctrl-C
_OUR_ERRORS = range(2, 8)
_WITHOUT_THAT_ENGINE = 9  # it is in quarantine now: what comes next is another one
_PR_SET_PDEATHSIG = 1
_STOPS = {signal.SIGTERM, signal.SIGINT}

start = 0
"""Which start of the agent this process is: 1 for the first child, 0 where nobody supervises it."""


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line (of `sys.argv`) is an agent under a parent."""
    return list(arguments[1:2]) == ["run"] and "--no-supervise" not in arguments


def run(tell: Callable[[str], None]) -> int | None:
    """Fork an agent until it ends for good: its exit code in the parent, None in every child.

    `tell` is given what is to be logged of a restart.
    """
    global start
    stopping, starting = threading.Event(), threading.Lock()
    child = 0

    def stop() -> None:
        with starting:
            stopping.set()
            if child:
                os.kill(child, signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in _STOPS}
    call_on_signals(stop)
    failures = starts = 0
    while True:
        started_s, parent = time.monotonic(), os.getpid()
        with starting:
            if stopping.is_set():
                return 0
            starts += 1
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
            child = os.fork()
            if not child:
                for number, handler in before.items():
                    signal.signal(number, handler)
                _follow(parent)
                start = starts
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if not child:
            return None
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with starting:  # from here on its number may be anybody's
            _, status = os.waitpid(child, 0)
            child = 0
        code = os.waitstatus_to_exitcode(status)
        lasted_s = time.monotonic() - started_s
        if stopping.is_set():
            return max(code, 0)
        first_and_early = failures == 0 and lasted_s < _EARLY_S
        if code in _NEVER_RESTART or (code in _OUR_ERRORS and first_and_early):
            return code
        failures = 1 if lasted_s > 10 * _EARLY_S else failures + 1
        wait_s = 0.0 if code == _WITHOUT_THAT_ENGINE else _backoff_s(failures - 1)
        tell(f"the agent ended with {_name(code)}; starting it again in {wait_s:.1f} s")
        stopping.wait(wait_s)


def _follow(parent: int) -> None:
    """In the child: a session of its own, so that a terminal's Ctrl-C reaches it once, through the
    parent; and be terminated when the parent dies, however it dies (Linux only)."""
    import ctypes

    os.setsid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        pass  # no prctl here: this agent outlives a killed parent
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def _backoff_s(failures: int) -> float:
    from edge.backoff import backoff_s

    return backoff_s(failures, _BACKOFF_S)


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
