from __future__ import annotations

import threading
import time
import tomllib
from pathlib import Path

import pytest

from edge import config as configuration
from edge.agent import Agent

TOML = """
[device]
id = "gate-07"
drain_s = 60
[[pipeline]]
name = "wrist"
bundle = "builtin:wrist_activity"
rule = []
source = { type = "demo-wrist", speed = 500 }
[[sink]]
type = "jsonl"
path = "events.jsonl"
"""


def test_an_outbox_that_dies_ends_the_agent_with_what_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tomllib.loads(TOML)
    agent = Agent(configuration.parse(document, file=tmp_path / "edge.toml", environ={}))
    commit, commits = agent.outbox._write, []

    def write(batch: object) -> object:
        commits.append(batch)
        if len(commits) > 3:
            raise MemoryError("out of memory")
        return commit(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(agent.outbox, "_write", write)
    began = time.monotonic()
    with pytest.raises(MemoryError, match="out of memory"):
        agent.run(threading.Event())
    assert time.monotonic() - began < 20, "nobody waits for what will not be committed"
    assert agent.outbox.last_seq > 0
