"""Brokers that go away and agents that are killed: what was committed arrives, all of it."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from broker import Mosquitto, Subscriber, Wire, wait_until

from .running import (
    Running,
    alive,
    committed,
    edge,
    jsonl,
    mqtt,
    waiting,
    wrist,
    write_config,
)

EVENTS = "edge/v1/gate-07/event/#"


def everything(folder: Path) -> set[int]:
    return {*range(1, committed(folder) + 1)}


def test_a_broker_that_comes_later_gets_what_it_has_missed(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    with Wire(mosquitto.port) as wire, Subscriber(mosquitto.port, EVENTS) as subscriber:
        wire.cut()
        config = write_config(tmp_path, wrist(windows=60), mqtt(wire.url))
        agents.append(Running(config))
        wait_until(lambda: "cannot connect" in agents[0].output)
        wire.mend()
        ended = agents[0].wait()
        assert ended.code == 0, ended.err
        wait_until(lambda: subscriber.seqs() == everything(tmp_path) == {*range(1, 61)})
    assert waiting(tmp_path) == 0


def test_what_a_lost_connection_left_unacknowledged_is_sent_again(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    """The broker gets events whose acknowledgements are lost; then it is restarted, empty."""
    with Wire(mosquitto.port) as wire, Subscriber(mosquitto.port, EVENTS) as subscriber:
        config = write_config(tmp_path, wrist(windows=300), mqtt(wire.url))
        agents.append(Running(config))
        wait_until(lambda: len(subscriber.seqs()) > 30)
        wire.swallow = True
        heard = len(subscriber.seqs())
        wait_until(lambda: len(subscriber.seqs()) > heard)
        wire.cut()
        time.sleep(0.2)  # what the broker has, the subscriber has
        mosquitto.kill()
        mosquitto.start()
        subscriber.wait_subscribed()
        wire.mend()
        ended = agents[0].wait()
        assert ended.code == 0, ended.err
        wait_until(lambda: subscriber.seqs() == everything(tmp_path) == {*range(1, 301)})
    assert len(subscriber.events()) > 300, "sent again, and known by device, epoch and seq"
    assert "connection lost" in ended.err


def test_a_broker_that_stays_away_costs_no_event(tmp_path: Path, mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    config = write_config(tmp_path, wrist(windows=10), mqtt(mosquitto.url), device="drain_s = 0.3")
    ended = edge("run", config)
    assert ended.code == 6
    assert ended.complaints == ["edge: 10 events are not delivered yet; they stay in the outbox"]
    mosquitto.start()
    with Subscriber(mosquitto.port, EVENTS) as subscriber:
        assert edge("run", config).code == 0
        wait_until(lambda: subscriber.seqs() == {*range(1, 21)})


def test_agents_killed_in_the_middle_go_on_with_their_outbox(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    rng = random.Random(2026)
    config = write_config(tmp_path, wrist(windows=150), mqtt(mosquitto.url))
    with Subscriber(mosquitto.port, EVENTS) as subscriber:
        for _ in range(3):
            before = len(subscriber.seqs())
            agents.append(Running(config, "--no-supervise"))
            wait_until(lambda before=before: len(subscriber.seqs()) > before)
            time.sleep(rng.uniform(0, 0.3))
            agents[-1].kill_tree()
        assert edge("run", config).code == 0
        wait_until(lambda: subscriber.seqs() == everything(tmp_path))
    assert committed(tmp_path) > 150
    assert waiting(tmp_path) == 0


def test_the_parent_restarts_an_agent_that_is_killed_and_waits_longer_each_time(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    config = write_config(tmp_path, wrist(), mqtt(mosquitto.url))
    with Subscriber(mosquitto.port, "edge/v1/gate-07/#") as subscriber:
        agents.append(Running(config))
        for kills in range(2):
            births = 2 * kills + 1  # each death adds a will, each start a birth
            wait_until(lambda births=births: len(subscriber.on("/state")) >= births)
            wait_until(lambda: subscriber.on("/state")[-1]["online"] and agents[0].children)
            os.kill(agents[0].children[0], signal.SIGKILL)
            wait_until(lambda: not subscriber.on("/state")[-1]["online"], what="the will")
        wait_until(lambda: subscriber.on("/state")[-1]["online"], what="the third birth")
        ended = agents[0].end()
        assert ended.code == 0, ended.err
        wait_until(lambda: subscriber.seqs() == everything(tmp_path))
    waits = [
        float(line.split(" again in ")[1].split()[0])
        for line in ended.err.splitlines()
        if "the agent ended with SIGKILL" in line
    ]
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2, waits
    connections = [state["connection"] for state in subscriber.on("/state") if state["online"]]
    assert sorted({*connections}) == [1, 2, 3]


def test_an_agent_ends_in_order_when_its_parent_is_killed(
    tmp_path: Path, agents: list[Running]
) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    agents.append(Running(config))
    events = tmp_path / "events.jsonl"
    # A line, not the file alone: an agent whose sink is not open yet keeps its events.
    wait_until(lambda: events.exists() and events.stat().st_size and agents[0].children)
    (child,) = agents[0].children
    agents[0].process.kill()
    agents[0].process.wait(5)
    try:
        wait_until(lambda: not alive(child), timeout_s=5, what="the child ends")
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
    lines = events.read_text().splitlines()
    assert len(lines) == committed(tmp_path) and waiting(tmp_path) == 0


def test_a_stop_during_the_back_off_is_obeyed_at_once(
    tmp_path: Path, agents: list[Running]
) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    agents.append(Running(config))
    wait_until(lambda: (tmp_path / "events.jsonl").exists() and agents[0].children)
    os.kill(agents[0].children[0], signal.SIGKILL)
    wait_until(lambda: "starting it again" in agents[0].output)
    assert agents[0].end(timeout_s=2).code == 0
