from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import DIGITS, row

from edge import golden
from edge.bundle import Bundle, write
from edge.errors import BundleError
from edge.golden import GoldenResult
from edge.manifest import GoldenCase
from edge.model import Model
from edge.types import (
    Anomaly,
    Array,
    Classification,
    Depth,
    Detections,
    Embedding,
    Keypoints,
    Oriented,
    Regression,
    Segmentation,
)


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def rebuilt(bundle: Path, destination: Path, *, files: dict[str, bytes], **changes: Any) -> Bundle:
    """The bundle with other files and an otherwise changed manifest, its digests all right."""
    opened = Bundle.open(bundle)
    kept = {name: opened.read(name) for name in opened.manifest.files}
    manifest = msgspec.structs.replace(opened.manifest, **changes)
    return write(destination, manifest, {**kept, **files})


def checked(bundle: Bundle) -> list[GoldenResult]:
    with Model(bundle, variant="onnx-fp32") as model:
        return golden.check(model)


def case_of(bundle: Path, kind: str) -> GoldenCase:
    cases = Bundle.open(bundle).manifest.golden
    return next(case for case in cases if case.kind == kind and "tflite" not in case.variant)


def test_every_case_of_the_variant_is_run(wrist_bundle: Path) -> None:
    opened = Bundle.open(wrist_bundle)
    cases = [case.name for case in opened.manifest.golden if case.variant in ("", "onnx-fp32")]
    results = checked(opened)
    assert [result.case for result in results] == cases
    assert all(result.passed for result in results)


@pytest.mark.parametrize("kind", ["reference", "variant"])
def test_a_tensor_that_is_off_is_noticed(wrist_bundle: Path, tmp_path: Path, kind: str) -> None:
    case = case_of(wrist_bundle, kind)
    path = next(iter(case.outputs.values()))
    expected = golden.read_array(Bundle.open(wrist_bundle), path)
    off = expected + np.ptp(expected) * 2 * case.tolerance["error"]
    changed = rebuilt(wrist_bundle, tmp_path / "b", files={path: npy(off)})
    failed = [result.case for result in checked(changed) if not result.passed]
    assert case.name in failed


