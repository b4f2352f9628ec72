"""What SIGTERM and SIGINT do to a process, by a real one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

STOPPED_TWICE = textwrap.dedent(
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


SWALLOWS_WHAT_IT_IS_TOLD = textwrap.dedent(
    """
    import os, signal
    try:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(100))
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None  # as onnxruntime does
    """
)
INTERRUPTED_IN_AN_IMPORT = textwrap.dedent(
    """
    import time
    from edge import signals

    signals.interrupt_between_imports()
    try:
        import swallows
        print("imported", flush=True)
        time.sleep(10)
    except KeyboardInterrupt:
        print("interrupted")
    """
)


def said(program: str, cwd: Path | None = None) -> list[str]:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30)
    assert not done.stderr
    return done.stdout.split()


def test_an_echo_of_the_first_signal_is_not_a_second_one() -> None:
    assert said(STOPPED_TWICE)[:3] == ["True", "at", "once"]


def test_ctrl_c_waits_for_an_import_that_would_swallow_it(tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS_WHAT_IT_IS_TOLD)
    assert said(INTERRUPTED_IN_AN_IMPORT, tmp_path) == ["imported", "interrupted"]
