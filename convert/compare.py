"""Any two model files side by side, whoever made them: the gate of `edge convert` for what is
already in the field.

Both run on edge's own engines, on the same pictures through edge's own preprocessing, and the
candidate is judged by the bounds of its precision.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from convert import accuracy, diagnosis, gate
from convert.agreement import agreement, closeness
from convert.compared import Question, Side, Task
from convert.diagnosis import Evidence
from convert.model_file import ModelFile
from convert.parity import Tally
from convert.recipe import Bounds
from convert.report import Measured, finite
from convert.samples import Samples
from convert.verify import STEADY
from convert.worst import WorstSample, WorstSamples
from edge.errors import ConfigError, EdgeError, EngineError, FrameError
from edge.golden import range_error
from edge.manifest import ImagePreprocess
from edge.types import Array, Classification, Detections, Prediction

TRIED = 32
TENSORS = 8
"""Inputs on which the layers are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of the candidate: how far it is from the reference's, and what it adds to that."""

    layer: str
    op: str
    error: float
    added: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of it: the candidate stands when `refusals` is empty."""

    task: Task
    reference: Measured
    candidate: Measured
    files: dict[str, dict[str, Any]]
    samples: int
    labelled: int
    skipped: dict[str, int]
    unlabelled: dict[str, int]
    preprocess: ImagePreprocess
    bounds: Bounds
    refusals: list[str]
    advice: str
    layers: list[Layer]
    worst: list[WorstSample]

    def as_json(self) -> dict[str, Any]:
        """One object for machines, in the form of a conversion's report."""
        reference, candidate = self.files["reference"], self.files["candidate"]
        document: dict[str, Any] = {
            "kind": "compare",
            "title": f"{candidate['file']} against {reference['file']}",
            "task": self.task,
            "samples": self.samples,
            "labelled": self.labelled,
            "skipped": self.skipped,
            "unlabelled": self.unlabelled,
            "preprocess": msgspec.to_builtins(msgspec.structs.asdict(self.preprocess)),
            "bounds": msgspec.structs.asdict(self.bounds),
            "reference": self.reference.accuracy,
            "variants": [
                {
                    "name": reference["file"],
                    "role": "reference",
                    "ships": True,
                    **reference,
                    **msgspec.to_builtins(self.reference),
                    "refusals": [],
                },
                {
                    "name": candidate["file"],
                    "role": "candidate",
                    "ships": not self.refusals,
                    **candidate,
                    **msgspec.to_builtins(self.candidate),
                    "refusals": self.refusals,
                    "advice": self.advice,
                    "layers": [
                        {"layer": x.layer, "op": x.op, "error": x.error, "added": x.added}
                        for x in self.layers
                    ],
                },
            ],
        }
        found: dict[str, Any] = finite(document)
        return found


