"""Engines that go wrong, as real libraries: noticed, named, kept away, and survived.

The library is a TFLite delegate (delegate.c) that computes half of a model's nodes, rightly at
first. `pytest -s` prints how long each took from the last answer of the bad engine (or from the
start) to the first one of the next.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import Mosquitto, Subscriber, wait_until
from e2e.running import Running, committed, edge, mqtt, write_config
from needs import need_module, need_program

WAIT_S = 60.0
STARTED = 8  # runs that a start takes for its golden case: what `after` is counted from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bad:
    """A fault after so many frames, and as what it should be known."""

    fault: str
    kind: str
    after: int = 0
    ms: int = 0
    more: str = ""
    trial_s: float = 30.0


BAD = {
    "wrong by 1 %": Bad(fault="scale", kind="wrong"),
    "one output swapped": Bad(fault="swap", kind="wrong"),
    "SIGSEGV at first use": Bad(fault="crash", kind="crash"),
    "hang at first use": Bad(fault="hang", kind="hang", trial_s=3),
    "twice the latency": Bad(fault="slow", ms=200, more="max_latency_ms = 100", kind="slow"),
    "NaN after 100 frames": Bad(fault="nan", after=100, kind="not_finite"),
    "the same answer after 150 frames": Bad(fault="stuck", after=150, kind="wrong"),
    "SIGSEGV after 1,000 frames": Bad(fault="crash", after=1000, kind="crash"),
    "hang after 300 frames": Bad(fault="hang", after=300, kind="hang"),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """delegate.c, compiled."""
    built = tmp_path_factory.mktemp("delegate") / "libmisbehaving.so"
    source = Path(__file__).with_name("delegate.c")
    flags = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run([need_program("gcc"), *flags, "-o", built, source], check=True)
    return built


@pytest.fixture
def agents() -> Iterator[list[Running]]:
    need_module("ai_edge_litert")
    need_module("paho.mqtt")
    started: list[Running] = []
    yield started
    for agent in started:
        agent.kill_tree()


def pipeline(library: Path, options: dict[str, Any], *, more: str = "", live: bool = False) -> str:
    source = (
        '{ type = "demo-meter", fps = 20 }' if live else '{ type = "demo-wrist", speed = 2000 }'
    )
    bundle = "meter_reader" if live else "wrist_activity"
    extra = ", ".join(f'{name} = "{value}"' for name, value in options.items())
    return f"""
