"""Parity, accuracy, latency and what dominates what, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from convert import accuracy, latency
from convert.agreement import agreement
from convert.diagnosis import Evidence
from convert.gate import Candidate, advice, dominated, refusals
from convert.parity import KEPT, Tally, parity
from convert.recipe import Gate
from convert.report import Measured, finite
from edge.manifest import Parity
from edge.types import (
    Anomaly,
    Array,
    Depth,
    Detections,
    Embedding,
    Keypoints,
    Regression,
    Segmentation,
)


def test_many_samples_are_measured_as_one_array_would_be() -> None:
    rng = np.random.default_rng(1)
    expected = rng.normal(size=(30, 1, 7)).astype(np.float32)
    actual = expected + rng.normal(scale=0.01, size=expected.shape).astype(np.float32)
    tally = Tally()
    for one, other in zip(expected, actual, strict=True):
        tally.add(one, other)
    assert tally.parity() == parity(expected, actual)


def test_of_a_large_output_the_percentile_is_estimated_and_the_largest_error_is_exact() -> None:
    expected = np.linspace(0, 1, 50 * KEPT).reshape(1, -1)
    actual = expected + 0.01
    actual[0, 12345] += 0.5
    measured = parity(expected, actual)
    assert measured.max_error == 0.51
    assert measured.p99_error == 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_an_infinite_error_that_no_bound_allows(value: float) -> None:
    measured = Measured(parity={"y": parity(np.array([[0.0, 1.0]]), np.array([[0.0, value]]))})
    assert measured.parity["y"].max_error == float("inf")
    for precision in ("fp32", "fp16", "int8-dynamic", "int8"):
        bounds = Gate().bounds(precision)
        assert refusals(measured, bounds, reference={}) == ["y: gives values that are not finite"]
    assert "fp16 holds (65504)" in advice(measured, Evidence(), precision="fp16")
    assert finite({"y": [measured.parity["y"].max_error]}) == {"y": [None]}


def test_minus_infinity_in_both_is_no_error() -> None:
    masked = np.array([[-np.inf, 1.0, 3.0]])
    assert parity(masked, masked).max_error == 0.0
    assert parity(masked, masked + np.array([[0, 0.5, 0]])).max_error == 0.25


def test_a_transposed_output_has_the_right_values_in_another_order() -> None:
    rng = np.random.default_rng(2)
    tally, other = Tally(), Tally()
    for _ in range(3):
        matrix = rng.normal(size=(1, 6, 6))
        tally.add(matrix, matrix.swapaxes(1, 2))
        other.add(matrix, 1.5 * matrix)
    assert tally.traits().reordered and not other.traits().reordered


def test_the_measures_of_classes_are_those_of_scikit_learn(converters: None) -> None:
    scores = np.eye(6)[[0, 1, 2, 3, 3, 5]] + 0.1 * np.arange(6)[::-1]
    measured = accuracy.of_classes(scores, np.array([0, 1, 2, 3, 4, 0]))
    assert measured["accuracy"] == pytest.approx(4 / 6)
    # By hand: F1 of 0: 2/3, 1: 1, 2: 1, 3: 2/3, 4: 0, 5: 0.
    assert measured["f1"] == pytest.approx((2 / 3 + 1 + 1 + 2 / 3) / 6)
    assert measured["top5"] == pytest.approx(1.0)
    few = accuracy.of_classes(np.eye(3), np.arange(3))
    assert set(few) == {"accuracy", "f1"}


def test_the_measures_of_maps_and_values(converters: None) -> None:
    truth = [np.array([[0, 0], [1, 1]]), np.array([[1, 1], [1, 1]])]
    found = [np.array([[0, 1], [1, 1]]), np.array([[1, 1], [1, 0]])]
    # class 0: 1 of 3, class 1: 5 of 7
    assert accuracy.of_maps(found, truth) == {"miou": pytest.approx((1 / 3 + 5 / 7) / 2)}
    values = accuracy.of_values(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert values == {"mae": pytest.approx(1 / 3), "r2": pytest.approx(0.5)}


@pytest.mark.parametrize("mae", [3.0, 12.0])
def test_an_error_in_units_is_reported_and_not_judged_as_a_share(mae: float) -> None:
    measured = Measured(accuracy={"mae": mae, "r2": 0.9})
    (reason,) = refusals(measured, Gate().fp32, reference={"mae": 6.0, "r2": 0.95})
    assert reason.startswith("r2 0.9 against the original's 0.95")


def test_map_over_all_overlaps_is_less_for_boxes_that_are_a_little_off(converters: None) -> None:

    truth = [{"boxes": np.array([[0, 0, 10, 10]]), "classes": np.array([0])}]
    near = Detections(
        np.array([[0, 0, 10, 7.2]], np.float32),  # IoU 0.72: right up to 0.7, five steps of ten
        np.array([0.9], np.float32),
        np.array([0]),
        ("a",),
    )
    measured = accuracy.measure([near], truth)
    assert measured == {"map50": pytest.approx(1.0), "map50_95": pytest.approx(0.5)}


def _candidate(size: int, milliseconds: float, error: float, format: str = "onnx") -> Candidate:
    worst = Parity(max_error=error, p99_error=error, cosine=1.0)
    measured = Measured(parity={"y": worst}, agreement={"class": 1 - error})
    return Candidate(format=format, size=size, seconds=milliseconds / 1e3, measured=measured)


def test_a_slower_larger_and_less_exact_variant_is_dominated_within_its_format() -> None:
    found = dominated(
        {
            "onnx-fp32": _candidate(400, 4.0, 0.0),
            "onnx-int8-dynamic": _candidate(110, 9.0, 0.03),
            "onnx-int8": _candidate(100, 3.0, 0.02),
            "tflite-int8": _candidate(120, 9.0, 0.04, "tflite"),
        }
    )
    reason = "no faster here, no smaller and no more exact than onnx-int8"
    assert found == {"onnx-int8-dynamic": reason}


@pytest.mark.parametrize(
    "rival",
    [_candidate(100, 10.6, 0.02), _candidate(111, 3.0, 0.02), _candidate(100, 3.0, 0.031)],
    ids=["slower", "larger", "less exact"],
)
def test_nobody_is_dominated_by_what_is_not_better_in_everything(rival: Candidate) -> None:
    assert dominated({"a": _candidate(110, 9.0, 0.03), "b": rival}) == {}


def test_being_faster_by_noise_saves_nobody_and_of_two_alike_the_first_stays() -> None:
    found = dominated({"a": _candidate(110, 9.5, 0.03), "b": _candidate(110, 9.0, 0.03)})
    assert list(found) == ["b"]


def test_models_take_turns_and_each_runs_in_every_round() -> None:
    calls: list[str] = []

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        def infer(self, tensor: Array) -> dict[str, Array]:
            calls.append(self.name)
            return {}

    models = {name: Model(name) for name in "abc"}
    taken = latency.interleaved(models, lambda model: np.zeros(1), rounds=6)  # type: ignore
    assert set(taken) == set(models) and all(seconds >= 0 for seconds in taken.values())
    timed = calls[3 * latency.WARM_UP :]
    assert [set(timed[start : start + 3]) for start in range(0, 18, 3)] == [set("abc")] * 6
    assert len({tuple(timed[start : start + 3]) for start in range(0, 18, 3)}) == 3


def test_what_is_more_than_boxes_is_held_to_its_boxes() -> None:
    found = Keypoints(
        np.array([[0, 0, 10, 10]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        ("person",),
        np.zeros((1, 2, 2), np.float32),
        np.ones((1, 2), np.float32),
        ("nose", "tail"),
    )
    assert agreement([found], [found]) == {"recall": 1.0, "mean_iou": 1.0, "extra": 0.0}


def test_maps_of_classes_agree_cell_by_cell_whatever_their_size() -> None:
    wanted = Segmentation(np.array([[0, 0], [1, 1]], np.int16), ("road", "grass"))
    larger = Segmentation(np.kron(wanted.classes, np.ones((3, 3))).astype(np.int16), wanted.labels)
    other = Segmentation(np.array([[0, 1], [1, 1]], np.int16), wanted.labels)
    assert agreement([wanted], [larger]) == {"pixels": 1.0, "mean_iou": 1.0}
    found = agreement([wanted], [other])
    assert found == {"pixels": 0.75, "mean_iou": pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-6)}
    truth = [{"map": wanted.classes}]
    assert accuracy.measure([other], truth) == {"miou": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_numbers_vectors_and_verdicts_agree_by_how_near_they_are() -> None:
    values = [Regression(np.array([v], np.float32), ("level",)) for v in (0.0, 5.0, 10.0)]
    off = [Regression(one.values + 1, one.names) for one in values]
    assert agreement(values, off) == {"values": 0.9}
    assert accuracy.measure(off, [{"values": v} for v in (0, 5, 10)])["mae"] == 1.0
    quiet, loud = (Anomaly(score=score, threshold=0.5) for score in (0.1, 0.9))
    assert agreement([quiet, loud], [quiet, quiet]) == {"anomalous": 0.5}
    measured = accuracy.measure([quiet, loud], [{"anomalous": False}, {"anomalous": True}])
    assert measured == {"accuracy": 1.0, "f1": 1.0, "auroc": 1.0}
    along, across = (Embedding(np.array(v, np.float32)) for v in ((1, 0), (0, 1)))
    assert agreement([along, along], [along, across]) == {"cosine": 0.5}
    near = Depth(map=np.array([[1, np.nan], [3, 5]], np.float32))
    far = Depth(map=near.map + 1)
    assert agreement([near], [far]) == {"map": 0.75}