def compare(
    reference: ModelFile,
    candidate: ModelFile,
    samples: Samples,
    question: Question,
    bounds: Bounds,
    *,
    advance: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run every sample through both files and judge the candidate.

    ConfigError when they cannot be compared, or no sample can be used.
    """
    found = _Comparing(reference, candidate, samples, question)
    for raw, truth in samples.take(len(samples), seed=0):
        found.add(raw, truth.get("class"))
        advance()
    return found.result(bounds)


class _Comparing:
    def __init__(
        self, reference: ModelFile, candidate: ModelFile, samples: Samples, question: Question
    ) -> None:
        self._question = question
        self._samples = samples
        self._names = _partners(reference, candidate)
        self._reference = Side(reference, question)
        self._candidate = Side(candidate, question)
        self._tallies = {name: Tally() for name in self._names}
        self._worst = WorstSamples(question.keep)
        self._classes: list[int | None] = []
        self._pairs: list[tuple[Array, Array]] = []
        self._known: list[tuple[Array, int]] = []
        self._random = random.Random(0)

    def add(self, raw: Array, kind: int | None) -> None:
        """One sample through both."""
        source = self._reference.file.input
        try:
            wanted_in, geometry = self._reference.tensor(raw, source)
            found_in, other_geometry = self._candidate.tensor(raw, source)
        except FrameError as error:
            self._samples.skipped[str(error)] += 1
            return
        wanted, found = self._reference.run(wanted_in), self._candidate.run(found_in)
        if not all(np.isfinite(value).all() for value in wanted.values()):
            raise EngineError(
                f"{self._reference.file.path}: gives values that are not finite; it cannot be a"
                " reference"
            )
        worst = 0.0
        for name, other in self._names.items():
            try:
                worst = max(worst, self._tallies[name].add(wanted[name], found[other]))
            except ValueError as problem:
                raise ConfigError(
                    f"output {other} of {self._candidate.file.path} {problem}"
                ) from problem
        if len(self._pairs) < TENSORS:
            self._pairs.append((wanted_in.copy(), found_in.copy()))
        index = len(self._classes)
        self._classes.append(kind)
        if kind is not None:
            # A reservoir, as in convert.verify.
            place = index if len(self._known) < TRIED else self._random.randrange(index + 1)
            if len(self._known) < TRIED:
                self._known.append((raw, kind))
            elif place < TRIED:
                self._known[place] = (raw, kind)
        self._answer(raw, kind, worst, (wanted, geometry), (found, other_geometry))

    def _answer(self, raw: Array, kind: int | None, error: float, wanted: Any, found: Any) -> None:
        """The predictions of one sample, for tasks that have any."""
        first = second = None
        near = 1.0
        if self._reference.decode and self._candidate.decode:
            first = self._reference.decode(*wanted)
            try:
                second = self._candidate.decode(*found)
                near = closeness(first, second)
            except FrameError:  # not finite, which the tally has counted as an infinite error
                second, near = _nothing(first), 0.0
            self._reference.predictions.append(first)
            self._candidate.predictions.append(second)
        self._worst.add(
            WorstSample(
                index=len(self._classes) - 1,
                closeness=near,
                error=error,
                raw=raw,
                reference=first,
                found=second,
                truth={} if kind is None else {"class": kind},
            )
        )

    def result(self, bounds: Bounds) -> Comparison:
        """Everything measured, judged and explained."""
        if not self._classes:
            reasons = ", ".join(f"{n} × {why}" for why, n in self._samples.skipped.items())
            raise ConfigError(f"{self._samples.path}: nothing there can be used: {reasons}")
        parity = {name: tally.parity() for name, tally in self._tallies.items()}
        reference = Measured(accuracy=self._accuracy(self._reference))
        same = (
            agreement(self._reference.predictions, self._candidate.predictions)
            if (self._reference.predictions)
            else {}
        )
        measured = Measured(parity=parity, agreement=same, accuracy=self._accuracy(self._candidate))
        doubts = self._doubts()
        refusals = doubts + gate.refusals(measured, bounds, reference=reference.accuracy)
        if self._question.task == "tensors":
            traits = {name: tally.traits() for name, tally in self._tallies.items()}
            refusals += gate.drowned(traits, bounds)
        advice = ""
        if refusals and not doubts:
            evidence, precision = self._evidence(measured), self._candidate.file.precision
            advice = gate.advice(measured, evidence, precision=precision)
        return Comparison(
            task=self._question.task,
            reference=reference,
            candidate=measured,
            files={
                "reference": self._reference.about(),
                "candidate": self._candidate.about(),
            },
            samples=len(self._classes),
            labelled=sum(kind is not None for kind in self._classes),
            skipped=dict(self._samples.skipped),
            unlabelled=dict(self._samples.unlabelled),
            preprocess=self._question.preprocess,
            bounds=bounds,
            refusals=refusals,
            advice=advice,
            layers=self._layers() if refusals and not doubts else [],
            worst=self._worst.worst_first(),
        )

    def _accuracy(self, side: Side) -> dict[str, float]:
        if not side.predictions:
            return {}
        pairs = [
            (prediction, {"class": kind})
            for prediction, kind in zip(side.predictions, self._classes, strict=True)
            if kind is not None
        ]
        if not pairs:
            return {}
        found = accuracy.measure([p for p, _ in pairs], [truth for _, truth in pairs])
        return {name: round(value, 6) for name, value in found.items()}

    def _evidence(self, measured: Measured) -> Evidence:
        exact = max(p.p99_error for p in measured.parity.values()) < diagnosis.SAME
        target = self._candidate.file.input
        return Evidence(
            traits={name: tally.traits() for name, tally in self._tallies.items()},
            permutation=diagnosis.permutation(
                self._reference.predictions, self._candidate.predictions
            )
            if self._reference.predictions
            else "",
            transposed=""
            if exact
            else diagnosis.transposed(self._reference.file.run, self._renamed, self._pairs, target),
            unsteady=self._unsteady(),
        )

    def _unsteady(self) -> bool:
        """Whether the candidate answers the same input differently each time."""
        tensor = self._pairs[0][1]
        first, again = self._candidate.file.run(tensor), self._candidate.file.run(tensor)
        return any(range_error(again[name], value) > STEADY for name, value in first.items())

    def _renamed(self, tensor: Array) -> dict[str, Array]:
        """The candidate's outputs by the reference's names."""
        found = self._candidate.file.run(tensor)
        return {name: found[other] for name, other in self._names.items()}

    def _doubts(self) -> list[str]:
        """What the labels say against the way in which the reference is fed."""
        side = self._reference
        if len(self._known) < 8 or side.decode is None:
            return []
        names = getattr(side.predictions[0], "labels", ())
        wanted, found = [], []
        for kind, prediction in zip(self._classes, side.predictions, strict=True):
            if kind is not None:
                wanted.append(_asked(kind, names))
                found.append(prediction)
        right = agreement(wanted, found)["class"]
        if right > 1 - diagnosis.BETTER:
            return []
        better = diagnosis.preprocessing(
            self._question.preprocess,
            side.file.input,
            side.file.run,
            side.decode,
            [(raw, _asked(kind, names)) for raw, kind in self._known],
        )
        swapped = diagnosis.permutation(wanted, found)
        known = f"the reference gives the labels' answer to {right:.0%} only"
        if better:
            return [f"{known}, but {better} with the labels: mend the flags of preprocessing"]
        return [f"{known}, because classes are swapped: {swapped}"] if swapped else []

    def _layers(self) -> list[Layer]:
        """Where the error starts, worst first; empty where the two files have no layer alike."""
        from convert import layers

        tensors = [tensor for tensor, _ in self._pairs]
        try:
            found = layers.blame(
                self._reference.file.exported(), self._candidate.file.exported(), tensors
            )
        except EdgeError:
            return []  # the verdict stands without
        return [Layer(layer=x.layer, op=x.op, error=x.error, added=x.added) for x in found]


def _partners(reference: ModelFile, candidate: ModelFile) -> dict[str, str]:
    """The candidate's output for each of the reference's: of the same name, else the only one left
    of its shape, else by place."""
    wanted, found = reference.outputs, list(candidate.outputs)
    if len(wanted) != len(found):
        raise ConfigError(
            f"{reference.path} gives {', '.join(map(str, wanted))}; {candidate.path} gives"
            f" {', '.join(map(str, found))}: these cannot be compared"
        )
    if {spec.name for spec in wanted} == {spec.name for spec in found}:
        return {spec.name: spec.name for spec in wanted}
    partners: dict[str, str] = {}
    for spec in wanted:
        alike = [other for other in found if other.shape == spec.shape]
        chosen = alike[0] if len(alike) == 1 else found[0]
        found.remove(chosen)
        partners[spec.name] = chosen.name
    return partners


def _asked(kind: int, labels: tuple[str, ...]) -> Classification:
    return Classification(np.eye(len(labels), dtype=np.float32)[kind], labels)


def _nothing(reference: Prediction) -> Prediction:
    """The answer of a candidate that gave none: the least likely class, or no boxes."""
    if isinstance(reference, Classification):
        return Classification(-reference.scores, reference.labels)
    return reference[:0] if isinstance(reference, Detections) else reference
