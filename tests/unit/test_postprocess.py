from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from builders import apart, manifest

from edge import postprocess
from edge.errors import BundleError, FrameError
from edge.manifest import Decoder, Manifest, Thresholds, Variant
from edge.seams import Decode
from edge.types import Array, Classification, Detections, Geometry, TensorSpec

CELLS = 64  # 8 x 8 cells of 8 pixels
UNCHANGED = Geometry(np.array([[1, 0, 0], [0, 1, 0]], np.float32), 64, 64)

Head = dict[int, tuple[tuple[float, float, float, float], tuple[float, float]]]


def detector(min_score: float | None = None, **params: Any) -> Decode:
    variant = Variant(
        name="onnx-fp32",
        format="onnx",
        precision="fp32",
        file="models/a.onnx",
        inputs=(TensorSpec(name="image", shape=(1, 3, 64, 64), layout="nchw"),),
        outputs=(
            TensorSpec(name="ltrb", shape=(1, CELLS, 4)),
            TensorSpec(name="scores", shape=(1, CELLS, 2)),
        ),
    )
    decoder = Decoder(name="ltrb_grid", params={"stride": 8, **params})
    return apart(postprocess.build(_with(decoder), variant, min_score=min_score))


def _with(decoder: Decoder) -> Manifest:
    return msgspec.structs.replace(
        manifest(), labels=("cat", "dog"), decoder=decoder, thresholds=Thresholds(score=0.5)
    )


def outputs(found: Head) -> dict[str, Array]:
    ltrb, scores = np.zeros((1, CELLS, 4), np.float32), np.zeros((1, CELLS, 2), np.float32)
    for cell, (distances, values) in found.items():
        ltrb[0, cell], scores[0, cell] = distances, values
    return {"ltrb": ltrb, "scores": scores}


def detect(found: Head, geometry: Geometry = UNCHANGED, **params: Any) -> Detections:
    prediction = detector(**params)(outputs(found), geometry)
    assert isinstance(prediction, Detections)
    return prediction


def test_distances_are_counted_from_the_centre_of_a_cell() -> None:
    # cell 10 is row 1, column 2: its centre is (2.5, 1.5) cells
    found = detect({10: ((1, 0.5, 0.5, 1), (0.1, 0.9))})
    assert found.boxes.tolist() == [[12, 8, 24, 20]]
    assert found.names == ["dog"] and found.scores.tolist() == [pytest.approx(0.9)]
    assert (found.boxes.dtype, found.scores.dtype, found.classes.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def test_boxes_come_in_pixels_of_the_source_and_best_first() -> None:
    twice_and_moved = Geometry(np.array([[2, 0, 10], [0, 2, 20]], np.float32), 100, 200)
    found = detect(
        {0: ((0.5, 0.5, 0.5, 0.5), (0.6, 0)), 63: ((0.5, 0.5, 0.5, 0.5), (0.8, 0))},
        twice_and_moved,
    )
    assert found.boxes.tolist() == [[100, 132, 100, 148], [10, 20, 26, 36]]


def test_what_overlaps_is_suppressed_within_its_class() -> None:
    same_place: Head = {
        9: ((1, 1, 1, 1), (0.9, 0)),
        10: ((2, 1, 0, 1), (0.8, 0)),
        17: ((1, 2, 1, 0), (0, 0.7)),
    }
    assert detect(same_place).names == ["cat", "dog"]
    assert detect(same_place, class_aware_nms=False).names == ["cat"]
    assert len(detect(same_place, nms_iou=1.0)) == 3


def test_suppression_does_not_take_corners_for_sizes() -> None:
    # (40, 40, 44, 44) and (44.5, 40, 48.5, 44) do not touch; as x, y, w, h they would overlap
    neighbours: Head = {
        45: ((0.5, 0.5, 0, 0), (0.9, 0)),
        46: ((0.9375, 0.5, -0.4375, 0), (0.8, 0)),
    }
    for class_aware in (True, False):
        found = detect(neighbours, class_aware_nms=class_aware, nms_iou=0.3)
        assert found.boxes.tolist() == [[40, 40, 44, 44], [44.5, 40, 48.5, 44]]


def test_the_threshold_itself_is_good_enough() -> None:
    at_threshold: Head = {0: ((0.5, 0.5, 0.5, 0.5), (0.5, 0.25))}
    for class_aware in (True, False):
        assert len(detect(at_threshold, class_aware_nms=class_aware)) == 1
        assert len(detect(at_threshold, class_aware_nms=class_aware, min_score=0.51)) == 0
        assert len(detect(at_threshold, class_aware_nms=class_aware, min_score=0.0)) >= 1


def test_nothing_found_is_an_empty_prediction() -> None:
    found = detect({})
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.names == []


def test_only_the_best_candidates_are_looked_at() -> None:
    many: Head = {cell: ((0.1, 0.1, 0.1, 0.1), (0.5 + cell / 200, 0)) for cell in range(0, 64, 2)}
    best = detect(many, max_candidates=3)
    assert best.scores.tolist() == pytest.approx([0.81, 0.8, 0.79])


def test_the_prediction_does_not_alias_the_output() -> None:
    raw = outputs({10: ((1, 1, 1, 1), (0, 0.9))})
    found = detector()(raw, UNCHANGED)
    assert isinstance(found, Detections)
    before = found.boxes.tolist(), found.scores.tolist()
    for output in raw.values():
        output.fill(7)
    assert (found.boxes.tolist(), found.scores.tolist()) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["ltrb", "scores"])
