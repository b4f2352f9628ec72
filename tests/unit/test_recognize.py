"""What is recognised of a model from its shapes, values, names and metadata; and what is asked."""

from __future__ import annotations

from typing import Any

import needs
import numpy as np
import pytest

needs.need_module("onnx")
needs.need_module("onnxruntime")

import lookalikes as like  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from edge.errors import ConfigError, EdgeError, EngineError  # noqa: E402
from edge.manifest import ImagePreprocess, WindowPreprocess  # noqa: E402
from edge.recognize import Hints, Recognition, recognize  # noqa: E402

CELLS = 8 * 6 + 4 * 3 + 2 * 2  # of strides 8, 16, 32 over 48 x 64
FOUR = CELLS + 1  # and of stride 64
rng = np.random.default_rng(7)


def recognised(model: bytes, **hints: Any) -> Recognition:
    return recognize(model, format="onnx", hints=Hints(**hints))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"n{index}" for index in range(count))


def ultralytics(task: str, count: int = 3, **more: str) -> dict[str, str]:
    return {"task": task, "names": str(dict(enumerate(names(count)))), "stride": "32", **more}


def finished(extra: int = 0) -> Any:
    low = rng.uniform(0, 20, (300, 2))
    parts = [low, low + rng.uniform(2, 20, (300, 2)), np.sort(like.chances(rng, 300, 1), 0)[::-1]]
    return like.rows(*parts, rng.integers(0, 3, (300, 1)), rng.uniform(0, 1, (300, extra)))


def angles(count: int) -> Any:
    return rng.uniform(-0.7, 2.3, (count, 1))


