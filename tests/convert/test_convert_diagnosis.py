"""Planted failures: each is refused, and named for what it is. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from planted import SPEC, Code, Original, Variant_, classify, own_predict, recipe, samples

from convert import gate
from convert.errors import ConversionError
from convert.recipe import Gate, Recipe
from convert.verify import Verified, verify
from edge.manifest import ImagePreprocess
from edge.types import Array, TensorSpec

pytestmark = pytest.mark.usefixtures("converters")

Forward = Callable[[Array], dict[str, Array]]


def _verify(
    forward: Forward = classify,
    *,
    wanted: Recipe | None = None,
    code: Code | None = None,
    precision: str = "fp32",
    original: Original | None = None,
    **given: Any,
) -> Verified:
    wanted = wanted or recipe()
    name = f"onnx-{precision}"
    spec = given.pop("spec", SPEC)
    data = given.pop("data", samples())
    models = {name: Variant_(wanted, forward, spec)}
    return verify(models, original or Original(), wanted, code or Code(), data, **given)


def _verdict(found: Verified, precision: str = "fp32") -> tuple[list[str], str]:
    """Refusals and the advice, as convert.build puts them together."""
    name = f"onnx-{precision}"
    measured = found.variants[name]
    assert not isinstance(measured, str)
    reasons = gate.refusals(measured, Gate().bounds(precision), reference=found.reference.accuracy)
    return reasons, gate.advice(measured, found.evidence[name], precision=precision)


def test_a_right_variant_is_neither_refused_nor_doubted() -> None:
    found = _verify(code=Code(own_predict))
    assert _verdict(found)[0] == []
    assert found.doubts == []
    assert found.reference.accuracy["accuracy"] == 1.0
    assert found.worst["onnx-fp32"] == []


def test_without_labels_agreement_is_measured_and_accuracy_is_not() -> None:
    found = _verify(data=samples(labelled=False))
    measured = found.variants["onnx-fp32"]
    assert not isinstance(measured, str)
    assert (measured.agreement, measured.accuracy) == ({"class": 1.0}, {})
    assert found.reference.accuracy == {}


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ({"color": "bgr"}, "color = 'rgb' in place of 'bgr'"),
        ({"std": (1.0, 1.0, 1.0)}, "values in 0..1 (mean 0, std 255)"),
        ({"mean": (127.5,) * 3, "std": (127.5,) * 3}, "values in 0..1 (mean 0, std 255)"),
    ],
)
def test_wrong_preprocessing_is_named_by_what_restores_the_answers(
    mistake: dict[str, Any], named: str
) -> None:
    wrong = recipe(preprocess=ImagePreprocess(resize="stretch", **mistake))
    reasons, advice = _verdict(_verify(wanted=wrong, code=Code(own_predict)))
    assert reasons and reasons[0].startswith("agreement with the original (class)")
    assert f"{named} gives 100% agreement" in advice


def test_a_transposed_picture_is_named() -> None:
    transposed = Code(lambda raw: own_predict(raw.transpose(1, 0, 2)))
    reasons, advice = _verdict(_verify(code=transposed))
    assert reasons
    assert "height and width exchanged (a transposed input) gives 100% agreement" in advice


def test_swapped_labels_are_named() -> None:
    swapped = Code(lambda raw: own_predict(raw, (2, 1, 0, 3)))

    reasons, advice = _verdict(_verify(code=swapped))
    assert reasons
    assert "labels are swapped: 'reddish' is answered as 'top', 'top' is answered as" in advice
    # A picture on its side explains top for left as well: both are said.
    advice = _verdict(_verify(code=Code(lambda raw: own_predict(raw, (0, 1, 3, 2)))))[1]
    assert "a transposed input" in advice and "or else labels are swapped" in advice


def test_labels_of_the_data_in_another_order_cast_doubt_on_everything() -> None:
    data = ((raw, {"class": (truth["class"] + 1) % 4}) for raw, truth in samples())
    (doubt,) = _verify(code=Code(own_predict), data=data).doubts
    assert "labels' answer to 0% only, because classes are swapped: 'reddish' is" in doubt


def test_without_a_predict_the_labels_show_swapped_colours() -> None:
    wrong = recipe(preprocess=ImagePreprocess(resize="stretch", color="bgr"))
    (doubt,) = _verify(wanted=wrong).doubts
    assert "color = 'rgb' in place of 'bgr' gives 100% agreement with the labels" in doubt


def _nhwc(tensor: Array) -> dict[str, Array]:
    return classify(tensor.transpose(0, 3, 1, 2))


def test_the_original_gets_its_own_input_when_a_variant_folds_preprocessing() -> None:
    folded = TensorSpec(name="image", shape=(1, 8, 8, 3), dtype="uint8", layout="nhwc")
    wanted = recipe(preprocess=ImagePreprocess(resize="stretch", folded=True))
    found = _verify(lambda t: _nhwc(t.astype(np.float32) / 255), wanted=wanted, spec=folded)
    assert _verdict(found)[0] == []


@pytest.mark.parametrize(
    ("export", "named"),
    [
        (lambda t: classify(t.swapaxes(2, 3)), "its height and width exchanged"),
        (lambda t: classify(t[:, ::-1]), "its colours in the other order"),
        (lambda t: classify(t.reshape(1, 8, 8, 3).transpose(0, 3, 1, 2)), "in the other layout"),
        (
            lambda t: {"logits": classify(t)["logits"][:, [1, 2, 3, 0]]},
            "labels are swapped: 'reddish' is answered as 'left'",
        ),
        (lambda t: {"logits": classify(t)["logits"] * 1.2}, "the export itself is wrong"),
    ],
)
def test_an_export_that_went_wrong_is_named_by_what_puts_it_right(
    export: Forward, named: str
) -> None:
    reasons, advice = _verdict(_verify(export))
    assert reasons and reasons[0].startswith("logits: largest error")
    assert named in advice


def test_a_variant_in_training_mode_answers_differently_each_time() -> None:
    rng = np.random.default_rng(0)

    def dropout(tensor: Array) -> dict[str, Array]:
        logits = classify(tensor)["logits"]
        return {"logits": logits * (rng.random(logits.shape) > 0.5) * 2}

    reasons, advice = _verdict(_verify(dropout))
    assert reasons
    assert "exported in training mode" in advice
    with pytest.raises(ConversionError, match="the original is in training mode"):
        _verify(original=Original(dropout))


def test_weights_that_are_not_numbers_end_it_with_the_output_named() -> None:
    broken = Original(lambda t: {"logits": np.full((1, 4), np.nan, np.float32)})
    with pytest.raises(ConversionError, match="output logits holds NaN: its weights are damaged"):
        _verify(original=broken)


def test_a_variant_that_overflows_does_not_run() -> None:
    found = _verify(lambda t: {"logits": classify(t)["logits"] + np.float32(np.inf)})
    assert found.variants["onnx-fp32"] == "does not run: the model's output is not finite"


def test_an_output_of_another_shape_is_said_with_both_shapes() -> None:
    models = {"onnx-fp32": Variant_(recipe(), classify)}
    models["onnx-fp32"].infer = lambda t: {"logits": classify(t)["logits"][0]}
    found = verify(models, Original(), recipe(), Code(), samples())
    assert "output logits has shape [4], not [1, 4]" in str(found.variants["onnx-fp32"])


def _calibration(factor: float) -> list[Array]:
    """Tensors around grey, in which `factor` of the signal is left."""
    prepare = recipe().preprocessor(SPEC)
    return [0.4 + factor * (prepare(raw)[0] - 0.4) for raw, _ in samples(12)]


def test_int8_that_was_calibrated_on_noise_is_told_from_a_moving_average() -> None:
    def cut(tensor: Array) -> dict[str, Array]:
        return {"logits": classify(tensor)["logits"].clip(-1, 1)}

    reasons, advice = _verdict(
        _verify(cut, precision="int8", calibration=_calibration(0.2)), "int8"
    )
    assert reasons and reasons[0].startswith("logits: 99th percentile of the error")
    assert "calibrated on data unlike the evaluation's: logits lies in" in advice
    advice = _verdict(_verify(cut, precision="int8", calibration=_calibration(1.0)), "int8")[1]
    assert "logits: cut short, to" in advice and "by minmax (not a moving average" in advice


def test_int8_that_became_a_constant_points_at_the_layers() -> None:
    first = classify(np.zeros(SPEC.shape, np.float32))
    reasons, advice = _verdict(_verify(lambda t: first, precision="int8"), "int8")
    assert reasons
    assert "logits: became a constant" in advice and "--search" in advice


def test_boxes_and_scores_in_one_int8_tensor_are_named() -> None:
    from convert.parity import Tally

    rng = np.random.default_rng(0)
    tally = Tally()
    for _ in range(20):
        boxes, scores = rng.uniform(0, 400, (1, 30, 4)), rng.uniform(0, 0.6, (1, 30, 3))
        fused = np.concatenate([boxes, scores], axis=2)
        step = 400 / 255
        tally.add(fused, (fused / step).round() * step)
    found = _verify(precision="int8")
    measured, evidence = found.variants["onnx-int8"], found.evidence["onnx-int8"]
    assert not isinstance(measured, str)
    evidence = dataclasses.replace(evidence, traits={"head": tally.traits()})
    advice = gate.advice(measured, evidence, precision="int8")
    assert advice.startswith("head: 3 of 7 columns are lost in the scale of the others")


def test_samples_that_come_class_after_class_are_tried_all_the_same() -> None:
    ordered = sorted(samples(120), key=lambda sample: sample[1]["class"])
    # It shows in the last two classes alone.
    transposed = Code(lambda raw: own_predict(raw.transpose(1, 0, 2)))
    assert "a transposed input" in _verdict(_verify(code=transposed, data=ordered))[1]


def test_a_class_that_has_no_label_is_refused_by_name() -> None:
    data = [(raw, {"class": 4}) for raw, _ in samples(1)]
    with pytest.raises(ConversionError, match="gave class 4 of 4 labels; classes count from 0"):
        _verify(data=data)


def test_the_worst_samples_are_kept_with_both_answers() -> None:
    def spoilt(tensor: Array) -> dict[str, Array]:
        logits = classify(tensor)["logits"]
        return {"logits": logits if logits.argmax() != 2 else logits[:, [1, 0, 3, 2]]}

    worst = _verify(spoilt, keep=3).worst["onnx-fp32"]
    assert len(worst) == 3
    for sample in worst:
        assert sample.closeness == 0.0 and sample.truth == {"class": 2}
        assert sample.reference is not None and sample.reference.label == "top"
        assert sample.found is not None and sample.found.label == "left"
        assert sample.raw.shape == (8, 8, 3)
    assert msgspec.json.encode(worst[0].error)