[[pipeline]]
name = "one"
bundle = "builtin:{bundle}"
variant = "tflite-fp32"
accelerator = "delegate"
accelerator_options = {{ library = "{library}", extra = {{ {extra} }} }}
rule = []
source = {source}
{more}
"""


def engines(*, trial_s: float = 30, hang_s: float = 3) -> str:
    return f"\n[engines]\ntrial_s = {trial_s}\nhang_s = {hang_s}\n"


def alarms(subscriber: Subscriber, code: str) -> list[dict[str, Any]]:
    found = [event["data"] for event in subscriber.events() if event["kind"] == "alarm"]
    return [alarm for alarm in found if alarm["code"] == code]


def of_engine(subscriber: Subscriber, engine: str) -> list[dict[str, Any]]:
    return [event for event in subscriber.events() if event["engine"] == engine]


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "edge-state" / "quarantine.json"
    return json.loads(path.read_text())["records"] if path.exists() else []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_engine_is_caught_named_quarantined_and_survived(
    name: str, tmp_path: Path, library: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    bad = BAD[name]
    after = bad.after + STARTED if bad.after else 0
    options = {"fault": bad.fault, "after": after, "ms": bad.ms}
    config = write_config(
        tmp_path,
        pipeline(library, options, more=bad.more),
        engines(trial_s=bad.trial_s),
        mqtt(mosquitto.url),
    )
    began_ns = time.monotonic_ns()
    with Subscriber(mosquitto.port, "edge/v1/gate-07/#") as subscriber:
        agents.append(Running(config))
        wait_until(lambda: len(of_engine(subscriber, "litert:cpu")) > 20, WAIT_S, "the next engine")
        (alarm,) = alarms(subscriber, f"engine_quarantined_{bad.kind}")
        wait_until(lambda: alarms(subscriber, "engine_fallback"), what="the fallback is told")
        ended = agents[0].end()
        wait_until(lambda: len(subscriber.seqs()) == committed(tmp_path), what="all is delivered")

    assert ended.code == 0
    assert subscriber.seqs() == {*range(1, committed(tmp_path) + 1)}, "nothing committed is lost"
    assert "tflite:delegate" in alarm["detail"] and "wrist_activity tflite-fp32" in alarm["detail"]
    (record,) = records(tmp_path)
    assert record["kind"] == bad.kind and record["told"]
    assert ("Segmentation fault" in record["evidence"]) == (bad.fault == "crash")
    state = [said for said in subscriber.on("/state") if said["online"]][-1]["pipelines"]["one"]
    assert (state["engine"], state["placement"]["nodes"]) == ("litert:cpu", {"xnnpack": 26})
    assert "tflite:delegate" in state["fallback"]
    answers = of_engine(subscriber, "litert:delegate+xnnpack")
    if bad.after:
        assert alarm["facts"]["frames"] >= bad.after and alarm["facts"]["down_s"] > 0
        assert len(answers) >= 0.9 * bad.after, "but for what was not committed yet"
    else:
        assert answers == [], "a bad engine never gave an answer"
    last_ns = max((event["time"]["mono_ns"] for event in answers), default=began_ns)
    first_ns = min(e["time"]["mono_ns"] for e in of_engine(subscriber, "litert:cpu"))
    print(f"\n{name}: {bad.kind}, {(first_ns - last_ns) / 1e9:.1f} s; {record['detail']}")


def test_half_of_the_nodes_on_the_cpu_is_said_everywhere(
    tmp_path: Path, library: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    config = write_config(tmp_path, pipeline(library, {}), engines(), mqtt(mosquitto.url))
    with Subscriber(mosquitto.port, "edge/v1/gate-07/#") as subscriber:
        agents.append(Running(config))
        wait_until(lambda: alarms(subscriber, "engine_partly_placed"), WAIT_S, "the alarm")
        answer = of_engine(subscriber, "litert:delegate+xnnpack")[0]
    assert answer["kind"] == "classification"
    (alarm,) = alarms(subscriber, "engine_partly_placed")
    assert "3 CONV_2D" in alarm["detail"] and "13 on xnnpack, 13 on delegate" in alarm["detail"]
    state = subscriber.on("/state")[-1]["pipelines"]["one"]
    assert state["placement"]["nodes"] == {"xnnpack": 13, "delegate": 13}
    assert records(tmp_path) == [], "its numbers are right"


def test_require_fails_on_a_partly_placed_model(tmp_path: Path, library: Path) -> None:
    table = pipeline(library, {}, more='policy = "require"')
    config = write_config(tmp_path, table, engines(), '\n[[sink]]\ntype = "jsonl"\npath = "-"\n')
    ended = edge("run", config, timeout_s=WAIT_S)
    assert ended.code == 5
    (complaint,) = ended.complaints
    assert 'policy "require", but 3 CONV_2D, 1 MEAN, 2 PAD, 7 TRANSPOSE run elsewhere' in complaint
    assert "allowed on the CPU are Constant" in complaint


def test_frames_of_a_camera_that_nobody_read_meanwhile_are_counted(
    tmp_path: Path, library: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    options = {"fault": "crash", "at": "reshape", "after": 120}
    table = pipeline(library, options, live=True)
    config = write_config(tmp_path, table, engines(), mqtt(mosquitto.url))
    with Subscriber(mosquitto.port, "edge/v1/gate-07/#") as subscriber:
        agents.append(Running(config))
        wait_until(lambda: alarms(subscriber, "engine_quarantined_crash"), WAIT_S, "the alarm")
    (alarm,) = alarms(subscriber, "engine_quarantined_crash")
    assert alarm["facts"]["frames_lost"] >= 1, alarm


def test_what_is_cleared_is_tried_again(
    tmp_path: Path, library: Path, agents: list[Running]
) -> None:
    table = pipeline(library, {"fault": "scale"})
    config = write_config(tmp_path, table, engines(), '\n[[sink]]\ntype = "jsonl"\npath = "e"\n')
    agents.append(Running(config))
    wait_until(lambda: records(tmp_path), WAIT_S)
    agents[0].end()
    shown = edge("doctor", config, "--clear-quarantine", timeout_s=WAIT_S).out
    assert "cleared: tflite:delegate" in shown and "off by 0.00542 of its range" in shown
    assert records(tmp_path) == []


HOSTAGE = """
import ctypes
from edge.engines.onnx import OnnxEngine

class Hostage(OnnxEngine):
    runs = 0

    def run(self, inputs, into=None):
        self.runs += 1
        if self.runs > 50:
            ctypes.PyDLL(None).sleep(1000)  # and nobody else gets the interpreter meanwhile
        return super().run(inputs, into)
"""


def test_an_installed_engine_that_hangs_and_holds_the_interpreter_is_ended_too(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    packages = tmp_path / "packages"
    facts = packages / "hostage-1.0.dist-info"
    facts.mkdir(parents=True)
    (packages / "hostage.py").write_text(HOSTAGE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: hostage\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[edge.engines]\nhostage = hostage:Hostage\n")
    config = write_config(
        tmp_path,
        '[[pipeline]]\nname = "one"\nbundle = "builtin:wrist_activity"\nengine = "hostage"\n'
        'variant = "onnx-fp32"\n'
        'rule = []\nsource = { type = "demo-wrist", speed = 500 }\n',
        engines(hang_s=1),
        mqtt(mosquitto.url),
    )
    path = ":".join([str(packages), *filter(None, sys.path)])
    with Subscriber(mosquitto.port, "edge/v1/gate-07/#") as subscriber:
        agents.append(Running(config, env={"PYTHONPATH": path}))
        wait_until(lambda: alarms(subscriber, "engine_quarantined_hang"), WAIT_S, "the alarm")
        wait_until(lambda: "hostage" in subscriber.on("/state")[-1]["pipelines"]["one"]["fallback"])
    (record,) = records(tmp_path)
    assert record["suspect"]["engine"] == "hostage" and "hostage.py" in record["evidence"]
