"""Verification: every variant, on edge's own Model, against the original on the same raw inputs.

Two comparisons, and both are needed. Parity is taken at the tensors: the same input through the
original and through the variant. Agreement is taken at the predictions: edge's whole way against
the recipe's own `predict`, which shares nothing with edge, so that a swapped channel or a
transposed input cannot cancel out.

Invariant: one pass. A sample goes through the original and all variants and is let go, but for a
few that are kept to be looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convert import accuracy, diagnosis
from convert.agreement import agreement, closeness
from convert.diagnosis import Evidence
from convert.errors import ConversionError
from convert.original import Original
from convert.parity import Tally
from convert.predictions import from_recipe, to_recipe
from convert.recipe import Recipe, prepare
from convert.report import Measured
from convert.worst import WorstSample, WorstSamples
from edge.errors import EngineError, FrameError
from edge.golden import range_error
from edge.model import Model
from edge.types import Array, Geometry, Prediction

TRIED = 32
"""Samples on which causes are tried, spread over all of them."""
STEADY = 1e-5
"""Two runs on one input may differ by this part of the output's range."""
TRUTH_KEYS = {
    "classify": ("class",),
    **dict.fromkeys(("detect", "instance", "keypoints", "oriented"), ("boxes", "classes")),
    "segment": ("map",),
    "regress": ("values",),
    "anomaly": ("anomalous",),
}


class Reference(Protocol):
    """The recipe's own view of its model; `convert.recipe_code.RecipeCode` is one."""

    def has(self, function: str) -> bool:
        """Whether there is a `predict`."""

    def predict(self, module: Any, raw: Array) -> dict[str, Array]:
        """Raw input -> the final prediction, sharing nothing with edge."""

    def metrics(
        self, predictions: list[dict[str, Array]], truths: list[dict[str, Any]]
    ) -> dict[str, float]:
        """The recipe's own measures; empty when it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found: of the original its accuracy alone (empty without labels).

    `variants` has what was measured by name, or why one does not run. `doubts` are reasons to
    distrust the original itself, which hold for every variant.
    """

    samples: int
    reference: Measured
    variants: dict[str, Measured | str]
    evidence: dict[str, Evidence]
    worst: dict[str, list[WorstSample]]
    doubts: list[str]


def verify(
    models: Mapping[str, Model],
    original: Original,
    recipe: Recipe,
    code: Reference,
    samples: Iterable[tuple[Array, dict[str, Any]]],
    *,
    calibration: Sequence[Array] = (),
    keep: int = 4,
    advance: Callable[[], None] = lambda: None,
) -> Verified:
    """Hold every variant against the original. A truth of {} means: no label.

    `calibration` are the tensors that int8 was calibrated with, as the original takes them; `keep`
    is how many of the worst samples are kept of each variant. ConversionError when the original
    itself cannot be a reference.
    """
    found = _Verification(models, original, recipe, code, keep)
    for raw, truth in samples:
        found.add(raw, truth)
        advance()
    return found.result(calibration)


@dataclass(slots=True)
class _Answers:
    """What one variant said to every sample so far."""

    worst: WorstSamples
    predictions: list[Prediction] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    failure: str = ""
    unsteady: bool = False


