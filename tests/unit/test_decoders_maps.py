"""Decoders of maps, points of one body, and vectors, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import references as ref
from builders import apart, manifest

from edge import postprocess, seams
from edge.errors import BundleError, FrameError
from edge.manifest import Decoder, Thresholds, Variant
from edge.types import (
    UNSEEN,
    Anomaly,
    Array,
    Classification,
    Depth,
    Embedding,
    Geometry,
    Keypoints,
    Quantization,
    Regression,
    Segmentation,
    TensorSpec,
)

SIZE = (64, 48)
SAME = Geometry(np.array([[1, 0, 0], [0, 1, 0]], np.float32), *SIZE)
LETTERBOX = Geometry(np.array([[2, 0, 0], [0, 2, -16]], np.float32), 128, 64)
"""A source of 128 x 64 in the input's rows 8 to 40."""
CROP = Geometry(np.array([[1, 0, 32], [0, 1, 0]], np.float32), 128, 48)
"""Of a source of 128 x 48 the input shows the columns 32 to 96."""
TURNED = Geometry(np.array([[0, 1, 0], [-1, 0, 64]], np.float32), 48, 64)


def build(
    name: str,
    raw: dict[str, Array],
    *,
    labels: tuple[str, ...] = (),
    min_score: float = 0.5,
    quantization: Quantization | None = None,
    **params: Any,
) -> seams.Decode:
    variant = Variant(
        name="onnx-fp32", format="onnx", precision="fp32", file="models/a.onnx",
        inputs=(TensorSpec(name="image", shape=(1, 3, SIZE[1], SIZE[0]), layout="nchw"),),
        outputs=tuple(
            TensorSpec(name=key, shape=v.shape, dtype=v.dtype.name, quantization=quantization)
            for key, v in raw.items()
        ),
    )  # fmt: skip
    made = msgspec.structs.replace(
        manifest(), labels=labels, thresholds=Thresholds(score=min_score),
        decoder=Decoder(name=name, params=params),
    )  # fmt: skip
    return apart(postprocess.build(made, variant))


# ---- maps over the source


@pytest.mark.parametrize("channels", ["first", "last"])
def test_the_class_of_a_cell_is_the_one_with_the_highest_value(channels: str) -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 3, 48, 64)).astype(np.float32)
    raw = {"out": values if channels == "first" else values.transpose(0, 2, 3, 1).copy()}
    found = build("semantic", raw, labels=("a", "b", "c"), channels=channels)(raw, SAME)
    assert isinstance(found, Segmentation) and found.classes.dtype == np.int16
    plain = values[0].tolist()
    for y in range(48):
        for x in range(64):
            cell = [plane[y][x] for plane in plain]
            assert found.classes[y, x] == ref.best_class(cell)


def test_a_map_comes_over_the_source_without_the_border_of_the_letterbox() -> None:
    rows = np.repeat(np.arange(48), 64).reshape(1, 48, 64)
    raw = {"out": rows}
    found = build("semantic", raw, labels=tuple(map(str, range(48))), form="numbers")(
        raw, LETTERBOX
    )
    assert isinstance(found, Segmentation)
    assert found.classes.shape == (32, 64), "in cells of the model's size"
    assert found.classes[:, 0].tolist() == list(range(8, 40))


def test_a_map_turns_back_with_the_picture() -> None:
    rows = np.repeat(np.arange(48), 64).reshape(1, 48, 64)
    raw = {"out": rows}
    found = build("semantic", raw, labels=tuple(map(str, range(48))), form="numbers")(raw, TURNED)
    assert isinstance(found, Segmentation)
    assert found.classes.shape == (64, 48)
    assert found.classes[5].tolist() == list(range(48))


def test_what_a_crop_left_out_was_not_looked_at() -> None:
    raw = {"map": np.full((1, 1, 48, 64), 0.7, np.float32)}
    found = build("semantic", raw, labels=("no", "yes"), form="chance")(raw, CROP)
    assert isinstance(found, Segmentation)
    assert found.classes[0].tolist() == [UNSEEN] * 32 + [1] * 64 + [UNSEEN] * 32
    depth = build("depth", raw)(raw, CROP)
    assert isinstance(depth, Depth)
    assert np.isnan(depth.map[0]).tolist() == [True] * 32 + [False] * 64 + [True] * 32


def test_chances_are_held_against_the_threshold() -> None:
    logits = np.array([-2, -0.1, 0.1, 2], np.float32)
    raw = {"out": np.repeat(logits, 12 * 64).reshape(1, 48, 64)}
    for score in (0.3, 0.5, 0.8):
        decode = build(
            "semantic",
            raw,
            labels=("no", "yes"),
            form="chance",
            activation="sigmoid",
            min_score=score,
        )
        found = decode(raw, SAME)
        assert isinstance(found, Segmentation)
        wanted = [int(ref.sigmoid(value) >= score) for value in logits.tolist()]
        assert found.classes[::12, 0].tolist() == wanted


def test_an_anomaly_has_its_score_and_its_map() -> None:
    heat = np.zeros((1, 1, 48, 64), np.float32)
    heat[0, 0, 10, 20] = 0.8
    raw = {"score": np.array([[0.6]], np.float32), "map": heat}
    found = build("anomaly", raw, score="score", map="map", min_score=0.7)(raw, SAME)
    assert isinstance(found, Anomaly) and found.map is not None
    assert found.score == pytest.approx(0.6) and not found.anomalous
    assert np.unravel_index(found.map.argmax(), found.map.shape) == (10, 20)
    alone = build("anomaly", raw, map="map", min_score=0.7)(raw, SAME)
    assert isinstance(alone, Anomaly)
    assert alone.score == pytest.approx(0.8) and alone.anomalous
    number = build("anomaly", raw, score="score", min_score=0.6)(raw, None)
    assert isinstance(number, Anomaly) and number.map is None


