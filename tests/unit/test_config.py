from __future__ import annotations

import importlib.resources
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from edge import config as configuration
from edge import config_schema
from edge.config import Config, OutboxConfig
from edge.errors import ConfigError
from edge.secret import Secret

FILE = Path("/etc/edge/edge.toml")
GOOD = """
[device]
id = "gate-07"
state_dir = "state"

[outbox]
max_mb = 64
max_age_h = 72

[[pipeline]]
name = "meter"
bundle = "builtin:meter_reader"
priority = "high"
when_full = "block"
max_fps = 5
min_score = 0.4
roi = [100, 100, 440, 160]
rotate = 90
source = { type = "camera", url = "rtsp://viewer:${CAMERA}@10.0.0.9/stream" }
[[pipeline.rule]]
type = "reading"
digits = 6
[[pipeline.rule]]
type = "on_change"
repeat_s = 60

[[pipeline]]
name = "wrist"
bundle = "bundles/wrist.tar"
source = { type = "csv", path = "-" }

[[sink]]
type = "jsonl"
path = "events.jsonl"

[[sink]]
name = "fleet"
type = "mqtt"
url = "mqtts://broker.example"
confirm = "ingest"
username = "gate-07"
password = "${MQTT}"
ca = "/etc/ssl/ca.pem"
"""
ENVIRONMENT = {"CAMERA": "s3cret-camera", "MQTT": "s3cret-mqtt"}


def parse(text: str, environ: dict[str, str] | None = None) -> Config:
    environ = ENVIRONMENT if environ is None else environ
    return configuration.parse(tomllib.loads(text), file=FILE, environ=environ)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [problem.removeprefix(f"{FILE}: ") for problem in caught.value.problems]


def test_a_good_file_becomes_frozen_structs() -> None:
    config = parse(GOOD)
    meter, wrist = config.pipelines
    assert (config.device.id, config.path) == ("gate-07", FILE)
    assert (meter.max_fps, meter.roi, meter.rotate) == (5.0, (100, 100, 440, 160), 90)
    assert (meter.priority, meter.when_full) == ("high", "block")
    assert (wrist.priority, wrist.when_full) == ("normal", "auto")
    assert config.outbox == OutboxConfig(max_mb=64.0, max_age_h=72.0)
    assert [getattr(sink.options, "confirm", None) for sink in config.sinks] == [None, "ingest"]
    assert meter.rules is not None and [rule.type for rule in meter.rules] == [
        "reading",
        "on_change",
    ]
    assert wrist.rules is None
    assert [(sink.name, sink.type) for sink in config.sinks] == [
        ("jsonl", "jsonl"),
        ("fleet", "mqtt"),
    ]
    with pytest.raises(AttributeError):
        config.device.id = "other"  # type: ignore[misc]


def test_relative_paths_start_at_the_file() -> None:
    config = parse(GOOD)
    jsonl, mqtt = (sink.options for sink in config.sinks)
    meter, wrist = config.pipelines
    assert config.device.state_dir == "/etc/edge/state"
    assert meter.bundle == "builtin:meter_reader"
    assert wrist.bundle == "/etc/edge/bundles/wrist.tar"
    assert wrist.source.options.path == Path("-"), "standard input is no file"
    assert jsonl.path == Path("/etc/edge/events.jsonl")
    assert mqtt.ca == Path("/etc/ssl/ca.pem")


