"""What SIGTERM does to a process that waits for it, by a real one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys, time
    from edge import signals

    signals.ECHO_S = 1.0
    stop = signals.stop_on_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the same death, told once more
    print(stop.wait(10), flush=True)
    time.sleep(1.1)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    except KeyboardInterrupt:
        print("at once")
    """
)


def test_an_echo_of_the_first_signal_is_not_a_second_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split("\n")[:2] == ["True", "at once"], done.stderr
