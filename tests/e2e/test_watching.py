"""From an edge.toml to events: a second model on the boxes, tracked objects, zones and counts."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from needs import need_assets, need_module

from edge import Pipeline, config_schema
from edge import config as configuration
from edge.clock import Clock
from edge.engines.host import Hosts
from edge.errors import ConfigError
from edge.sources.synthetic import DemoMeter
from edge.types import Detections
from edge.wire import CountData, DetectionsData, Event, ZoneData

FRAMES = 8
CONFIG = """
[[pipeline]]
name = "meter"
bundle = "builtin:meter_reader"

[pipeline.source]
type = "images"
path = "frames/*.png"

[pipeline.zones]
first_half = [[0, 0], [320, 0], [320, 360], [0, 360]]
second_half = [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]

[[pipeline.stage]]
name = "digit"
bundle = "builtin:meter_reader"
margin = 0.2

[[pipeline.rule]]
type = "track"
min_score = 0.3

[[pipeline.rule]]
type = "entered"
zone = "first_half"
settle_s = 0

[[pipeline.rule]]
type = "count"
zone = "second_half"
settle_s = 0

[[pipeline.rule]]
type = "on_change"

[[sink]]
type = "jsonl"
path = "events.jsonl"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A counter that rests, as pictures; the wobble of the camera moves its digits a little."""
    need_module("cv2")
    import cv2

    folder = tmp_path_factory.mktemp("watching")
    (folder / "frames").mkdir()
    meter = DemoMeter(DemoMeter.Config(rate=0), name="meter")
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f"frames/{number:02d}.png"), meter.picture(number))
    (folder / "edge.toml").write_text(CONFIG)
    return folder


def test_one_file_makes_events_of_four_kinds(folder: Path) -> None:
    need_module("onnxruntime")
    need_module("edgefirst.tracker")
    config = configuration.load(folder / "edge.toml")
    hosts, events = Hosts(), list[Event]()
    pipeline = Pipeline.from_config(config.pipelines[0], hosts=hosts, clock=Clock())
    with pipeline:
        pipeline.run(lambda event: not events.append(event), threading.Event())
    assert pipeline.stages[0].model.engine == pipeline.model.engine
    assert len(hosts._hosts) == 1, "both models run on one engine"
    assert set(pipeline.telemetry.latency_ms) == {"preprocess", "infer", "postprocess", "stages"}
    hosts.close()

    whole = [event for event in events if event.kind == "detections"]
    (data,) = [event.payload for event in whole]
    assert isinstance(data, DetectionsData)
    order = np.argsort([box[0] for box in data.boxes])
    assert [data.labels[index] for index in order] == list("004711")
    assert [found["digit"].label for found in data.attributes] == data.labels, (
        "each box, cut out and looked at again, shows its digit"
    )
    assert sorted(data.ids) == [1, 2, 3, 4, 5, 6], "tracked from the first frame on"

    entered = [event.payload for event in events if event.kind == "zone"]
    assert {(one.action, one.zone) for one in entered if isinstance(one, ZoneData)} == {
        ("entered", "first_half")
    }
    labels = [one.label for one in entered if isinstance(one, ZoneData)]
    assert sorted(labels) == ["0", "0", "4"], "once each, in all frames"
    (count,) = [event.payload for event in events if event.kind == "count"]
    assert isinstance(count, CountData)
    assert (count.zone, count.count, count.labels) == ("second_half", 3, {"1": 2, "7": 1})
    assert {event.source and event.source.frame for event in events} == {0}


def test_the_same_from_python(folder: Path) -> None:
    need_module("onnxruntime")
    need_module("edgefirst.tracker")
    (table,) = tomllib.loads(CONFIG)["pipeline"]
    with Pipeline(
        "meter",
        bundle="builtin:meter_reader",
        source={"type": "images", "path": str(folder / "frames/*.png")},
        rules=table["rule"],
        stage=table["stage"],
        zones=table["zones"],
    ) as pipeline:
        steps = list(pipeline)
    assert [len(step.happenings) for step in steps] == [4, *[0] * (FRAMES - 1)]
    assert len({tuple(sorted(step.prediction.names)) for step in steps}) == 1


def test_two_models_by_others_say_that_the_dog_is_a_malamute() -> None:
    """Files as they came: YOLOX on ONNX Runtime finds, MobileNet on LiteRT names what it found."""
    need_module("onnxruntime")
    need_module("ai_edge_litert")
    assets = need_assets()
    second = str(assets / "models/tf2_mobilenet_v2_1.0_224_ptq.tflite")
    said = {}
    for name in ("dog", "cat_1080p"):
        with Pipeline(
            "yard",
            bundle=assets / "models/yolox_nano_coco_416.onnx",
            source={"type": "images", "path": str(assets / f"images/{name}.jpg")},
            stage=[{"name": "breed", "bundle": second, "classes": ["dog", "cat"]}],
            rules=[{"type": "filter", "min_score": 0.5}],
        ) as pipeline:
            (step,) = pipeline
        found = step.outcome
        assert isinstance(found, Detections)
        said |= dict(zip(found.names, found.attributes[0].labels, strict=True))
    assert said.pop("dog").startswith("malamute") and said.pop("cat") == "Egyptian cat"
    assert set(said.values()) == {""}, "the bicycle and the car were not asked for"


def test_the_schema_knows_all_of_it() -> None:
    need_module("jsonschema")
    import jsonschema

    schema = config_schema.json_schema()
    motion = {"motion": {"min_area": 0.01, "at_least_every_s": 5}}
    document = tomllib.loads(CONFIG)
    document["pipeline"][0] |= motion
    jsonschema.Draft202012Validator(schema).validate(document)
    document["pipeline"][0]["stage"][0]["max_crop"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_crop"):
        jsonschema.Draft202012Validator(schema).validate(document)


def test_mistakes_are_told_with_file_and_key(tmp_path: Path) -> None:
    text = (
        CONFIG.replace('zone = "first_half"', 'zone = "frist_half"')
        .replace("margin = 0.2", "margin = -1\nmax_crop = 3")
        .replace("[1, 1], [0.5, 1]]", '[1, 1], "corner"]')
        .replace("[pipeline.zones]", "[pipeline.motion]\nmin_area = 2\n[pipeline.zones]")
    )
    (tmp_path / "edge.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(tmp_path / "edge.toml")
    for words in (
        "pipeline[0].rule[1]: zone 'frist_half' has no polygon; give it one here, or under",
        "pipeline[0].rule[2].polygon: ",
        "pipeline[0].stage[0].margin: Expected `float` >= 0.0",
        "pipeline[0].stage[0].max_crop: unknown key; did you mean max_crops?",
        "pipeline[0].motion.min_area: Expected `float` <= 1.0",
        "pipeline[0].zones: ",
    ):
        assert any(words in problem for problem in caught.value.problems), words
    assert all(str(tmp_path / "edge.toml") in problem for problem in caught.value.problems)


def test_models_that_do_not_go_together_are_told(folder: Path) -> None:
    source = {"type": "demo-wrist"}
    with pytest.raises(ConfigError, match="stage: wrist_activity finds no boxes to look at"):
        Pipeline(
            "wrist", bundle="builtin:wrist_activity", source=source,
            stage=[{"bundle": "builtin:meter_reader"}],
        )  # fmt: skip
    pictures = {"type": "images", "path": str(folder / "frames/*.png")}
    with pytest.raises(ConfigError, match="stage: wrist_activity cannot look at boxes"):
        Pipeline(
            "meter", bundle="builtin:meter_reader", source=pictures,
            stage=[{"bundle": "builtin:wrist_activity"}],
        )  # fmt: skip
    twice = [{"bundle": "builtin:meter_reader"}] * 2
    with pytest.raises(ConfigError, match="two are called 'meter_reader'"):
        Pipeline("meter", bundle="builtin:meter_reader", source=pictures, stage=twice)