def test_a_prediction_that_is_off_is_noticed(wrist_bundle: Path, tmp_path: Path) -> None:
    case = case_of(wrist_bundle, "raw")
    scores = case.expected["scores"]
    wrong = msgspec.structs.replace(case, expected={"scores": scores[::-1]}, variant="")
    changed = rebuilt(wrist_bundle, tmp_path / "b", files={}, golden=(wrong,))
    assert [result.passed for result in checked(changed)] == [False]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("raw", {"expected": {}}),
        ("raw", {"expected": {"scores": [1.0]}}),
        ("reference", {"tolerance": {}}),
        ("reference", {"outputs": {"from elsewhere": "manifest"}}),
    ],
)
def test_a_case_that_does_not_fit_the_model_is_a_bad_bundle(
    wrist_bundle: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    case = case_of(wrist_bundle, kind)
    if "outputs" in changes:
        changes = {"outputs": {"from elsewhere": case.input}}
    wrong = msgspec.structs.replace(case, variant="", **changes)
    changed = rebuilt(wrist_bundle, tmp_path / "b", files={}, golden=(wrong,))
    with pytest.raises(BundleError, match=f"golden case {case.name} does not fit"):
        checked(changed)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pickled.npy", npy(np.array([{"a": 1}], object))),
        ("empty.npy", b""),
        ("cut.npy", npy(np.arange(100))[:-8]),
        ("archive.npy", b"PK\x03\x04 and so on"),
        ("text.npy", b"1, 2, 3"),
        ("text.png", b"this is no picture"),
    ],
)
def test_a_golden_file_that_is_no_array_is_a_bad_bundle(
    wrist_bundle: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    opened = rebuilt(wrist_bundle, tmp_path / "b", files={name: data})
    with pytest.raises(BundleError, match=f"{name} is not a"):
        golden.read_array(opened, name)


# ---- how far apart two predictions are


def test_a_prediction_agrees_with_itself() -> None:
    found = row("123")
    assert golden.compare(found, golden.expected_of(found)) == {
        "iou": 1.0,
        "score": pytest.approx(0, abs=1e-4),
        "missed": 0.0,
        "extra": 0.0,
    }
    classified = Classification(np.array([0.25, 0.75], np.float32), ("a", "b"))
    assert golden.compare(classified, golden.expected_of(classified)) == {"score": 0.0}


def test_detections_are_matched_by_place_and_class() -> None:
    expected = golden.expected_of(row("123"))
    reordered = row("123")[np.array([2, 0, 1])]
    assert golden.compare(reordered, expected)["iou"] == 1.0
    other_class = golden.compare(row("124"), expected)
    assert (other_class["missed"], other_class["extra"]) == (1.0, 1.0)
    moved = row("123")
    moved.boxes[1] += (0, 10, 0, 10)  # half of its height
    moved.scores[0] = 0.7
    measured = golden.compare(moved, expected)
    assert measured["iou"] == pytest.approx(1 / 3)
    assert measured["score"] == pytest.approx(0.2)
    nothing = golden.compare(Detections.empty(DIGITS), expected)
    assert (nothing["missed"], nothing["extra"]) == (3.0, 0.0)
    unexpected = golden.compare(row("123"), golden.expected_of(Detections.empty(DIGITS)))
    assert (unexpected["missed"], unexpected["extra"]) == (0.0, 3.0)


def test_the_error_of_a_tensor_is_relative_to_its_range() -> None:
    expected = np.array([0.0, 10.0], np.float32)
    assert golden.range_error(expected + 1, expected) == pytest.approx(0.1)
    assert golden.range_error(np.ones(1), np.ones(1)) == 0.0
    assert golden.range_error(np.zeros(3), expected) == float("inf")
    assert golden.range_error(np.array([0, np.nan]), expected) == float("inf")


def test_box_iou_is_what_pencil_and_paper_say() -> None:
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(golden.box_iou(boxes, others), [[1, 1 / 3, 0, 0]], atol=1e-6)


def test_every_kind_of_prediction_agrees_with_itself_and_not_with_another() -> None:
    found = row("12")
    base = (found.boxes, found.scores, found.classes, found.labels)
    cells = np.array([[0, 0], [1, 1]], np.int16)
    ones = np.ones((2, 1, 2), np.float32)
    pairs: list[tuple[Any, Any, str]] = [
        (
            Keypoints(*base, ones, ones[:, :, 0], ("tip",)),
            Keypoints(*base, ones * 4, ones[:, :, 0], ("tip",)),
            "distance",
        ),
        (
            Oriented(*base, np.zeros((2, 4, 2), np.float32)),
            Oriented(*base, np.full((2, 4, 2), 3, np.float32)),
            "distance",
        ),
        (Segmentation(cells, ("a", "b")), Segmentation(cells * 0, ("a", "b")), "share"),
        (Anomaly(score=0.5, threshold=1), Anomaly(score=0.7, threshold=1), "error"),
        (Depth(map=np.ones((2, 2))), Depth(map=np.full((2, 2), 2.0)), "error"),
        (Regression(np.array([1.0]), ("a",)), Regression(np.array([2.0]), ("a",)), "error"),
        (Embedding(np.array([1.0, 0])), Embedding(np.array([0, 1.0])), "error"),
    ]
    for first, second, measure in pairs:
        expected = golden.expected_of(first)
        assert golden.compare(first, expected)[measure] == 0
        assert golden.compare(second, expected)[measure] > 0.1
    with pytest.raises(ValueError, match="1 numbers for 2"):
        golden.compare(Embedding(np.array([1.0, 0])), {"values": [1.0]})
