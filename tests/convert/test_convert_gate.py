"""What is measured of a variant and what the gate says to it, on numbers. Needs no torch."""

from __future__ import annotations

import numpy as np
import pytest

from convert import accuracy, gate
from convert.agreement import agreement
from convert.parity import parity
from convert.recipe import Gate
from convert.report import Measured
from edge.manifest import Parity
from edge.types import Classification, Detections

INT8 = Gate().int8
FP32 = Gate().fp32


def _boxes(*boxes: tuple[float, float, float, float, int]) -> Detections:
    rows = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
    classes = np.array([box[4] for box in boxes], np.int64)
    return Detections(rows, np.full(len(boxes), 0.9, np.float32), classes, ("a", "b"))


def _class(index: int) -> Classification:
    return Classification(np.eye(3, dtype=np.float32)[index], ("x", "y", "z"))


def test_parity_is_relative_to_the_range_of_the_original() -> None:
    expected = np.array([[-10.0, 0.0], [10.0, 0.0]])
    measured = parity(expected, expected + np.array([[0.0, 2.0], [0.0, 0.0]]))
    assert measured.max_error == 0.1
    assert measured.p99_error == pytest.approx(0.097)
    assert measured.cosine == pytest.approx(np.sqrt(200 / 204), abs=1e-6)


def test_agreement_of_classes() -> None:
    reference = [_class(0), _class(1), _class(2), _class(0)]
    found = [_class(0), _class(1), _class(1), _class(0)]
    assert agreement(reference, found) == {"class": 0.75}


def test_agreement_of_boxes_counts_class_overlap_and_extras() -> None:
    reference = [_boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1)), _boxes((0, 0, 10, 10, 0))]
    shifted = (20, 0, 30, 8, 1)  # IoU 0.8
    other_class = (0, 0, 10, 10, 1)
    found = [_boxes((0, 0, 10, 10, 0), shifted, (50, 50, 60, 60, 0)), _boxes(other_class)]
    assert agreement(reference, found) == {
        "recall": pytest.approx(2 / 3, abs=1e-6),
        "mean_iou": 0.9,
        "extra": pytest.approx(2 / 3, abs=1e-6),
    }


def test_agreement_on_empty_pictures() -> None:
    assert agreement([_boxes()], [_boxes()]) == {"recall": 1.0, "mean_iou": 1.0, "extra": 0.0}


def test_a_good_variant_passes() -> None:
    measured = Measured(
        parity={"y": Parity(max_error=0.4, p99_error=0.05, cosine=0.99)},
        agreement={"class": 0.95},
        accuracy={"accuracy": 0.96},
    )
    assert gate.refusals(measured, INT8, reference={"accuracy": 0.98}) == []


def test_every_reason_is_given_with_its_numbers() -> None:
    measured = Measured(
        parity={"y": Parity(max_error=0.43, p99_error=0.0002, cosine=0.9)},
        agreement={"recall": 0.8, "mean_iou": 0.97, "extra": 0.3},
        accuracy={"map50": 0.7, "missed": 0.2},
    )
    assert gate.refusals(
        measured,
        FP32,
        reference={"map50": 0.9, "missed": 0.1},
        lower_is_better=("missed",),
    ) == [
        "y: largest error 0.43, at most 0.001 allowed",
        "agreement with the original (recall) 0.8, at least 0.99 needed",
        "boxes beyond the original's 0.3, at most 0.01 allowed",
        "map50 0.7 against the original's 0.9: loss of 0.2, at most 0.005 allowed",
        "missed 0.2 against the original's 0.1: loss of 0.1, at most 0.005 allowed",
    ]


def test_what_is_not_a_number_never_passes() -> None:
    measured = Measured(accuracy={"accuracy": float("nan")})
    assert len(gate.refusals(measured, INT8, reference={"accuracy": 1.0})) == 1


def test_map50_is_what_the_coco_tools_say(converters: None) -> None:
    truths = [
        {"boxes": np.array([[0, 0, 10, 10]]), "classes": np.array([0])},
        {"boxes": np.array([[5, 5, 15, 15]]), "classes": np.array([1])},
    ]
    right = [_boxes((0, 0, 10, 10, 0)), _boxes((5, 5, 15, 15, 1))]
    half = [_boxes((0, 0, 10, 10, 0)), _boxes((40, 40, 50, 50, 1))]
    assert accuracy.measure(right, truths)["map50"] == pytest.approx(1.0)
    assert accuracy.measure(half, truths)["map50"] == pytest.approx(0.5)
    assert accuracy.measure([_boxes(), _boxes()], truths) == {"map50": 0.0, "map50_95": 0.0}
