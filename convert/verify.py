"""Verification: every variant, on edge's own Model, against the original on the same raw inputs.

Two comparisons, and both are needed. Parity is taken at the tensors: the same input tensor through
the original and through the variant. Agreement is taken at the predictions: edge's whole way
against the recipe's own `predict`, which shares nothing with edge, so that a swapped channel or a
transposed input cannot cancel out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convert import accuracy
from convert.errors import ConversionError
from convert.layouts import to_layout
from convert.predictions import from_recipe, to_recipe
from convert.recipe import Recipe
from convert.recipe_code import RecipeCode
from convert.report import Measured
from edge.errors import EngineError, FrameError
from edge.golden import box_iou
from edge.manifest import Parity
from edge.model import Model
from edge.types import Array, Classification, Detections, Prediction

PARITY_SAMPLES = 64
"""Samples of which the raw tensors are kept, to bound the memory."""
MATCH_IOU = 0.5


class Original(Protocol):
    """The trained model, in whatever framework."""

    module: Any

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor in the recipe's layout -> raw outputs by name."""


@dataclass(slots=True)
class _Answers:
    """What one variant, or the original, said to every sample so far."""

    predictions: list[Prediction] = field(default_factory=list)
    tensors: dict[str, list[Array]] = field(default_factory=dict)
    failure: str = ""

    def add(self, prediction: Prediction, tensors: Mapping[str, Array]) -> None:
        self.predictions.append(prediction)
        if len(self.predictions) <= PARITY_SAMPLES:
            for name, tensor in tensors.items():
                self.tensors.setdefault(name, []).append(tensor)


def verify(
    models: Mapping[str, Model],
    original: Original,
    recipe: Recipe,
    code: RecipeCode,
    samples: Iterable[tuple[Array, dict[str, Any]]],
    *,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Measured, dict[str, Measured | str]]:
    """The original's accuracy, and by variant what was measured, or why it does not run.

    One pass: each sample goes through the original and all variants, and is let go.
    """
    reference = _Answers()
    answers = {name: _Answers() for name in models}
    truths: list[dict[str, Any]] = []
    for raw, truth in samples:
        _check_truth(truth, recipe)
        for name, model in models.items():
            _ask(model, raw, answers[name])
        tensor, geometry = _original_input(next(iter(models.values())), recipe, raw)
        outputs = original.run(tensor)
        if code.has("predict"):
            answer = code.predict(original.module, raw)
            prediction = from_recipe(recipe.task, answer, recipe.labels)
        else:
            prediction = next(iter(models.values())).postprocess(outputs, geometry)
        reference.add(prediction, outputs)
        truths.append(truth)
        advance()
    if not truths:
        raise ConversionError(f"{recipe.folder / recipe.model.code}: evaluation() gave no samples")
    task = Measured(accuracy=_task_accuracy(reference, truths, code))
    return task, {
        name: found.failure
        or Measured(
            parity={
                output: parity(np.stack(wanted), np.stack(found.tensors[output]))
                for output, wanted in reference.tensors.items()
            },
            agreement=agreement(reference.predictions, found.predictions),
            accuracy=_task_accuracy(found, truths, code),
        )
        for name, found in answers.items()
    }


def parity(expected: Array, actual: Array) -> Parity:
    """One output over all samples, [S, …] each: errors relative to the range of `expected`.

    Rounded to three significant digits.
    """
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    spread = float(expected.max() - expected.min()) or 1.0
    errors = np.abs(actual - expected) / spread
    length = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    cosine = (
        float(expected.ravel() @ actual.ravel()) / length if length else float(not errors.any())
    )
    return Parity(
        max_error=_three_digits(float(errors.max())),
        p99_error=_three_digits(float(np.quantile(errors, 0.99))),
        cosine=round(cosine, 6),
    )


def agreement(reference: Sequence[Prediction], found: Sequence[Prediction]) -> dict[str, float]:
    """How far two models give the same answers.

    classify: `class`, the share of samples with the same class. detect: `recall`, the share of the
    reference's boxes that are found in the same class with an IoU of at least MATCH_IOU;
    `mean_iou` of those; `extra`, the boxes without a counterpart, per box of the reference.
    """
    if isinstance(reference[0], Classification):
        same = [
            isinstance(a, Classification) and isinstance(b, Classification) and a.index == b.index
            for a, b in zip(reference, found, strict=True)
        ]
        return {"class": round(sum(same) / len(same), 6)}
    overlaps: list[float] = []
    wanted = given = 0
    for first, second in zip(reference, found, strict=True):
        assert isinstance(first, Detections) and isinstance(second, Detections)
        overlaps += matches(first, second)
        wanted += len(first)
        given += len(second)
    return {
        "recall": round(len(overlaps) / wanted, 6) if wanted else 1.0,
        "mean_iou": round(float(np.mean(overlaps)), 6) if overlaps else float(not wanted),
        "extra": round((given - len(overlaps)) / max(wanted, 1), 6),
    }


def matches(reference: Detections, found: Detections) -> list[float]:
    """The IoU of each pair of boxes of one class, matched greedily from the best overlap down."""
    overlaps = box_iou(reference.boxes, found.boxes)
    overlaps[reference.classes[:, None] != found.classes[None, :]] = 0.0
    matched: list[float] = []
    while overlaps.size and overlaps.max() >= MATCH_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        matched.append(float(overlaps[row, column]))
        overlaps[row, :] = overlaps[:, column] = 0.0
    return matched


def _original_input(model: Model, recipe: Recipe, raw: Array) -> tuple[Array, Any]:
    """The input tensor as edge makes it, in the layout of the original; and its geometry."""
    tensor, geometry = model.preprocess(raw)
    return to_layout(tensor, model.variant.inputs[0], recipe.input.spec), geometry


def _check_truth(truth: Mapping[str, Any], recipe: Recipe) -> None:
    wanted = ("class",) if recipe.task == "classify" else ("boxes", "classes")
    missing = [key for key in wanted if key not in truth]
    if missing:
        raise ConversionError(
            f"{recipe.folder / recipe.model.code}: evaluation() gave a truth without"
            f" {', '.join(missing)}"
        )


def _ask(model: Model, raw: Array, answers: _Answers) -> None:
    """One sample through edge's whole way, keeping the raw outputs."""
    if answers.failure:
        return
    tensor, geometry = model.preprocess(raw)
    try:
        outputs = model.infer(tensor)
        answers.add(model.postprocess(outputs, geometry), outputs)
    except (EngineError, FrameError) as error:
        answers.failure = f"does not run: {error}"


def _task_accuracy(
    answers: _Answers, truths: list[dict[str, Any]], code: RecipeCode
) -> dict[str, float]:
    """The usual measures of the task, and the recipe's own beside them."""
    found = accuracy.measure(answers.predictions, truths)
    found |= code.metrics([to_recipe(prediction) for prediction in answers.predictions], truths)
    return {name: round(value, 6) for name, value in found.items()}


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