class _Verification:
    def __init__(
        self,
        models: Mapping[str, Model],
        original: Original,
        recipe: Recipe,
        code: Reference,
        keep: int,
    ) -> None:
        self._models = models
        self._original = original
        self._recipe = recipe
        self._code = code
        self._prepare = prepare(recipe.preprocess, original.input)
        self._own = code.has("predict")
        self._answers = {name: _Answers(WorstSamples(keep)) for name in models}
        self._reference: list[Prediction] = []
        self._truths: list[dict[str, Any]] = []
        self._ranges: dict[str, tuple[float, float]] = {}
        # A reservoir (Vitter 1985, algorithm R), since data often comes one class after the other.
        self._kept: list[tuple[Array, Prediction, dict[str, Any]]] = []
        self._random = random.Random(0)

    def add(self, raw: Array, truth: dict[str, Any]) -> None:
        """One sample through the original and through every variant."""
        self._check_truth(truth)
        tensor, geometry = self._prepare(raw)
        tensor = tensor.copy()
        outputs = self._run(tensor)
        if self._own:
            answer = self._code.predict(self._original.module, raw)
            prediction = from_recipe(self._recipe.task, answer, self._recipe.labels)
        else:
            prediction = self._decode(outputs, geometry)
        if not self._reference:
            self._check_steady(tensor, outputs)
        for name in self._models:
            self._ask(name, raw, truth, outputs, prediction)
        self._reference.append(prediction)
        self._truths.append(truth)
        self._keep((raw, prediction, truth))

    def result(self, calibration: Sequence[Array]) -> Verified:
        """Everything that was measured, with what explains it."""
        if not self._reference:
            where = self._recipe.code or self._recipe.file
            raise ConversionError(f"{where}: evaluation() gave no samples")
        measured: dict[str, Measured | str] = {
            name: answers.failure or self._measured(answers)
            for name, answers in self._answers.items()
        }
        return Verified(
            samples=len(self._reference),
            reference=Measured(accuracy=self._accuracy(self._reference)),
            variants=measured,
            evidence=self._explain(measured, calibration),
            worst={name: found.worst.worst_first() for name, found in self._answers.items()},
            doubts=self._doubts(),
        )

    def _run(self, tensor: Array) -> dict[str, Array]:
        """The original's outputs, their ranges noted. What is not a number ends it here."""
        outputs = self._original.run(tensor)
        for name, value in outputs.items():
            if np.isnan(value).any():
                raise ConversionError(
                    f"the original's output {name} holds NaN: its weights are damaged, or it takes"
                    " other input; look at the weights, and train it again if need be"
                )
        diagnosis.widen(self._ranges, outputs)
        return outputs

    def _check_steady(self, tensor: Array, outputs: Mapping[str, Array]) -> None:
        """A model in training mode drops values by chance, and learns from what it is shown."""
        again = self._original.run(tensor)
        worst = max(range_error(again[name], value) for name, value in outputs.items())
        if worst > STEADY or getattr(self._original.module, "training", False) is True:
            raise ConversionError(
                "the original is in training mode: the same input gave outputs that differ by"
                f" {worst:.2g} of their range; call eval() in build(), and train() nowhere"
            )

    def _ask(
        self,
        name: str,
        raw: Array,
        truth: dict[str, Any],
        wanted: Mapping[str, Array],
        reference: Prediction,
    ) -> None:
        """One sample through edge's whole way."""
        answers, model = self._answers[name], self._models[name]
        if answers.failure:
            return
        try:
            tensor, geometry = model.preprocess(raw)
            outputs = model.infer(tensor)
            if not self._reference:
                again = model.infer(tensor)
                answers.unsteady = any(
                    np.isfinite(value).all() and range_error(again[key], value) > STEADY
                    for key, value in outputs.items()
                )
            error = 0.0
            for output, expected in wanted.items():
                tally = answers.tallies.setdefault(output, Tally())
                error = max(error, self._count(tally, output, expected, outputs))
            prediction = model.postprocess(outputs, geometry)
        except (EngineError, FrameError) as problem:
            answers.failure = f"does not run: {problem}"
            return
        answers.predictions.append(prediction)
        answers.worst.add(
            WorstSample(
                index=len(self._reference),
                closeness=closeness(reference, prediction),
                error=error,
                raw=raw,
                reference=reference,
                found=prediction,
                truth=truth,
            )
        )

    def _count(
        self, tally: Tally, output: str, expected: Array, outputs: Mapping[str, Array]
    ) -> float:
        if output not in outputs:
            raise EngineError(f"it gives no output {output!r}, only {', '.join(outputs)}")
        try:
            return tally.add(expected, outputs[output])
        except ValueError as error:
            raise EngineError(f"output {output} {error}, as the original's") from error

    def _measured(self, answers: _Answers) -> Measured:
        return Measured(
            parity={output: tally.parity() for output, tally in answers.tallies.items()},
            agreement=agreement(self._reference, answers.predictions),
            accuracy=self._accuracy(answers.predictions),
        )

    def _accuracy(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The usual measures of the task, and the recipe's own beside them, where labels are."""
        pairs = [(p, t) for p, t in zip(predictions, self._truths, strict=True) if t]
        if not pairs:
            return {}
        labelled, truths = [p for p, _ in pairs], [t for _, t in pairs]
        found = accuracy.measure(labelled, truths)
        found |= self._code.metrics([to_recipe(prediction) for prediction in labelled], truths)
        return {name: round(value, 6) for name, value in found.items()}

    def _explain(
        self, measured: Mapping[str, Measured | str], calibration: Sequence[Array]
    ) -> dict[str, Evidence]:
        """Causes, looked for only where the numbers call for one."""
        explained: dict[str, Evidence] = {}
        preprocessing: str | None = None
        for name, found in measured.items():
            if isinstance(found, str):
                continue
            answers = self._answers[name]
            exact = max((p.p99_error for p in found.parity.values()), default=0.0) < diagnosis.SAME
            agree = next(iter(found.agreement.values())) > 1 - diagnosis.BETTER
            if exact and not agree and preprocessing is None:
                preprocessing = diagnosis.preprocessing(
                    self._recipe.preprocess,
                    self._original.input,
                    self._original.run,
                    self._decode,
                    [(raw, prediction) for raw, prediction, _ in self._kept],
                )
            explained[name] = Evidence(
                traits={output: tally.traits() for output, tally in answers.tallies.items()},
                preprocessing=preprocessing or "" if exact and not agree else "",
                permutation=""
                if agree
                else diagnosis.permutation(self._reference, answers.predictions),
                transposed="" if exact else self._transposed(name),
                calibration=""
                if exact or not name.endswith("-int8")
                else self._calibration(calibration),
                unsteady=answers.unsteady,
            )
        return explained

    def _transposed(self, name: str) -> str:
        model = self._models[name]
        pairs = [
            (self._prepare(raw)[0].copy(), model.preprocess(raw)[0].copy())
            for raw, _, _ in self._kept[:4]
        ]
        return diagnosis.transposed(self._original.run, model.infer, pairs, model.variant.inputs[0])

    def _calibration(self, calibration: Sequence[Array]) -> str:
        reached: dict[str, tuple[float, float]] = {}
        for tensor in calibration[:TRIED]:
            diagnosis.widen(reached, self._original.run(tensor))
        return diagnosis.ranges(reached, self._ranges)

    def _doubts(self) -> list[str]:
        """What the labels say against the original, or against the way it is fed."""
        labels = self._recipe.labels
        pairs = [
            (wanted, prediction)
            for truth, prediction in zip(self._truths, self._reference, strict=True)
            if truth and (wanted := diagnosis.truth_as_prediction(truth, labels)) is not None
        ]
        if len(pairs) < 8:
            return []
        asked, found = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        swapped = diagnosis.permutation(asked, found)
        right = next(iter(agreement(asked, found).values()))
        better = ""
        # A recipe's own predict has no part in edge's preprocessing.
        if not self._own and right < 1 - diagnosis.BETTER:
            better = diagnosis.preprocessing(
                self._recipe.preprocess,
                self._original.input,
                self._original.run,
                self._decode,
                [
                    (raw, answer)
                    for raw, _, truth in self._kept
                    if truth
                    and (answer := diagnosis.truth_as_prediction(truth, labels)) is not None
                ],
            )
        doubts = []
        if better:
            doubts.append(
                f"the original gives the labels' answer to {right:.0%} only, but {better} with the"
                " labels: mend [preprocess]"
            )
        elif swapped:
            doubts.append(
                f"the original gives the labels' answer to {right:.0%} only, because classes are"
                f" swapped: {swapped}; mend the order of `labels`, or the labels of the data"
            )
        return doubts

    def _decode(self, outputs: Mapping[str, Array], geometry: Geometry | None) -> Prediction:
        return next(iter(self._models.values())).postprocess(dict(outputs), geometry)

    def _keep(self, sample: tuple[Array, Prediction, dict[str, Any]]) -> None:
        if len(self._kept) < TRIED:
            self._kept.append(sample)
            return
        place = self._random.randrange(len(self._reference))
        if place < TRIED:
            self._kept[place] = sample

    def _check_truth(self, truth: Mapping[str, Any]) -> None:
        if not truth:
            return
        where = self._recipe.code or self._recipe.file
        missing = [key for key in TRUTH_KEYS.get(self._recipe.task, ()) if key not in truth]
        if missing:
            raise ConversionError(
                f"{where}: evaluation() gave a truth without {', '.join(missing)}"
            )
        classes = np.atleast_1d(truth.get("class", truth.get("classes", [])))
        if classes.size and not (classes.min() >= 0 and classes.max() < len(self._recipe.labels)):
            raise ConversionError(
                f"{where}: evaluation() gave class {classes.max()} of {len(self._recipe.labels)}"
                " labels; classes count from 0"
            )
