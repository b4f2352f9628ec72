"""Variants -> what was measured of them, and what the gate says; on edge's own engines.

What was measured is kept by the content of the model file and of everything that it was measured
with; the gate is asked anew each time, for its bounds may have changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convert import gate, latency, layers, runtimes
from convert.cache import digest
from convert.diagnosis import Evidence
from convert.errors import ConversionError
from convert.job import Job
from convert.layouts import single
from convert.maker import Maker
from convert.original import Exported
from convert.predictions import from_recipe, to_recipe
from convert.recorded import Recorded
from convert.report import Measured, VariantReport
from convert.search import search
from convert.verify import Verified, verify
from convert.worst import WorstSample
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.model import Model
from edge.types import Array

BLAMED_ON = 8
"""Calibration inputs on which the layers are compared."""
SHOWN_LAYERS = 8
RUN_ELSEWHERE = 16
"""Evaluation inputs that go to a runtime in an environment of its own."""
Bundled = Callable[[Path, Sequence[Exported]], Bundle]
"""Writes a bundle of these variants, for the engines to read."""


class _Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of the original."""

    measured: Measured
    doubts: list[str]
    provenance: dict[str, Any]


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one variant; `failure` says why it does not run."""

    failure: str = ""
    measured: Measured = Measured()
    evidence: Evidence = Evidence()
    worst: list[dict[str, Any]] = []


class Judge:
    """Judges the variants of one job.

    `reference` is what was measured of the original, `doubts` what speaks against it, `worst` the
    samples on which a variant is furthest from it.
    """

    def __init__(self, job: Job, maker: Maker, bundled: Bundled) -> None:
        self._job = job
        self._maker = maker
        self._bundled = bundled
        self.reference = Measured()
        self.doubts: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.worst: dict[str, list[WorstSample]] = {}

    def judge(self, made: Mapping[str, Exported], reports: Mapping[str, VariantReport]) -> None:
        """Measure every variant, and write into its report what the gate says."""
        cache = self._job.cache
        found = {
            name: known
            for name, exported in made.items()
            if (known := cache.find("judge", self._parts(exported), _Found)) is not None
        }
        reference = cache.find("reference", self._base, _Reference)
        missing = [exported for name, exported in made.items() if name not in found]
        if missing or reference is None:
            reference, fresh = self._verify(missing or list(made.values()))
            cache.keep("reference", self._base, reference)
            for name, answer in fresh.items():
                cache.keep("judge", self._parts(made[name]), answer)
            found |= fresh
        self.reference, self.doubts = reference.measured, reference.doubts
        self.provenance = reference.provenance
        for name in made:
            self._write(found[name], reports[name])
            reports[name].refusals += self._elsewhere(made[name])

    def improve(self, made: dict[str, Exported], report: VariantReport) -> None:
        """Search for layers to keep in float until a refused int8 variant passes."""
        job, maker = self._job, self._maker
        candidate = made[report.name]
        best: dict[str, _Found] = {}

        def judged(exported: Exported) -> list[str]:
            _, found = self._verify([exported])
            best[digest(exported.model)] = found[exported.name]
            return self._refusals(found[exported.name], report)

        with job.screen.step(f"searching for {report.name}", job.options.search) as advance:
            result = search(
                lambda keep: maker.int8(candidate.format, keep),
                judged,
                self._blame(candidate),
                budget=job.options.search,
                advance=advance,
            )
        if result.exported is None:
            report.advice += f"; {result.tried} attempts to keep layers in float did not pass"
            return
        made[report.name] = result.exported
        report.kept = result.kept
        report.size = len(result.exported.model)
        report.refusals.clear()
        report.advice = ""
        self._write(best[digest(result.exported.model)], report)

    def explain(self, made: Mapping[str, Exported], report: VariantReport) -> None:
        """Where the error of a refused variant starts."""
        candidate = made.get(report.name)
        if candidate is None or not report.refusals or candidate.precision == "fp32":
            return
        report.layers = [
            msgspec.to_builtins(layer) for layer in self._blame(candidate)[:SHOWN_LAYERS]
        ]

    def time(self, made: Mapping[str, Exported], reports: Mapping[str, VariantReport]) -> None:
        """Measure the latencies side by side, and mark what another variant beats in everything."""
        job = self._job
        standing = {name: one for name, one in made.items() if reports[name].verdict == "ships"}
        if not standing:
            return
        with self._running(list(standing.values()), reports, threads=1) as models:
            raw = next(iter(job.inputs.evaluation(1, job.options.seed)))[0]
            with job.screen.step("timing", latency.ROUNDS) as advance:
                seconds = latency.interleaved(
                    models, lambda model: model.preprocess(raw)[0], advance=advance
                )
        for name, taken in seconds.items():
            reports[name].latency_s = taken
        if job.options.keep_dominated or job.options.only or job.recipe.variants:
            return
        candidates = {
            name: gate.Candidate(
                format=standing[name].format,
                size=reports[name].size,
                seconds=taken,
                measured=reports[name].measured,
            )
            for name, taken in seconds.items()
        }
        for name, reason in gate.dominated(candidates).items():
            reports[name].dominated = reason

    # ---- measuring

    def _verify(self, variants: Sequence[Exported]) -> tuple[_Reference, dict[str, _Found]]:
        """One pass over the evaluation inputs."""
        job = self._job
        count, seed = job.recipe.evaluation.samples, job.options.seed
        samples = Recorded(job.inputs.evaluation(count, seed))
        failures: dict[str, VariantReport] = {
            exported.name: VariantReport(name=exported.name) for exported in variants
        }
        with self._running(variants, failures) as models:
            if not models:
                reasons = "; ".join(f"{name}: {r.refusals[0]}" for name, r in failures.items())
                raise ConversionError(f"edge can run none of the variants: {reasons}")
            with job.screen.step("verifying", count) as advance:
                verified = verify(
                    models,
                    job.original,
                    job.recipe,
                    job.code,
                    samples,
                    calibration=self._calibration(variants),
                    advance=advance,
                )
            found = {name: self._found(verified, name) for name in models}
        found |= {
            name: _Found(failure=report.refusals[0])
            for name, report in failures.items()
            if report.refusals
        }
        reference = _Reference(
            measured=verified.reference,
            doubts=verified.doubts,
            provenance=samples.provenance("evaluation", seed),
        )
        return reference, found

    def _running(
        self,
        variants: Sequence[Exported],
        reports: Mapping[str, VariantReport],
        *,
        threads: int = 0,
    ) -> _Running:
        return _Running(self._bundled, variants, reports, threads)

    def _found(self, verified: Verified, name: str) -> _Found:
        answer = verified.variants[name]
        if isinstance(answer, str):
            return _Found(failure=answer)
        return _Found(
            measured=answer,
            evidence=verified.evidence[name],
            worst=[_stored(sample) for sample in verified.worst[name]],
        )

    def _calibration(self, variants: Sequence[Exported]) -> list[Array]:
        """What int8 was calibrated with, as the original takes it."""
        job = self._job
        if job.fold or not any(exported.precision == "int8" for exported in variants):
            return []
        return self._maker.tensors(job.original.input)

    def _blame(self, candidate: Exported) -> list[layers.LayerError]:
        fp32 = self._maker.fp32[candidate.format]
        if not self._job.inputs.can_calibrate:
            return []
        tensors = self._maker.tensors(single(fp32.input))[:BLAMED_ON]
        with self._job.screen.step(f"layers of {candidate.name}"):
            return layers.blame(fp32, candidate, tensors)

    def _elsewhere(self, exported: Exported) -> list[str]:
        """What speaks against a TFLite variant on the other runtime that the recipe lists."""
        job = self._job
        if exported.format != "tflite" or runtimes.TFLITE_RUNTIME not in job.recipe.runtimes:
            return []
        bounds = job.recipe.gate.bounds(exported.precision)

        def look() -> list[str]:
            prepare = job.recipe.preprocessor(exported.input)
            known = job.recipe.preprocessor(job.original.input)
            tensors, wanted = [], []
            with job.screen.step(f"{exported.name} on {runtimes.TFLITE_RUNTIME}"):
                for raw, _ in job.inputs.evaluation(RUN_ELSEWHERE, job.options.seed):
                    tensors.append(prepare(raw)[0].copy())
                    wanted.append(job.original.run(known(raw)[0].copy()))
                return runtimes.refusals(exported.model, tensors, wanted, bounds)

        parts = [self._parts(exported), msgspec.to_builtins(bounds)]
        return job.cache.remember("elsewhere", parts, list[str], look)

    # ---- what is said of it

    def _write(self, found: _Found, report: VariantReport) -> None:
        report.measured = found.measured
        refusals = self._refusals(found, report)
        report.refusals += [*self.doubts, *refusals]
        if refusals and not found.failure:
            report.advice = gate.advice(found.measured, found.evidence, precision=report.precision)
        self.worst[report.name] = [self._restored(sample) for sample in found.worst]

    def _refusals(self, found: _Found, report: VariantReport) -> list[str]:
        if found.failure:
            return [found.failure]
        bounds = self._job.recipe.gate
        return gate.refusals(
            found.measured,
            bounds.bounds(report.precision),
            reference=self.reference.accuracy,
            lower_is_better=bounds.lower_is_better,
        )

    def _restored(self, sample: dict[str, Any]) -> WorstSample:
        recipe = self._job.recipe
        answers = {
            side: sample[side] and from_recipe(recipe.task, sample[side], recipe.labels)
            for side in ("reference", "found")
        }
        return WorstSample(**{**sample, **answers})

    # ---- what it depends on

    @property
    def _base(self) -> Any:
        job = self._job
        recipe = job.recipe
        return [
            job.trained,
            job.fed,
            recipe.evaluation.samples,
            recipe.data.truth,
            recipe.task,
            recipe.labels,
            msgspec.to_builtins(recipe.decoder),
            msgspec.to_builtins(recipe.thresholds),
        ]

    def _parts(self, exported: Exported) -> Any:
        tensors = msgspec.to_builtins([exported.input, exported.outputs])
        return [self._base, digest(exported.model), tensors, self._job.recipe.runtimes]


class _Running:
    """Models of some variants, on a bundle in a folder of its own, for as long as `with` lasts.

    What edge cannot run is refused in its report.
    """

    def __init__(
        self,
        bundled: Bundled,
        variants: Sequence[Exported],
        reports: Mapping[str, VariantReport],
        threads: int,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgewright-")
        self._models: dict[str, Model] = {}
        written = bundled(Path(self._folder.name) / "candidates", variants)
        for variant in written.manifest.variants:
            try:
                self._models[variant.name] = Model(written, variant=variant.name, threads=threads)
            except EdgeError as error:
                reports[variant.name].refusals.append(f"does not run: {error}")

    def __enter__(self) -> dict[str, Model]:
        return self._models

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.close()
        self._folder.cleanup()


def _stored(sample: WorstSample) -> dict[str, Any]:
    """A sample in plain values and arrays, as the cache keeps it."""
    return {
        "index": sample.index,
        "closeness": sample.closeness,
        "error": sample.error,
        "raw": sample.raw,
        # An answer without a box is one, too.
        "reference": None if sample.reference is None else to_recipe(sample.reference),
        "found": None if sample.found is None else to_recipe(sample.found),
        "truth": {
            key: value
            for key, value in sample.truth.items()
            if isinstance(value, np.ndarray | int | float | str)
        },
    }
