"""Everything is killed at random, many times; afterwards every event is accounted for."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broker import wait_until
from e2e.running import Running, committed, waiting, wrist, write_config
from e2e.running import mqtt as mqtt_sink
from needs import need_program

from .chaos import chaos
from .stage import ENV, Stage


@pytest.mark.timeout(400)
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    need_program("mosquitto")
    result = chaos(tmp_path, kills=100, events=20_000, seed=2026, per_s=300.0)
    assert result["kills"] >= 100 and result["events"] >= 20_000
    assert result["unexplained"] == 0
    assert result["declared"] == 0, "nothing had to be given up here"


@pytest.mark.timeout(200)
def test_the_whole_agent_is_killed_and_nothing_is_lost(stage: Stage) -> None:
    """`edge run` with a model, its supervising parent, and every process of it killed in turn."""
    rng = random.Random(7)
    config = write_config(
        stage.folder,
        wrist(speed=1000.0),
        mqtt_sink(stage.broker.url, 'confirm = "ingest"'),
        "\n[outbox]\nresend_s = 1.0\n",
    )
    ingest = stage.ingest()
    agent = Running(config)
    try:
        for victim in ("child", "broker", "ingest", "tree", "child", "broker", "tree", "ingest"):
            stage.more(1)
            time.sleep(rng.uniform(0, 0.3))
            if victim == "child":
                os.kill(child_of(agent), signal.SIGKILL)
            elif victim == "broker":
                stage.broker.kill()
                stage.broker.start()
            elif victim == "ingest":
                ingest.kill()
                ingest.start()
            else:
                agent.kill_tree()
                agent = Running(config)
        child_of(agent)
        stage.more(1)
        agent.end()
    finally:
        agent.kill_tree()
    # What it could not deliver while it was stopping, the next start delivers.
    config = write_config(
        stage.folder,
        wrist(windows=1),
        mqtt_sink(stage.broker.url, 'confirm = "ingest"'),
        "\n[outbox]\nresend_s = 1.0\n",
        device="drain_s = 60.0",
    )
    last = Running(config)
    try:
        assert last.wait(90).code == 0, last.output[-3000:]
    finally:
        last.kill_tree()
    assert waiting(stage.folder) == 0
    ledger = stage.reckon()
    assert ledger["stored"] == ledger["captured"] == committed(stage.folder) > 100


def child_of(agent: Running) -> int:
    """The process that does the work; it may be about to be restarted."""
    wait_until(lambda: agent.children, 20, "the parent has started it")
    return agent.children[0]


@pytest.mark.timeout(120)
def test_the_soak_ends_with_its_figures() -> None:
    need_program("mosquitto")
    program = [sys.executable, str(Path(__file__).with_name("chaos.py"))]
    done = subprocess.run(
        [*program, "--kills", "3", "--events", "500", "--devices", "1", "--ingests", "2"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=ENV,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [*figures] == [
        "events", "kills", "stored", "declared", "unexplained", "duplicates_removed"
    ]  # fmt: skip
    assert figures["kills"] == 3 and figures["stored"] == figures["events"] >= 500
    assert figures["unexplained"] == 0