HEADS: dict[str, tuple[dict[str, Any], str, str, int]] = {
    # outputs, task, decoder, labels
    "three anchors a cell, with objectness": (
        {"out": like.rows(like.boxes(rng, 3 * CELLS), like.chances(rng, 3 * CELLS, 5))},
        "detect", "yolov5", 4,
    ),
    "one place a cell, channels first": (
        {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 7))},
        "detect", "yolov8", 7,
    ),
    "one place a cell, 80 classes behind an objectness": (
        {"out": like.rows(like.boxes(rng, CELLS * 4), like.chances(rng, CELLS * 4, 81))},
        "detect", "yolov5", 80,
    ),
    "one place a cell, not decoded": (
        {"out": like.rows(rng.normal(0, 1, (CELLS, 4)), like.chances(rng, CELLS, 6))},
        "detect", "yolox", 5,
    ),
    "a list of corners, score and class": ({"out": finished()}, "detect", "end_to_end", 3),
    "class scores and distributions side by side": (
        {"out": like.rows(like.chances(rng, FOUR, 3), rng.normal(0, 2, (FOUR, 32)))},
        "detect", "distribution", 3,
    ),
    "class scores and distributions, a pair a grid": (
        {
            **{f"s{n}": like.chances(rng, 1, n, 5) for n in (48, 12, 4, 1)},
            **{f"b{n}": rng.normal(0, 2, (1, n, 32)) for n in (48, 12, 4, 1)},
        },
        "detect", "distribution", 5,
    ),
    "queries with logits": (
        {
            "logits": rng.normal(-4, 1, (1, 100, 80)),
            "boxes": rng.uniform(0.1, 0.3, (1, 100, 4)),
        },
        "detect", "detr", 80,
    ),
    "decoded boxes beside scores": (
        {
            "confidence": like.chances(rng, 1, 2000, 3),
            "location": np.sort(rng.uniform(0, 1, (1, 2000, 2, 2)), axis=2).reshape(1, 2000, 4),
        },
        "detect", "boxes_scores", 3,
    ),
    "one place a cell, with an angle": (
        {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 6), angles(CELLS))},
        "oriented", "yolo_oriented", 6,
    ),
    "one place a cell, with 17 points": (
        {
            "out": like.columns(
                like.boxes(rng, CELLS * 4), like.chances(rng, CELLS * 4, 1),
                np.stack(
                    [*rng.uniform(0, 60, (34, CELLS * 4)), *like.chances(rng, 17, CELLS * 4)], 1
                ).reshape(CELLS * 4, 51)[:, [i // 3 + 17 * (i % 3) for i in range(51)]],
            )
        },
        "keypoints", "yolo_pose", 1,
    ),
    "one place a cell, with coefficients of prototypes": (
        {
            "out": like.columns(
                like.boxes(rng, CELLS), like.chances(rng, CELLS, 4), rng.normal(0, 1, (CELLS, 32))
            ),
            "protos": rng.normal(0, 1, (1, 32, 16, 12)),
        },
        "instance", "yolo_segment", 4,
    ),
    "a grid with tanh and chances": (
        {
            "out": np.concatenate(
                [
                    like.chances(rng, 1, 1, 4, 3), rng.normal(0, 1, (1, 4, 4, 3)),
                    rng.dirichlet(np.ones(5), (1, 4, 3)).transpose(0, 3, 1, 2),
                ],
                axis=1,
            )
        },
        "detect", "fastestdet", 5,
    ),
    "values of classes for every pixel": (
        {"out": rng.normal(0, 1, (1, 5, 64, 48))}, "segment", "semantic", 5
    ),
    "numbers of classes for every pixel": (
        {"out": rng.integers(0, 4, (1, 64, 48))}, "segment", "semantic", 4
    ),
    "a score beside a map": (
        {"score": np.array([0.4]), "map": rng.uniform(0, 1, (1, 1, 64, 48))},
        "anomaly", "anomaly", 0,
    ),
    "a map that is called depth": (
        {"predicted_depth": rng.uniform(0, 9, (1, 64, 48))}, "depth", "depth", 0
    ),
    "17 points as y, x and a score": (
        {"out": rng.uniform(0, 1, (1, 1, 17, 3))}, "keypoints", "movenet", 1
    ),
    "chances of sum 1": ({"out": rng.dirichlet(np.ones(6), 1)}, "classify", "scores", 6),
    "a vector of length 1": ({"out": np.full((1, 128), -(128**-0.5))}, "embed", "embedding", 0),
    "one number": ({"out": np.array([[3.7]])}, "regress", "regression", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_known_by_its_shape_and_its_values(name: str) -> None:
    outputs, task, decoder, labels = HEADS[name]
    big = {CELLS * 4: (1, 3, 128, 96), 3 * CELLS: (1, 3, 64, 48)}
    shape = big.get(max(max(o.shape) for o in outputs.values()), (1, 3, 64, 48))
    model = like.model(outputs, shape=shape)
    given: dict[str, Any] = {"mean": (0.0,), "std": (255.0,)}
    if decoder == "end_to_end":
        with pytest.raises(ConfigError, match="--labels FILE"):
            recognised(model, **given)
        given["labels"] = names(3)
    found = recognised(model, **given)
    assert (found.task, found.decoder.name, len(found.labels)) == (task, decoder, labels)
    assert {note.key for note in found.assumptions} >= {"task", "color", "resize"}
    assert all(note.why and note.flag for note in found.assumptions)


METADATA: dict[str, tuple[dict[str, Any], dict[str, str], str, str, dict[str, Any]]] = {
    "detect": (
        {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 3))},
        ultralytics("detect"), "detect", "yolov8", {"channels": "first"},
    ),
    "detect, chosen by the graph": (
        {"out": finished()}, ultralytics("detect", end2end="True"), "detect", "end_to_end", {},
    ),
    "v5": (
        {"out": like.rows(like.boxes(rng, 3 * CELLS), like.chances(rng, 3 * CELLS, 4))},
        ultralytics("detect"), "detect", "yolov5", {},
    ),
    "segment": (
        {
            "out": like.columns(
                like.boxes(rng, CELLS), like.chances(rng, CELLS, 3), rng.normal(0, 1, (CELLS, 32))
            ),
            "protos": rng.normal(0, 1, (1, 32, 16, 12)),
        },
        ultralytics("segment"), "instance", "yolo_segment", {"prototypes": "protos"},
    ),
    "pose": (
        {
            "out": like.columns(
                like.boxes(rng, CELLS), like.chances(rng, CELLS, 1), rng.uniform(0, 60, (CELLS, 8))
            )
        },
        ultralytics("pose", 1, kpt_shape="[4, 2]"), "keypoints", "yolo_pose", {"scored": False},
    ),
    "pose, chosen by the graph": (
        {"out": finished(12)}, ultralytics("pose", 3, end2end="True", kpt_shape="[4, 3]"),
        "keypoints", "yolo_pose", {"end_to_end": True},
    ),
    "obb": (
        {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 3), angles(CELLS))},
        ultralytics("obb"), "oriented", "yolo_oriented", {},
    ),
    "classify": (
        {"out": rng.dirichlet(np.ones(3), 1)}, ultralytics("classify"), "classify", "scores", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_what_the_exporter_noted_is_believed(name: str) -> None:
    outputs, metadata, task, decoder, params = METADATA[name]
    found = recognised(like.model(outputs, metadata=metadata))
    assert (found.task, found.decoder.name) == (task, decoder)
    assert found.decoder.params.items() >= params.items()
    assert found.labels[0] == "n0"
    assert isinstance(found.preprocess, ImagePreprocess) and found.preprocess.std == (255.0,) * 3


def test_a_noted_size_settles_an_open_one() -> None:
    outputs = {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 3))}
    open_shape = ("batch", 3, "height", "width")
    noted = ultralytics("detect", imgsz="[64, 48]")
    assert recognised(like.model(outputs, shape=open_shape, metadata=noted)).inputs[0].shape == (
        1, 3, 64, 48,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="--size WIDTHxHEIGHT"):
        recognised(like.model(outputs, shape=open_shape, metadata=ultralytics("detect")))
    found = recognised(like.model(outputs, shape=open_shape), size=(48, 64))
    assert found.decoder.name == "yolov8"