def test_depth_is_interpolated_between_cells() -> None:
    ramp = np.tile(np.arange(16, dtype=np.float32), (12, 1))[None]  # cells of 4 x 4
    raw = {"out": ramp}
    half = Geometry(np.array([[0.5, 0, 0], [0, 0.5, 0]], np.float32), 32, 24)
    found = build("depth", raw, unit="m")(raw, half)
    assert isinstance(found, Depth) and found.unit == "m"
    assert found.map.shape == (12, 16)
    assert found.map[3] == pytest.approx(np.arange(16), abs=0.05)


# ---- points


def test_points_lie_at_the_peaks_of_their_maps() -> None:
    rng = np.random.default_rng(5)
    heat = rng.random((1, 4, 12, 16)).astype(np.float32)
    heat[0, 3, 0, 0] = 2  # in a corner nothing is moved
    names = ("a", "b", "c", "d")
    raw = {"out": heat}
    found = build("heatmaps", raw, labels=("cat",), points=list(names))(raw, LETTERBOX)
    expected = ref.heat_peaks(heat[0].tolist(), SIZE)
    assert isinstance(found, Keypoints) and found.point_names == names
    for point, score, (x, y, peak) in zip(
        found.points[0], found.point_scores[0], expected, strict=True
    ):
        assert point.tolist() == pytest.approx([2 * x, 2 * y - 16], abs=1e-3)
        assert score == pytest.approx(min(peak, 1))
    none = build("heatmaps", raw, labels=("cat",), points=list(names), min_score=1.0)
    assert len(none({"out": heat * 0.4}, SAME)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["one", "several"])
def test_movenet_gives_y_before_x(form: str) -> None:
    body = [[0.25, 0.5, 0.9], [0.75, 0.25, 0.8]]
    flat = [value for point in body for value in point]
    several = [[[*flat, 0.2, 0.1, 0.8, 0.6, 0.7], [*flat, 0, 0, 1, 1, 0.1]]]
    raw = {"out": np.array([[body]] if form == "one" else several, np.float32)}
    found = build("movenet", raw, labels=("person",), points=["a", "b"], form=form)(raw, SAME)
    assert isinstance(found, Keypoints) and len(found) == 1
    assert found.points[0].tolist() == [[32, 12], [16, 36]]
    box = [16, 12, 32, 36] if form == "one" else [6.4, 9.6, 38.4, 38.4]
    assert found.boxes[0].tolist() == pytest.approx(box)


# ---- vectors


def test_vectors_are_read_as_their_decoder_says() -> None:
    values = [1.5, -0.5, 3.0]
    raw = {"out": np.array([values], np.float32)}
    labels = ("a", "b", "c")
    soft = build("softmax", raw, labels=labels)(raw, None)
    each = build("sigmoid", raw, labels=labels)(raw, None)
    same = build("scores", raw, labels=labels)(raw, None)
    numbers = build("regression", raw, labels=labels)(raw, None)
    vector = build("embedding", raw)(raw, None)
    assert isinstance(soft, Classification) and isinstance(each, Classification)
    assert isinstance(same, Classification) and isinstance(numbers, Regression)
    assert isinstance(vector, Embedding)
    assert soft.scores == pytest.approx(ref.softmax(values), abs=1e-6)
    assert each.scores == pytest.approx([ref.sigmoid(value) for value in values], abs=1e-6)
    assert same.scores.tolist() == values and numbers.values.tolist() == values
    length = math.sqrt(sum(value**2 for value in values))
    assert vector.vector == pytest.approx([value / length for value in values], abs=1e-6)
    for one in (same.scores, numbers.values, vector.vector):
        assert not np.shares_memory(one, raw["out"])


def test_a_quantised_vector_is_read_as_real_numbers() -> None:
    raw = {"out": np.array([[0, 100, 255]], np.uint8)}
    quantization = Quantization(scale=0.1, zero_point=100)
    decode = build("softmax", raw, labels=("a", "b", "c"), quantization=quantization)
    found = decode(raw, None)
    assert isinstance(found, Classification)
    assert found.scores == pytest.approx(ref.softmax([-10.0, 0.0, 15.5]), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("softmax", {}), ("sigmoid", {}), ("scores", {}), ("regression", {}), ("embedding", {}),
        ("semantic", {"form": "chance"}), ("depth", {}), ("anomaly", {"map": "out"}),
        ("heatmaps", {"points": ["a"]}),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(name: str, params: dict[str, Any]) -> None:
    maps = name in ("semantic", "depth", "anomaly", "heatmaps")
    raw = {"out": np.full((1, 1, 48, 64) if maps else (1, 2), np.nan, np.float32)}
    labels = () if name in ("embedding", "depth", "anomaly") else ("a", "b")
    with pytest.raises(FrameError, match="not finite"):
        build(name, raw, labels=labels, **params)(raw, SAME)


def test_an_embedding_of_zeros_and_a_chance_of_three_are_refused() -> None:
    zeros = {"out": np.zeros((1, 4), np.float32)}
    with pytest.raises(FrameError, match="nothing but zeros"):
        build("embedding", zeros)(zeros, None)
    plane = {"out": np.zeros((1, 48, 64), np.float32)}
    with pytest.raises(BundleError, match="two labels"):
        build("semantic", plane, labels=("a", "b", "c"), form="chance")