def test_every_mistake_is_reported_at_once_with_its_key() -> None:
    found = problems(
        """
        devices = 3
        [device]
        id = "gate 07"
        telemtry_s = 5
        commit_ms = 5
        [outbox]
        commit_ms = -1
        max_pending_events = 0
        max_mb = 0
        batch_events = 20000
        max_ag_h = 3
        [[pipeline]]
        name = "a/b"
        max_fps = "fast"
        roi = [-5, 0, 10, 10]
        rotate = 45
        min_score = nan
        priority = "urgent"
        when_full = "wait"
        source = { type = "camra", url = 0 }
        [[pipeline]]
        name = "b"
        bundle = "x"
        source = { type = "csv", hop = "2", length = -1, pth = "x" }
        rule = [{ type = "debounce", frames = 0 }, { frames = 3 }]
        [[sink]]
        type = "mqtt"
        url = "http://broker"
        version = "4"
        confirm = "nobody"
        [[sink]]
        type = "mqtt"
        url = "mqtt://user:pw@broker"
        [[sink]]
        name = "twin"
        type = "jsonl"
        [[sink]]
        name = "twin"
        type = "jsonl"
        """
    )
    for expected in (
        "devices: unknown key; did you mean device?",
        "device.commit_ms: unknown key",
        "outbox.commit_ms: Expected `float` >= 0",
        "outbox.max_pending_events: Expected `int` >= 1",
        "outbox.max_mb: Expected `float` > 0",
        "outbox.batch_events: Expected `int` <= 10000",
        "outbox.max_ag_h: unknown key; did you mean max_age_h?",
        "device.telemtry_s: unknown key; did you mean telemetry_s?",
        "pipeline[0].name: must be 1 to 64 letters",
        "pipeline[0].bundle: missing",
        "pipeline[0].max_fps: Expected `float`, got `str`",
        "pipeline[0].roi: Expected `int` >= 0",
        "pipeline[0].rotate: Invalid enum value 45",
        "pipeline[0].min_score: Expected `float` >= 0",
        "pipeline[0].priority: Invalid enum value 'urgent'",
        "pipeline[0].when_full: Invalid enum value 'wait'",
        "pipeline[0].source.type: no source is called 'camra'; there are camera, csv",
        "pipeline[1].source.hop: Expected `int`, got `str`",
        "pipeline[1].source.pth: unknown key; did you mean path?",
        "pipeline[1].rule[0]: frames must be 1 or more",
        "pipeline[1].rule[1].type: missing; one of count, debounce, dwell",
        "sink[0].version: Invalid enum value '4'",
        "sink[0].confirm: Invalid enum value 'nobody'",
        "sink[1]: url must not hold a user name or password",
        "sink: two are called 'twin'",
    ):
        assert any(problem.startswith(expected) for problem in found), (expected, found)
    assert problems(GOOD.replace("gate-07", "gate 07").replace("[[sink]]", "[[snk]]")) == [
        "snk: unknown key; did you mean sink?",
        "device.id: must be 1 to 64 letters, digits, '_', '.' or '-'",
        "sink: at least one [[sink]] is needed",
    ]


@pytest.mark.parametrize("roi", ["[0, 0, 0, 10]", "[0, 0, 10]", "[0.5, 0, 10, 10]"])
def test_a_region_of_interest_is_four_whole_numbers(roi: str) -> None:
    (problem,) = problems(GOOD.replace("[100, 100, 440, 160]", roi))
    assert problem.startswith("pipeline[0].roi: ")


@pytest.mark.parametrize(
    ("name", "valid"), [("a" * 64, True), ("a" * 65, False), ("", False), ("a\\n", False)]
)
def test_names_can_stand_in_a_topic(name: str, valid: bool) -> None:
    text = GOOD.replace('name = "wrist"', f'name = "{name}"')
    if valid:
        assert parse(text).pipelines[1].name == name
    else:
        assert problems(text)[0].startswith("pipeline[1].name: must be")