# ---- where two readings are possible


ASKS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "logits": (
        {"out": rng.normal(0, 3, (1, 10))}, {},
        ["--decoder softmax", "--decoder sigmoid", "--task regress", "--task embed"],
    ),
    "one map": (
        {"out": rng.normal(0, 3, (1, 1, 64, 48))}, {},
        ["--task segment", "--task depth", "--task anomaly"],
    ),
    "maps of points or of classes": (
        {"out": rng.normal(0, 1, (1, 17, 16, 12))}, {}, ["--task segment", "--task keypoints"]
    ),
    "rows with or without an objectness": (
        {"out": like.rows(like.boxes(rng, CELLS), like.chances(rng, CELLS, 6))}, {},
        ["yolov8 with 6 labels", "yolov5 with 5 labels"],
    ),
    "range": ({"out": rng.dirichlet(np.ones(6), 1)}, {}, ["--normalize imagenet", "--mean"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKS)
def test_where_two_readings_are_possible_a_flag_is_asked_for(name: str) -> None:
    outputs, hints, words = ASKS[name]
    with pytest.raises(ConfigError) as caught:
        recognised(like.model(outputs), **hints)
    for word in words:
        assert word in str(caught.value)


def test_each_flag_makes_the_choice_that_was_asked_for() -> None:
    logits = like.model({"out": rng.normal(0, 3, (1, 10))})
    plain = {"mean": (0.0,), "std": (1.0,)}
    assert recognised(logits, decoder="sigmoid", **plain).decoder.name == "sigmoid"
    assert recognised(logits, task="embed", **plain).labels == ()
    assert recognised(logits, labels=names(10), **plain).decoder.name == "softmax"
    assert recognised(logits, task="regress", labels=names(10), **plain).labels == names(10)
    rows = like.model({"out": like.rows(like.boxes(rng, CELLS), like.chances(rng, CELLS, 6))})
    assert recognised(rows, labels=names(5), **plain).decoder.name == "yolov5"
    assert recognised(rows, labels=names(6), **plain).decoder.name == "yolov8"


def test_every_assumption_can_be_overridden() -> None:
    outputs = {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 3))}
    found = recognised(
        like.model(outputs), color="bgr", resize="crop", anchor="topleft", pad=7, mean=(1.0, 2, 3),
        std=(4.0, 5, 6), labels=("a", "b", "c"), score=0.9, params={"nms_iou": 0.11},
    )  # fmt: skip
    assert found.preprocess == ImagePreprocess(
        resize="crop", anchor="topleft", color="bgr", pad=7, mean=(1, 2, 3), std=(4, 5, 6)
    )
    assert found.labels == ("a", "b", "c") and found.thresholds.score == 0.9
    assert found.decoder.params["nms_iou"] == 0.11


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"labels": ("a",)}, "--labels: 1 names for 3 classes"),
        ({"mean": (1.0,)}, "--mean and --std belong together"),
        ({"mean": (1.0, 2), "std": (1.0, 2)}, "--mean: 2 numbers for 3 channels"),
        ({"std": (0.0,), "mean": (0.0,)}, "above 0"),
        ({"color": "gray"}, "has 3 channels"),
        ({"decoder": "crystal_ball"}, "no decoder is called 'crystal_ball'"),
        ({"decoder": "detr"}, "--param NAME=VALUE"),
        ({"params": {"strides": [8]}}, "unknown field `strides`"),
        ({"task": "depth"}, r"cannot be recognised as depth.*--task detect"),
        ({"constants": {"sr": 1.0}}, "--constant sr"),
    ],
)
def test_a_flag_that_does_not_fit_is_a_clear_mistake(hints: dict[str, Any], words: str) -> None:
    outputs = {"out": like.columns(like.boxes(rng, CELLS), like.chances(rng, CELLS, 3))}
    with pytest.raises(ConfigError, match=words):
        recognised(like.model(outputs), **hints)


