"""The demo: what it sends arrives, and what it reads is what was shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from broker import Mosquitto, Subscriber

from edge.sources.synthetic import DemoMeter, DemoWrist

from .running import METER_ROI, edge, jsonl, write_config

COUNTS = {"events_sent", "events_received", "events_missing", "events_duplicated"}


def _check(summary: dict[str, Any]) -> None:
    assert summary.keys() >= COUNTS
    assert summary["events_missing"] == 0 and summary["events_duplicated"] == 0
    assert summary["events_received"] == summary["events_sent"] > 0
    pipelines = {pipeline["name"]: pipeline for pipeline in summary["pipelines"]}
    assert pipelines.keys() == {"meter", "wrist"}
    assert {pipeline["engine"] for pipeline in pipelines.values()} == {"onnx:cpu", "litert:cpu"}
    for pipeline in pipelines.values():
        assert pipeline["frames"] > 0 and pipeline["drops"] >= 0 and pipeline["fps"] > 0


def test_the_demo_brings_its_own_broker(tmp_path: Path) -> None:
    ended = edge("demo", "--seconds", "4", "--headless", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    _check(summary)
    assert summary["picture"] == str(tmp_path / "edge-demo.jpg")
    assert cv2.imread(summary["picture"]).shape == (360, 640, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["edge-demo.jpg"], "nothing else is left"


def test_the_demo_reports_to_a_broker_of_ours(tmp_path: Path, mosquitto: Mosquitto) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with Subscriber(mosquitto.port, "edge/demo/#") as subscriber:
        ended = edge(
            *("demo", "--seconds", "3", "--headless", "--json", "--broker", mosquitto.url),
            cwd=folder,
        )
        assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    _check(summary)
    assert subscriber.seqs() == {*range(1, summary["events_sent"] + 1)}
    assert not subscriber.on("/state")[-1]["online"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--broker", "mqtt://127.0.0.1:1"], 6, "127.0.0.1:1: cannot connect: Connection refused"),
        (["--broker", "http://example"], 2, "url must be mqtt://"),
        (["--seconds", "0"], 2, "--seconds"),
        (["--picture", "no/such/folder/p.jpg", "--seconds", "1"], 2, "no/such/folder/p.jpg"),
    ],
    ids=["broker that is not there", "no broker's address", "no time", "no place for the picture"],
)
def test_the_demo_says_what_is_wrong(
    arguments: list[str], code: int, says: str, tmp_path: Path
) -> None:
    ended = edge("demo", "--headless", *arguments, cwd=tmp_path)
    assert ended.code == code
    assert len(ended.complaints) == 1 and says in ended.complaints[0]


def test_a_password_lets_the_demo_and_its_subscriber_in(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("the-right-word\n")
    with Mosquitto(tmp_path, users={"gate": "the-right-word"}) as broker:
        login = ["--broker", broker.url, "--username", "gate", "--password-file", "word"]
        ended = edge("demo", "--seconds", "2", "--headless", "--json", *login, cwd=tmp_path)
    assert ended.code == 0, ended.err
    _check(json.loads(ended.out))


def test_the_demo_says_that_a_password_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("a-wrong-word")
    with Mosquitto(tmp_path, users={"gate": "the-right-word"}) as broker:
        login = ["--broker", broker.url, "--username", "gate", "--password-file", "word"]
        ended = edge("demo", "--headless", *login, cwd=tmp_path, timeout_s=5)
    assert ended.code == 6
    assert "check user" in ended.complaints[0] and "a-wrong-word" not in ended.err


def test_readings_and_labels_are_what_was_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both demo sources, sped up, through the committed int8 variants."""
    meter_options = "rate = 4, fps = 40, frames = 200"
    wrist_options = "speed = 500, windows = 48, activity_s = 60"
    config = write_config(
        tmp_path,
        f"""
[[pipeline]]
name = "meter"
bundle = "builtin:meter_reader"
variant = "onnx-int8"
{METER_ROI}
rule = [{{ type = "reading", digits = 6 }}]
source = {{ type = "demo-meter", {meter_options} }}

[[pipeline]]
name = "wrist"
bundle = "builtin:wrist_activity"
variant = "tflite-int8"
rule = []
source = {{ type = "demo-wrist", {wrist_options} }}
""",
        jsonl(),
    )
    assert edge("run", config).code == 0
    meter = DemoMeter(_options(DemoMeter, meter_options), name="meter")
    wrist = DemoWrist(_options(DemoWrist, wrist_options), name="wrist")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]

    at_rest: list[bool] = []
    turning: list[bool] = []
    for event in (event for event in events if event["kind"] == "reading"):
        whole, turn = divmod(meter.shown(event["source"]["frame"]), 1.0)
        (turning if turn else at_rest).append(
            event["data"]["number"] in (whole, whole + (turn > 0))
        )
    resting = sum(meter.shown(number).is_integer() for number in range(200))
    labels = [event for event in events if event["kind"] == "classification"]
    # a window that lies across a change of activity has two right answers
    clear = [e for e in labels if _clear(wrist, e["source"]["frame"])]
    right = sum(e["data"]["label"] == wrist.shown(e["source"]["frame"]) for e in clear)
    with capsys.disabled():
        print(
            f"\n  meter at rest: {sum(at_rest)} of {len(at_rest)} readings right,"
            f" {resting} frames were at rest; turning: {sum(turning)} of {len(turning)};"
            f" wrist: {right} of {len(clear)}"
        )
    assert len(at_rest) >= 0.9 * resting, "it is not right by saying little"
    assert sum(at_rest) >= 0.95 * len(at_rest)
    assert len(labels) == 48 and right >= 0.95 * len(clear)


def _options(source: Any, text: str) -> Any:
    pairs = (pair.split(" = ") for pair in text.split(", "))
    return source.Config(**{name: int(value) for name, value in pairs})


def _clear(wrist: DemoWrist, number: int) -> bool:
    return number > 0 and wrist.shown(number) == wrist.shown(number - 1)