def test_numbers_that_are_not_finite_make_a_bad_frame(where: str, bad: float) -> None:
    raw = outputs({10: ((1, 1, 1, 1), (0.6, 0.9))})
    raw[where][0, 10, 0] = bad
    with pytest.raises(FrameError, match="not finite"):
        detector()(raw, UNCHANGED)


def test_detections_need_a_picture() -> None:
    with pytest.raises(FrameError, match="need a picture"):
        detector()(outputs({}), None)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"stride": 16}, r"output ltrb has shape \(1, 64, 4\), not \(1, 16, 4\)"),
        ({"boxes": "bbox"}, "output bbox has shape None"),
        ({"stride": 0}, "stride and max_candidates must be 1 or more"),
        ({"stride": "8"}, r"Expected `int`, got `str` - at `\$.stride`"),
        ({"anchors": 3}, "unknown field `anchors`"),
    ],
)
def test_a_decoder_that_does_not_fit_the_model_is_refused(
    params: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        detector(**params)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("from_the_future", {}, "no decoder is called .*; upgrade edgewright"),
        ("softmax", {"outputs": (TensorSpec(name="logits", shape=(1, 3)),)}, "for 2 labels"),
        ("softmax", {"outputs": ()}, "the model has 0 outputs"),
        ("ltrb_grid", {}, "needs one input, a picture"),
        ("ltrb_grid", {"inputs": ()}, "needs one input, a picture"),
    ],
)
def test_a_variant_that_does_not_fit_its_decoder_is_refused(
    name: str, changes: dict[str, Any], words: str
) -> None:
    variant = msgspec.structs.replace(manifest().variants[0], **changes)
    params = {"stride": 8} if name == "ltrb_grid" else {}
    with pytest.raises(BundleError, match=words):
        postprocess.build(_with(Decoder(name=name, params=params)), variant)


# ---- classification


def classify(*logits: float) -> Classification:
    decode = postprocess.build(manifest(), manifest().variants[0])
    prediction = decode({"logits": np.array([logits], np.float32)}, None)
    assert isinstance(prediction, Classification)
    return prediction


def test_softmax_gives_scores_that_sum_to_one() -> None:
    result = classify(0.0, float(np.log(3)))
    np.testing.assert_allclose(result.scores, [0.25, 0.75], rtol=1e-6)
    assert (result.label, result.index, result.score) == ("moving", 1, pytest.approx(0.75))


def test_softmax_bears_large_logits() -> None:
    np.testing.assert_allclose(classify(1000.0, 1000.0).scores, [0.5, 0.5])


def test_softmax_refuses_logits_that_are_not_finite() -> None:
    with pytest.raises(FrameError, match="not finite"):
        classify(0.0, float("nan"))


def _scores(**params: Any) -> Decode:
    variant = Variant(
        name="onnx-fp32",
        format="onnx",
        precision="fp32",
        file="models/a.onnx",
        inputs=(),
        outputs=(
            TensorSpec(name="label", shape=(1,), dtype="int64"),
            TensorSpec(name="probabilities", shape=(1, 2)),
        ),
    )
    return postprocess.build(_with(Decoder(name="scores", params=params)), variant)


def test_scores_that_the_model_made_are_taken_as_they_are() -> None:
    raw = {"label": np.array([1]), "probabilities": np.array([[0.25, 0.75]], np.float32)}
    found = _scores(output="probabilities")(raw, None)
    assert isinstance(found, Classification)
    assert (found.label, found.score) == ("dog", 0.75)
    raw["probabilities"][0, 0] = np.nan
    with pytest.raises(FrameError, match="not finite"):
        _scores(output="probabilities")(raw, None)


def test_scores_among_several_outputs_have_to_be_named() -> None:
    with pytest.raises(BundleError, match=r"has 2 outputs .* must name one"):
        _scores()