# ---- inputs


def test_a_graph_that_scales_by_itself_gets_bytes_as_numbers() -> None:
    chances = {"out": rng.dirichlet(np.ones(6), 1)}
    found = recognised(like.model(chances, first="Div"))
    assert isinstance(found.preprocess, ImagePreprocess) and found.preprocess.std == (1.0,) * 3
    assert any("scales its input by itself (Div)" in note.why for note in found.assumptions)


@pytest.mark.parametrize(
    ("dtype", "folded"),
    [(TensorProto.FLOAT16, False), (TensorProto.UINT8, True), (TensorProto.INT32, False)],
)
def test_inputs_of_other_types_are_fed(dtype: int, folded: bool) -> None:
    model = like.model({"out": rng.dirichlet(np.ones(6), 1)}, dtype=dtype)
    found = recognised(model, mean=(0.0,), std=(1.0,)) if not folded else recognised(model)
    assert isinstance(found.preprocess, ImagePreprocess) and found.preprocess.folded == folded


def test_grey_pictures_and_other_layouts() -> None:
    chances = {"out": rng.dirichlet(np.ones(6), 1)}
    grey = recognised(like.model(chances, shape=(1, 1, 28, 28)), mean=(0.0,), std=(255.0,))
    assert isinstance(grey.preprocess, ImagePreprocess) and grey.preprocess.color == "gray"
    last = recognised(like.model(chances, shape=(1, 32, 20, 3)), mean=(0.0,), std=(255.0,))
    assert last.inputs[0].layout == "nhwc"


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((1, 4, 64, 64), TensorProto.FLOAT, "C of 1 .grey. or 3"),
        ((2, 3, 64, 64), TensorProto.FLOAT, "pictures are"),
        ((1, 3, 64, 64), TensorProto.DOUBLE, "pictures are float32"),
        ((1, 3, 64, 64), TensorProto.BOOL, "pictures are float32"),
        ((1, 3, 9000, 64), TensorProto.FLOAT, "no side may be longer"),
        ((1, 3, 64, 64, 2), TensorProto.FLOAT, "windows of samples are"),
        ((64,), TensorProto.FLOAT, "windows of samples are"),
        ((1, "time"), TensorProto.FLOAT, "--length SAMPLES"),
        ((1, 6, 128), TensorProto.FLOAT, "time first"),
        ((1, 8), TensorProto.INT64, "this is neither"),
    ],
)
def test_an_input_that_nothing_can_be_fed_to_is_said(
    shape: tuple[int | str, ...], dtype: int, words: str
) -> None:
    model = like.model({"out": rng.dirichlet(np.ones(6), 1)}, shape=shape, dtype=dtype)
    with pytest.raises(ConfigError, match=words):
        recognised(model, mean=(0.0,), std=(1.0,))