def test_tables_in_the_wrong_shape_are_mistakes() -> None:
    assert problems("device = 1\npipeline = 2\nsink = [3]") == [
        "device: must be a table",
        "sink: must be an array of tables, written [[sink]]",
        "pipeline: must be an array of tables, written [[pipeline]]",
    ]


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `edge init` writes one"):
        configuration.load(tmp_path / "edge.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        configuration.load(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        configuration.load(tmp_path / "bytes.toml")
    (tmp_path / "broken.toml").write_text("[device\n")
    with pytest.raises(ConfigError, match=r"broken.toml: not valid TOML: .*line 1"):
        configuration.load(tmp_path / "broken.toml")


def test_the_device_is_named_by_file_environment_or_host() -> None:
    anonymous = GOOD.replace('id = "gate-07"', "")
    assert parse(GOOD, {**ENVIRONMENT, "EDGE_DEVICE_ID": "env"}).device.id == "gate-07"
    assert parse(anonymous, {**ENVIRONMENT, "EDGE_DEVICE_ID": "env"}).device.id == "env"
    assert parse(anonymous).device.id


# ---- secrets


def test_variables_come_from_the_environment_and_must_be_set() -> None:
    camera, mqtt = parse(GOOD).pipelines[0].source.options, parse(GOOD).sinks[1].options
    assert camera.url == "rtsp://viewer:s3cret-camera@10.0.0.9/stream"
    assert mqtt.password.reveal() == "s3cret-mqtt"
    with pytest.raises(ConfigError) as caught:
        parse(GOOD, {})
    assert [problem.removeprefix(f"{FILE}: ") for problem in caught.value.problems] == [
        "pipeline[0].source.url: environment variable CAMERA is not set",
        "sink[1].password: environment variable MQTT is not set",
    ]


def test_secrets_show_themselves_nowhere() -> None:
    config = parse(GOOD)
    shown = [repr(config), str(config), f"{config.sinks[1].options.password}"]
    assert not [text for text in shown if "s3cret" in text]
    for form in (msgspec.json.encode, json.dumps, msgspec.to_builtins):
        with pytest.raises(TypeError) as caught:
            form(config.sinks[1])
        assert "s3cret" not in str(caught.value)
    assert Secret("a") == Secret("a") != Secret("b")


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://user:s3cret@broker",
        "mqtt://user:p[s3cret]@broker",
        "mqtt://user:s3cret\N{ACCOUNT OF}@broker",
        "mqtt://s3cret@:99999",
        "s3cret://broker",
        "mqtt://broker:s3cret",
    ],
)
def test_mistakes_do_not_show_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.decode_adapter("sinks", {"type": "mqtt", "url": url}, where="x")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"url": ""},
        {"url": "rtsp://[s3cret"},
        {"url": "rtsp://user:s3cret\N{ACCOUNT OF}@camera/"},
        {"url": ["rtsp://s3cret"]},
    ],
)
def test_a_camera_needs_an_address(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.decode_adapter("sources", {"type": "camera", **options}, where="x")
    assert "s3cret" not in str(caught.value)


# ---- the schema


def schema_allows(document: dict[str, Any]) -> bool:
    validator = jsonschema.Draft202012Validator(config_schema.json_schema())
    return bool(validator.is_valid(document))


def reader_allows(document: dict[str, Any]) -> bool:
    try:
        configuration.parse(document, file=FILE, environ=ENVIRONMENT)
    except ConfigError:
        return False
    return True


def document(**changes: Any) -> dict[str, Any]:
    return {**tomllib.loads(GOOD), **changes}


def pipeline(**changes: Any) -> dict[str, Any]:
    first = {"name": "a", "bundle": "b", "source": {"type": "demo-meter"}}
    return document(pipeline=[{**first, **changes}])


@pytest.mark.parametrize(
    ("candidate", "allowed"),
    [
        (document(), True),
        (pipeline(), True),
        (pipeline(source={"type": "camera", "url": 0}), True),
        (pipeline(source={"type": "images", "path": "x", "loop": True}), True),
        (pipeline(rule=[]), True),
        (pipeline(rule=[{"type": "filter", "classes": ["3"]}]), True),
        (document(sink=[{"type": "jsonl"}]), True),
        (document(sink=[{"type": "mqtt", "url": "mqtt://h", "password_file": "p"}]), True),
        (document(device={"max_temperature_c": 80, "heat_step_s": 5}), True),
        (document(device={"max_temperature_c": -1}), False),
        (document(device={"max_temperature_c": 80, "heat_step_s": 0}), False),
        (pipeline(quality={}), True),
        (pipeline(quality={"ignore": ["dark", "stuck"], "evidence": True}), True),
        (pipeline(quality={"ignore": ["dusk"]}), False),
        (pipeline(quality={"every_s": 0}), False),
        (pipeline(quality={"setle_s": 3}), False),
        (pipeline(quality=True), False),
        (document(extra=1), False),
        (document(sink=[]), False),
        (document(pipeline=[]), False),
        (document(device={"telemetry_s": 0}), False),
        (document(device={"comit_ms": 1}), False),
        (document(sink=[{"type": "mqtt"}]), False),
        (document(sink=[{"type": "mqtt", "url": "mqtt://h", "version": "4"}]), False),
        (document(sink=[{"type": "mqtt", "url": "mqtt://h", "password": 5}]), False),
        (document(sink=[{"type": "carrier-pigeon"}]), False),
        (document(sink=[{"type": "jsonl", "name": "not one/name"}]), False),
        (document(pipeline=[{"name": "a", "bundle": "b"}]), False),
        (pipeline(name="not one/name"), False),
        (pipeline(bundle=7), False),
        (pipeline(rotate=45), False),
        (pipeline(max_fps=-1), False),
        (pipeline(min_score=1.5), False),
        (pipeline(roi=[0, 0, 0, 1]), False),
        (pipeline(source={"type": "camera"}), False),
        (pipeline(source={"type": "video", "path": "x", "fps": 3}), False),
        (pipeline(rule=[{"type": "debounce", "frames": "3"}]), False),
        (pipeline(rule={"type": "debounce"}), False),
    ],
)
def test_the_schema_and_the_reader_agree(candidate: dict[str, Any], allowed: bool) -> None:
    assert reader_allows(candidate) == allowed
    assert schema_allows(candidate) == allowed


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema.json_schema())


def test_the_file_that_edge_init_writes_is_valid() -> None:
    text = importlib.resources.files("edge.cli").joinpath("edge.toml").read_text("utf-8")
    for commented in ("# url = ", "# path = "):
        assert commented in text
    assert schema_allows(tomllib.loads(text))
    assert parse(text).pipelines[0].bundle == "builtin:meter_reader"
