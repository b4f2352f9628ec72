from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import DIGITS, manifest, row
from needs import need_module

from edge.config import StageConfig
from edge.errors import ConfigError
from edge.manifest import ImagePreprocess
from edge.payloads import AttributeData, DetectionsData, payload_of
from edge.stages import Stage, cut
from edge.types import Array, Classification, Detections, Prediction

CLASSES = ("car", "van", "person")
PICTURE = np.zeros((100, 200, 3), np.uint8)


def objects(*names: str, scores: tuple[float, ...] = ()) -> Detections:
    """Boxes of 10 x 10 pixels side by side; the picture is 20 x their number inside of them."""
    left = np.arange(len(names), dtype=np.float32) * 20
    return Detections(
        np.stack([left, left * 0 + 20, left + 10, left * 0 + 30], axis=1),
        np.array(scores or [0.9] * len(names), np.float32),
        np.array([CLASSES.index(name) for name in names], np.int64),
        CLASSES,
    )


class Colours:
    """A second model: red where the crop is bright, and what was asked of it."""

    def __init__(self, answer: Prediction | None = None, **changes: Any) -> None:
        self.manifest = manifest(
            name="colour", labels=["red", "blue"],
            preprocess={"kind": "image"}, **changes,
        )  # fmt: skip
        assert isinstance(self.manifest.preprocess, ImagePreprocess)
        self.crops: list[Array] = []
        self._answer = answer

    def predict(self, crop: Array) -> Prediction:
        self.crops.append(crop)
        if self._answer is not None:
            return self._answer
        bright = 0.8 if crop.mean() > 128 else 0.3
        scores = np.array([bright, 1 - bright], np.float32)
        return Classification(scores, ("red", "blue"))


def stage(model: Colours, **config: Any) -> Stage:
    decoded = StageConfig(bundle="colour.tar", **config)
    return Stage(decoded, model, labels=CLASSES, first="cars")  # type: ignore[arg-type]


def said(found: Detections) -> list[str]:
    (attribute,) = found.attributes
    return list(attribute.labels)


def test_each_box_gets_what_the_second_model_says_of_it() -> None:
    picture = PICTURE.copy()
    picture[20:30, 20:30] = 255
    seen = stage(Colours(), margin=0)(picture, objects("car", "van"))
    (attribute,) = seen.attributes
    assert (attribute.name, attribute.labels) == ("colour", ("blue", "red"))
    np.testing.assert_allclose(attribute.scores, [0.7, 0.8], rtol=1e-5)
    assert seen.names == ["car", "van"], "the detections stay what they are"


def test_only_the_wanted_classes_are_looked_at_and_the_surest_first() -> None:
    model = Colours()
    found = objects("car", "person", "car", "van", scores=(0.5, 0.99, 0.9, 0.7))
    looked = stage(model, classes=("car", "van"), max_crops=2)(PICTURE, found)
    assert said(looked) == ["", "", "blue", "blue"] and len(model.crops) == 2


def test_what_is_not_sure_is_not_said() -> None:
    assert said(stage(Colours(), min_score=0.9)(PICTURE, objects("car"))) == [""]


def test_a_second_model_that_detects_reads_from_left_to_right() -> None:
    assert said(stage(Colours(row("0471")))(PICTURE, objects("car"))) == ["0471"]
    assert said(stage(Colours(row("04_1")))(PICTURE, objects("car"))) == ["0 4 between 1"]
    nothing = Detections.empty(DIGITS)
    assert said(stage(Colours(nothing))(PICTURE, objects("car"))) == [""]


def test_attributes_go_with_their_detections_and_travel() -> None:
    first, second = stage(Colours(), classes=("car",)), stage(Colours(), name="again")
    found = second(PICTURE, first(PICTURE, objects("person", "car")))
    data = payload_of(found[np.array([False, True])])
    assert isinstance(data, DetectionsData)
    blue = AttributeData(label="blue", score=0.7)
    assert data.attributes == [{"colour": blue, "again": blue}]
    whole = payload_of(found)
    assert isinstance(whole, DetectionsData) and whole.attributes[0] == {"again": blue}


def test_a_frame_without_boxes_asks_nothing() -> None:
    model = Colours()
    assert said(stage(model)(PICTURE, objects())) == [] == model.crops


@pytest.mark.parametrize(
    ("box", "margin", "shape"),
    [
        ((10, 20, 30, 60), 0.0, (40, 20)),
        ((10, 20, 30, 60), 0.5, (80, 40)),
        ((-50, -50, 20, 20), 0.0, (20, 20)),
        ((180, 80, 300, 300), 0.1, (42, 32)),
        ((10, 20, 10, 20), 0.5, (0, 0)),
        ((30, 60, 10, 20), 0.0, (0, 0)),
        ((500, 500, 600, 600), 0.0, (0, 0)),
    ],
)
def test_a_crop_is_the_box_and_a_margin_inside_of_the_picture(
    box: tuple[float, ...], margin: float, shape: tuple[int, int]
) -> None:
    assert cut(PICTURE, np.array(box, np.float32), margin=margin).shape[:2] == shape


def test_a_box_without_area_is_not_looked_at() -> None:
    model = Colours()
    found = objects("car")
    found.boxes[0] = (5, 5, 5, 5)
    assert said(stage(model)(PICTURE, found)) == [""] and model.crops == []


@pytest.mark.parametrize("task", ["detect", "instance", "keypoints", "oriented"])
def test_every_model_that_finds_boxes_may_come_first(task: str) -> None:
    need_module("onnxruntime")
    first: Any = SimpleNamespace(manifest=manifest(name="first", task=task, labels=["thing"]))
    opened = Stage.open(StageConfig(bundle="builtin:meter_reader"), first, hosts=None)
    assert opened.name == "meter_reader"
    opened.model.close()


def test_a_second_model_must_go_with_the_first() -> None:
    with pytest.raises(ConfigError, match="stage: cars has no class cat; it has car, van, person"):
        stage(Colours(), classes=("cat",))
    sensor = Colours()
    sensor.manifest = manifest(name="wrist")
    with pytest.raises(ConfigError, match="stage: wrist cannot look at boxes"):
        stage(sensor)