def test_windows_of_samples_are_read_by_their_shape() -> None:
    chances = {"out": rng.dirichlet(np.ones(4), 1)}
    timed = recognised(like.model(chances, shape=(1, 128, 6)))
    assert timed.preprocess == WindowPreprocess(
        length=128, hop=128, rate_hz=1, channels=names_of("c", 6), mean=(0,) * 6, std=(1,) * 6
    )
    features = recognised(like.model(chances, shape=(1, 5)), channels=tuple("abcde"))
    assert isinstance(features.preprocess, WindowPreprocess)
    assert (features.preprocess.length, features.preprocess.channels) == (1, tuple("abcde"))
    audio = recognised(like.model(chances, shape=(1, 512)), rate_hz=16000.0, hop=256)
    assert isinstance(audio.preprocess, WindowPreprocess)
    assert (audio.preprocess.length, audio.preprocess.hop) == (512, 256)


def names_of(letter: str, count: int) -> tuple[str, ...]:
    return tuple(f"{letter}{index}" for index in range(count))


# ---- files that are no models, and random graphs


def test_what_the_runtime_refuses_is_a_clear_error() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 8, 8])

    def one(operator: str, domain: str = "") -> Any:
        node = helper.make_node(operator, ["image"], ["out"], domain=domain)
        return helper.make_graph([node], "g", [image], [out])

    for model, format in (
        (b"", "onnx"),
        (b"not a model", "onnx"),
        (b"not a model", "tflite"),
        (like.file_of(one("Relu"), opset=99), "onnx"),
        (like.file_of(one("Teleport", "my.domain"), domain="my.domain"), "onnx"),
        (like.file_of(one("Relu"))[:40], "onnx"),
    ):
        with pytest.raises(EngineError, match="cannot be loaded"):
            recognize(model, format=format)  # type: ignore[arg-type]


def test_random_graphs_never_give_a_traceback() -> None:
    seen: set[str] = set()
    dice = np.random.default_rng(3)
    for number in range(110):
        shape: tuple[int, ...] = (1, 3, 64, 48)
        if dice.random() < 0.3:
            shape = tuple(dice.choice([1, 3, 8], int(dice.integers(1, 6))).tolist())
        outputs = {}
        for index in range(int(dice.choice([1, 1, 2, 3]))):
            sizes = dice.choice([1, 2, 4, 5, 6, 7, 17, 48, 64, CELLS, 300], dice.integers(0, 5))
            sizes = sizes.tolist() if np.prod(sizes) < 1e5 else [1, 5]
            if dice.random() < 0.5:
                sizes = [1, int(dice.choice([CELLS, 3 * CELLS, 20])), int(dice.integers(1, 40))]
            values = np.asarray(dice.normal(0, 10 ** dice.uniform(-2, 2), sizes))
            if values.ndim == 3 and dice.random() < 0.7:
                values[..., :4] = np.abs(values[..., :4]) * 10
                values[..., 4:] = 1 / (1 + np.exp(-values[..., 4:]))
            odd = dice.choice([np.nan, np.inf, 0.0]) if dice.random() < 0.2 else None
            values = values if odd is None else np.full_like(values, odd)
            dtype = dice.choice(["float32", "float32", "float32", "int64", "uint8", "bool"])
            with np.errstate(invalid="ignore"):
                outputs[f"{dice.choice(['out', 'boxes', 'scores'])}{index}"] = values.astype(dtype)
        model = like.model(outputs, shape=shape)
        tasks = ("detect", "classify", "segment", "depth", "embed", "regress", None)
        hints = Hints(mean=(0.0,), std=(1.0,), task=tasks[number % 7])
        try:
            seen.add(recognize(model, format="onnx", hints=hints).decoder.name)
        except EdgeError as error:
            assert "\n\n" not in str(error)
            seen.add("asked")
    assert len(seen) >= 4, "the graphs are worth recognising"
