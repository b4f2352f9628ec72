"""`edge status` as a health check: 0 when all is well, 1 with the reason when it is not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from broker import free_port, wait_until

from .running import Running, edge, jsonl, of, wrist, write_config


def test_no_agent_is_not_well(tmp_path: Path) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    ended = edge("status", config)
    assert ended.code == 1
    assert f"no agent answers at {tmp_path}/edge-state/agent.sock" in ended.out


def test_a_running_agent_is_well_and_its_frames_move(tmp_path: Path, agents: list[Running]) -> None:
    # the folder's name is longer than the address of a socket can be
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    config = write_config(folder, wrist(), jsonl())
    agents.append(Running(config))
    wait_until(lambda: edge("status", config).code == 0)
    first, second = (json.loads(edge("status", "--json", config).out) for _ in range(2))
    frames = [answer["pipelines"]["wrist"]["frames"] for answer in (first, second)]
    assert frames[0] < frames[1]
    assert second["ok"] and second["sinks"]["jsonl"]["connected"] and not second["problems"]
    (folder / "edge-state/agent.sock").stat()
    assert agents[0].end().code == 0
    assert edge("status", config).code == 1
    agents.append(Running(config))
    wait_until(lambda: edge("status", config).code == 0)
    agents[1].kill_tree()
    assert edge("status", config).code == 1, "the socket is there, and nobody answers"


def test_a_camera_that_is_away_is_a_reason(tmp_path: Path, agents: list[Running]) -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/stream"
    camera = of(f'type = "camera", url = "{url}"', bundle="builtin:meter_reader")
    config = write_config(tmp_path, camera, wrist(), jsonl())
    agents.append(Running(config))
    ended = wait_until(lambda: _unwell(config, "source lost"))
    (problem,) = json.loads(ended)["problems"]
    assert problem.startswith(f"pipeline one: source lost: {url}: cannot be opened")
    assert ", no frame for" in problem


def test_frames_that_stand_still_are_a_reason(tmp_path: Path, agents: list[Running]) -> None:
    slow = of('type = "demo-wrist", speed = 0.5')  # the first window takes twenty seconds
    config = write_config(tmp_path, slow, jsonl(), device="stall_s = 0.5")
    agents.append(Running(config))
    ended = wait_until(lambda: _unwell(config, "no frame for"))
    assert "pipeline one: source running" in json.loads(ended)["problems"][0]


def test_an_agent_that_hangs_is_not_well(tmp_path: Path, agents: list[Running]) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    agents.append(Running(config, "--no-supervise"))
    wait_until(lambda: edge("status", config).code == 0)
    agents[0].process.send_signal(signal.SIGSTOP)
    ended = edge("status", config)
    agents[0].process.send_signal(signal.SIGCONT)
    assert ended.code == 1 and "no agent answers" in ended.out


def _unwell(config: Path, reason: str) -> str:
    ended = edge("status", "--json", config)
    return ended.out if ended.code == 1 and reason in ended.out else ""
