"""A recipe -> a bundle: the one place that knows the order.

Invariant: an older bundle at the destination stays untouched until a complete new one takes its
place; whatever fails before that leaves nothing behind. What is found in the cache is what would
be made again.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from convert import golden, installed
from convert.errors import ConversionError
from convert.job import Job
from convert.judge import Judge
from convert.layouts import single
from convert.maker import Maker
from convert.original import Exported
from convert.predictions import from_recipe
from convert.report import Result, VariantReport, wanted_variants
from edge import bundle
from edge.bundle import Bundle
from edge.errors import EdgeError, FrameError
from edge.manifest import FORMAT, FileEntry, GoldenCase, Manifest, Provenance, Variant
from edge.model import Model
from edge.types import Array, Prediction

REPORT = "report.json"
Files = dict[str, bytes]


def build(job: Job, destination: Path) -> Result:
    """Convert, verify, gate, and write the bundle to `destination`.

    ConversionError when the recipe's code fails; BundleError when the destination cannot be used.
    What the gate refuses stands in the result.
    """
    try:
        return _Build(job).run(destination)
    except FrameError as error:
        where = job.recipe.code or job.recipe.file
        raise ConversionError(
            f"{where}: gave a raw input that edge cannot take: {error}"
        ) from error


class _Build:
    """One conversion under way. `_made` holds the model files of all variants."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reports = {
            name: VariantReport(name=name)
            for name in wanted_variants(job.options.only, job.recipe.variants)
        }
        self._made: dict[str, Exported] = {}
        self._maker = Maker(job)
        self._judge = Judge(job, self._maker, self._candidates)

    def run(self, destination: Path) -> Result:
        """All steps, in their order."""
        self._make()
        self._judge.judge(self._made, self._reports)
        # Where the original itself is in doubt, no layer of a variant can mend it.
        for report in () if self._judge.doubts else self._reports.values():
            lossy = report.precision != "fp32" and report.name in self._made
            if report.refusals and lossy and self._job.options.search:
                self._judge.improve(self._made, report)
            self._judge.explain(self._made, report)
        with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
            cases, files = self._golden(Path(folder))
        self._judge.time(self._made, self._reports)
        result = Result(
            title=f"{self._job.recipe.name} {self._job.recipe.version}",
            bundle=None,
            reference=self._judge.reference,
            variants=list(self._reports.values()),
            samples=self._judge.provenance.get("samples", 0),
            data=self._data(),
            notes=self._notes(),
            worst=self._judge.worst,
        )
        refused = any(self._counts_against(report) for report in self._reports.values())
        if not self._standing() or (refused and self._job.options.strict):
            return result
        with self._job.screen.step("writing the bundle"):
            told = msgspec.json.format(msgspec.json.encode(result.report()), indent=1) + b"\n"
            cases, files = self._of_standing(cases, files)
            written = bundle.write(
                destination,
                *self._assemble(self._standing(), cases, {**files, REPORT: told}),
            )
        return dataclasses.replace(result, bundle=written)

    def _make(self) -> None:
        """The model file of every variant that there is a way to."""
        made = self._maker.make(tuple(self._reports))
        for name, reason in self._maker.absent.items():
            self._reports[name].absent = reason
        for name, exported in made.items():
            self._reports[name].size = len(exported.model)
        self._made = made

    def _golden(self, folder: Path) -> tuple[list[GoldenCase], Files]:
        """Golden cases of the variants that stand; one that misses its own is refused too."""
        standing = self._standing()
        if not standing:
            return [], {}
        with self._job.screen.step("golden cases"):
            written = bundle.write(folder / "bare", *self._assemble(standing, [], {}))
            models = self._models(written)
            answered = list(self._answered(next(iter(models.values()))))
            cases, files = golden.make(models, self._job.original, self._job.recipe, answered)
            _close(models)
            written = bundle.write(folder / "golden", *self._assemble(standing, cases, files))
            models = self._models(written)
            for name, model in models.items():
                self._reports[name].refusals += golden.failures(model)
            _close(models)
        return cases, files

    def _of_standing(
        self, cases: Sequence[GoldenCase], files: Files
    ) -> tuple[list[GoldenCase], Files]:
        """The cases that are still needed, and their files."""
        names = {"", *(exported.name for exported in self._standing())}
        kept = [case for case in cases if case.variant in names]
        used = {path for case in kept for path in (case.input, *case.outputs.values())}
        return kept, {path: data for path, data in files.items() if path in used}

    def _answered(self, model: Model) -> Iterator[tuple[Array, Prediction]]:
        """The golden inputs, each with the original's prediction."""
        job = self._job
        for raw in job.inputs.golden(golden.RAW_CASES, job.original.input):
            if job.code.has("predict"):
                answer = job.code.predict(job.original.module, raw)
                yield raw, from_recipe(job.recipe.task, answer, job.recipe.labels)
            else:
                yield raw, model.predict(raw)

    def _standing(self) -> list[Exported]:
        """The variants that have a file and nothing against them."""
        return [
            self._made[report.name]
            for report in self._reports.values()
            if report.verdict == "ships" and report.name in self._made
        ]

    def _counts_against(self, report: VariantReport) -> bool:
        """Whether a variant is missing that was to be there: refused, or asked for and not made."""
        asked = report.name in (self._job.options.only or self._job.recipe.variants)
        return bool(report.refusals) or (asked and bool(report.absent))

    def _notes(self) -> list[str]:
        told = [*self._job.assumed, *self._job.original.notes]
        told += [note for made in self._maker.fp32.values() for note in made.notes]
        return [*dict.fromkeys(told), *self._job.inputs.notes]

    def _models(self, written: Bundle) -> dict[str, Model]:
        """A Model of every variant of a bundle; what edge cannot run is refused."""
        models: dict[str, Model] = {}
        for variant in written.manifest.variants:
            try:
                models[variant.name] = Model(written, variant=variant.name)
            except EdgeError as error:
                self._reports[variant.name].refusals.append(f"does not run: {error}")
        return models

    def _candidates(self, place: Path, variants: Sequence[Exported]) -> Bundle:
        """A bundle of these variants without golden cases, for the engines to read."""
        return bundle.write(place, *self._assemble(variants, [], {}))

    def _assemble(
        self, variants: Sequence[Exported], cases: Sequence[GoldenCase], files: Mapping[str, bytes]
    ) -> tuple[Manifest, Files]:
        """Manifest and files of a bundle with these variants."""
        recipe = self._job.recipe
        every = {_path(exported): exported.model for exported in variants} | dict(files)
        manifest = Manifest(
            format=FORMAT,
            requires=("log_mel",) if getattr(recipe.preprocess, "log_mel", None) else (),
            name=recipe.name,
            version=recipe.version,
            summary=recipe.summary,
            task=recipe.task,
            labels=recipe.labels,
            preprocess=recipe.preprocess,
            decoder=recipe.decoder,
            thresholds=recipe.thresholds,
            rules=recipe.rules,
            variants=tuple(self._variant(exported) for exported in variants),
            golden=tuple(cases),
            provenance=self._provenance(),
            # Filled in when the bundle is written.
            files={path: FileEntry(size=0, sha256="") for path in every},
        )
        return manifest, every

    def _provenance(self) -> Provenance:
        recipe = self._job.recipe
        return Provenance(
            recipe=recipe.digests(),
            data=self._data(),
            tools=installed.tool_versions(),
            licences=recipe.licences,
            preprocessing="verified" if self._job.code.has("predict") else "unverified",
            reference=self._judge.reference.accuracy,
        )

    def _data(self) -> list[dict[str, Any]]:
        """What the model was trained on, calibrated with and judged on."""
        sources = [msgspec.to_builtins(source) for source in self._job.recipe.data.source]
        used = [self._maker.provenance, self._judge.provenance]
        return sources + [entry for entry in used if entry]

    def _variant(self, exported: Exported) -> Variant:
        measured = self._reports[exported.name].measured
        return Variant(
            name=exported.name,
            format=exported.format,
            precision=exported.precision,
            file=_path(exported),
            inputs=(single(exported.input),),
            outputs=tuple(map(single, exported.outputs)),
            parity=measured.parity,
            agreement=measured.agreement,
            accuracy=measured.accuracy,
        )


def _path(exported: Exported) -> str:
    """Where a variant's model lies in the bundle."""
    return f"variants/{exported.name}.{exported.format}"


def _close(models: Mapping[str, Model]) -> None:
    for model in models.values():
        model.close()
