"""Ctrl-C at any moment: a prompt end, the documented exit code, no traceback, nothing left behind.

The moments count from where the interpreter has started by itself, which is none of our code; a
seed spreads them over imports, start-up and work.
"""

from __future__ import annotations

import fcntl
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from broker import Mosquitto, Wire, wait_until

from .running import (
    EDGE,
    Running,
    edge,
    jsonl,
    mqtt,
    python_start_s,
    waiting,
    wrist,
    write_config,
)

_RNG = random.Random(20261123)
PROMPT_S = 6.0
BEFORE_IT_RAN = {130, -signal.SIGINT}  # a shell shows both as 130


def _moments(count: int, last_s: float) -> list[float]:
    """One moment in each of `count` equal parts of the time up to `last_s`."""
    part_s = (last_s - 0.03) / count
    return [round(0.03 + (i + _RNG.random()) * part_s, 3) for i in range(count)]


def _interrupt(command: list[str], after_s: float, cwd: Path) -> tuple[int, str]:
    """Press Ctrl-C once; its exit code and everything it wrote, warnings of Python included."""
    start_s = 1.5 * python_start_s()
    process = subprocess.Popen(
        [*EDGE, *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    time.sleep(start_s + after_s)
    process.send_signal(signal.SIGINT)
    pressed_s = time.monotonic()
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - pressed_s < PROMPT_S, output
    assert "Traceback" not in output and "KeyboardInterrupt" not in output, output
    assert "Exception ignored" not in output, output
    return process.returncode, output


@pytest.mark.parametrize("moment_s", _moments(6, 1.2))
def test_run_is_interrupted(moment_s: float, tmp_path: Path) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    code, output = _interrupt(["run", str(config)], moment_s, tmp_path)
    assert code == 0 or (code in BEFORE_IT_RAN and "INFO" not in output), (code, output)
    if (tmp_path / "edge-state/lock").exists():
        with open(tmp_path / "edge-state/lock") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process of ours is left


@pytest.mark.parametrize("moment_s", _moments(4, 1.6))
def test_demo_is_interrupted(moment_s: float, tmp_path: Path) -> None:
    command = ["demo", "--headless", "--json", "--seconds", "20"]
    code, output = _interrupt(command, moment_s, tmp_path)
    assert (code == 0 and '"events_missing": 0' in output) or code in BEFORE_IT_RAN


@pytest.mark.parametrize("moment_s", _moments(6, 0.9))
def test_check_is_interrupted(moment_s: float, tmp_path: Path) -> None:
    waits = '\n[[pipeline]]\nname = "w"\nbundle = "builtin:wrist_activity"\n'
    waits += 'source = { type = "demo-wrist", speed = 0.1 }\n'
    config = write_config(tmp_path, waits, jsonl())
    code, _ = _interrupt(["check", str(config)], moment_s, tmp_path)
    assert code in BEFORE_IT_RAN


def test_a_second_ctrl_c_does_not_wait_for_the_broker(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    """The first one waits `drain_s` for a broker that is slow; the second does not."""
    with Wire(mosquitto.port) as wire:
        config = write_config(tmp_path, wrist(), mqtt(wire.url), device="drain_s = 60")
        agents.append(Running(config))
        wait_until(lambda: "connected" in agents[0].output)
        wire.swallow = True
        time.sleep(0.3)
        agents[0].process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert agents[0].process.poll() is None, "it waits for the acknowledgements"
        assert agents[0].end(signal.SIGINT, PROMPT_S).code == 130
    assert waiting(tmp_path) > 0
    again = write_config(tmp_path, wrist(windows=1), mqtt(mosquitto.url))
    assert edge("run", again).code == 0 and waiting(tmp_path) == 0, "the next one goes on"
