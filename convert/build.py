"""A recipe -> a bundle: the one place that knows the order.

Invariant: an older bundle at the destination stays untouched until a complete new one takes its
place; whatever fails before that leaves nothing behind.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from convert import gate, golden, importers, installed
from convert.errors import ConversionError, reason
from convert.importers import ModelSource
from convert.layouts import channels_last, to_layout
from convert.original import Exported, ExportOptions, Format
from convert.predictions import from_recipe
from convert.quantize import quantize
from convert.recipe import Recipe
from convert.recipe_code import RecipeCode
from convert.report import VARIANTS, Measured, Options, Result, VariantReport
from convert.screen import Screen
from convert.verify import verify
from edge import bundle
from edge.bundle import Bundle
from edge.errors import EdgeError, FrameError
from edge.manifest import FORMAT, FileEntry, GoldenCase, Manifest, Provenance, Variant
from edge.model import Model
from edge.types import Array, Prediction, TensorSpec

Files = dict[str, bytes]
T = TypeVar("T")


def build(recipe: Recipe, destination: Path, options: Options, screen: Screen) -> Result:
    """Convert, verify, gate, and write the bundle to `destination`.

    ConversionError when the recipe's code fails; BundleError when the destination cannot be used.
    What the gate refuses stands in the result.
    """
    try:
        return _Build(recipe, options, screen).run(destination)
    except FrameError as error:
        code = recipe.folder / recipe.model.code
        raise ConversionError(f"{code}: gave a raw input that edge cannot take: {error}") from error


class _Build:
    """One conversion under way. `_files` holds the model files of all variants that stand."""

    def __init__(self, recipe: Recipe, options: Options, screen: Screen) -> None:
        self._recipe = recipe
        self._options = options
        self._screen = screen
        self._code = RecipeCode(recipe)
        self._original = importers.load(
            ModelSource(
                kind="torch", path=recipe.folder / recipe.model.weights, factory=self._code.build
            ),
            input=recipe.input.spec,
            outputs=recipe.outputs,
        )
        self._reports = {
            name: VariantReport(name=name) for name in VARIANTS if name in options.only
        }
        self._files: Files = {}
        self._data: list[dict[str, Any]] = []
        self._reference = Measured()
        self._tensors: Sequence[Array] = ()

    def run(self, destination: Path) -> Result:
        """All steps, in their order."""
        self._convert()
        with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
            self._verify(Path(folder) / "candidate")
            cases, files = self._golden(Path(folder))
        standing = self._standing()
        refused = len(standing) < len(self._reports)
        written = None
        if standing and not (refused and self._options.strict):
            with self._screen.step("writing the bundle"):
                written = bundle.write(destination, *self._assemble(cases, files))
        return Result(
            bundle=written,
            reference=self._reference,
            variants=list(self._reports.values()),
            samples=self._options.samples,
        )

    def _convert(self) -> None:
        """The model file of every variant that was asked for."""
        spec = self._recipe.input.spec
        self._route("onnx", spec)
        self._route("tflite", channels_last(spec))

    def _route(
        self,
        format: Format,
        spec: TensorSpec,
    ) -> None:
        """One format: exported, and quantised from that."""
        fp32, int8 = f"{format}-fp32", f"{format}-int8"
        wanted = [name for name in (fp32, int8) if name in self._reports]
        if not wanted:
            return
        with self._screen.step(f"exporting {format}"):
            exported = self._attempt(
                wanted, lambda: self._original.export(format, ExportOptions()).model
            )
        if exported and fp32 in wanted:
            self._keep(fp32, exported)
        if exported and int8 in wanted:
            tensors = [to_layout(t, self._recipe.input.spec, spec) for t in self._calibration]
            model = Exported(
                format=format, precision="fp32", model=exported, input=spec, outputs=()
            )
            with self._screen.step(f"quantising {format}", len(tensors)) as advance:
                quantized = self._attempt(
                    [int8],
                    lambda: (
                        quantize(
                            model, "int8", tensors=tensors, task=self._recipe.task, advance=advance
                        ).model
                    ),
                )
            if quantized:
                self._keep(int8, quantized)

    @functools.cached_property
    def _calibration(self) -> list[Array]:
        """Input tensors, in the recipe's layout, of the recipe's calibration inputs."""
        options = self._options
        raws = _Recorded(self._code.calibration(options.calibration, options.seed))
        with self._screen.step("calibration inputs", options.calibration) as advance:
            tensors = _prepared(self._recipe, raws, advance)
        self._data.append(raws.provenance("calibration", options.seed))
        self._tensors = tensors
        return tensors

    def _attempt(self, names: Sequence[str], step: Callable[[], bytes]) -> bytes | None:
        """Run a converter; when it fails, the variants that need it are refused, not the build."""
        try:
            return step()
        except Exception as error:
            for name in names:
                self._reports[name].refusals.append(f"cannot be converted: {reason(error)}")
            return None

    def _keep(self, name: str, model: bytes) -> None:
        report = self._reports[name]
        report.size = len(model)
        self._files[_path(report)] = model

    def _verify(self, scratch: Path) -> None:
        """Measure every candidate through edge's own Model, and judge it."""
        samples = _Recorded(self._code.evaluation(self._options.samples, self._options.seed))
        models = self._models(bundle.write(scratch, *self._assemble([], {}))) if self._files else {}
        if not models:
            return
        with self._screen.step("verifying", self._options.samples) as advance:
            try:
                verified = verify(
                    models,
                    self._original,
                    self._recipe,
                    self._code,
                    samples,
                    calibration=self._tensors,
                    advance=advance,
                )
            finally:
                _close(models)
        self._data.append(samples.provenance("evaluation", self._options.seed))
        self._reference = verified.reference
        for name, found in verified.variants.items():
            report = self._reports[name]
            report.refusals += verified.doubts
            if isinstance(found, str):
                report.refusals.append(found)
                continue
            report.measured = found
            report.refusals += gate.refusals(
                found,
                self._recipe.gate.bounds(report.precision),
                reference=self._reference.accuracy,
                lower_is_better=self._recipe.gate.lower_is_better,
            )
            if report.refusals and not verified.doubts:
                report.advice = gate.advice(
                    found, verified.evidence[name], precision=report.precision
                )

    def _golden(self, folder: Path) -> tuple[list[GoldenCase], Files]:
        """Golden cases of the variants that stand; one that misses its own is refused too."""
        if not self._standing():
            return [], {}
        with self._screen.step("golden cases"):
            models = self._models(bundle.write(folder / "bare", *self._assemble([], {})))
            answered = list(self._answered(next(iter(models.values()))))
            cases, files = golden.make(models, self._original, self._recipe, answered)
            _close(models)
            models = self._models(bundle.write(folder / "golden", *self._assemble(cases, files)))
            for name, model in models.items():
                self._reports[name].refusals += golden.failures(model)
            _close(models)
        names = {"", *(report.name for report in self._standing())}
        cases = [case for case in cases if case.variant in names]
        used = {path for case in cases for path in (case.input, *case.outputs.values())}
        return cases, {path: data for path, data in files.items() if path in used}

    def _answered(self, model: Model) -> Iterator[tuple[Array, Prediction]]:
        """The golden inputs, each with the original's prediction."""
        recipe = self._recipe
        for raw in self._code.golden(golden.RAW_CASES):
            if self._code.has("predict"):
                answer = self._code.predict(self._original.module, raw)
                yield raw, from_recipe(recipe.task, answer, recipe.labels)
            else:
                yield raw, model.predict(raw)

    def _standing(self) -> list[VariantReport]:
        """The variants that have a file and nothing against them."""
        return [r for r in self._reports.values() if _path(r) in self._files and not r.refusals]

    def _models(self, written: Bundle) -> dict[str, Model]:
        """A Model of every variant of a bundle; what edge cannot run is refused."""
        models: dict[str, Model] = {}
        for variant in written.manifest.variants:
            try:
                models[variant.name] = Model(written, variant=variant.name)
            except EdgeError as error:
                self._reports[variant.name].refusals.append(f"does not run: {error}")
        return models

    def _assemble(
        self, cases: Sequence[GoldenCase], files: Mapping[str, bytes]
    ) -> tuple[Manifest, Files]:
        """Manifest and files of a bundle with the variants that stand."""
        recipe = self._recipe
        standing = self._standing()
        every = {_path(report): self._files[_path(report)] for report in standing} | dict(files)
        manifest = Manifest(
            format=FORMAT,
            name=recipe.name,
            version=recipe.version,
            summary=recipe.summary,
            task=recipe.task,
            labels=recipe.labels,
            preprocess=recipe.preprocess,
            decoder=recipe.decoder,
            thresholds=recipe.thresholds,
            rules=recipe.rules,
            variants=tuple(self._variant(report) for report in standing),
            golden=tuple(cases),
            provenance=Provenance(
                recipe=recipe.digests(),
                data=[
                    *({"name": s.name, "licence": s.licence, "note": s.note} for s in recipe.data),
                    *self._data,
                ],
                tools=installed.tool_versions(),
                licences=recipe.licences,
                preprocessing="verified" if self._code.has("predict") else "unverified",
                reference=self._reference.accuracy,
            ),
            # Filled in when the bundle is written.
            files={path: FileEntry(size=0, sha256="") for path in every},
        )
        return manifest, every

    def _variant(self, report: VariantReport) -> Variant:
        spec = self._recipe.input.spec
        return Variant(
            name=report.name,
            format=report.format,
            precision=report.precision,
            file=_path(report),
            inputs=(spec if report.format == "onnx" else channels_last(spec),),
            outputs=self._original.outputs,
            parity=report.measured.parity,
            agreement=report.measured.agreement,
            accuracy=report.measured.accuracy,
        )


class _Recorded(Generic[T]):
    """Samples as they pass by, counted and digested for the provenance."""

    def __init__(self, samples: Iterable[T]) -> None:
        self._samples = samples
        self._digest = hashlib.sha256()
        self._count = 0

    def __iter__(self) -> Iterator[T]:
        for sample in self._samples:
            raw = np.ascontiguousarray(sample[0] if isinstance(sample, tuple) else sample)
            self._digest.update(f"{raw.dtype.str}{raw.shape}".encode() + raw.tobytes())
            self._count += 1
            yield sample

    def provenance(self, use: str, seed: int) -> dict[str, Any]:
        """How many there were, from which seed, and the SHA-256 over the raw arrays."""
        digest = self._digest.hexdigest()
        return {"use": use, "samples": self._count, "seed": seed, "sha256": digest}


def _prepared(recipe: Recipe, raws: Iterable[Array], advance: Callable[[], None]) -> list[Array]:
    """Raw inputs -> input tensors in the recipe's layout, as the device will make them."""
    prepare = recipe.preprocessor(recipe.input.spec)
    tensors = []
    for raw in raws:
        tensors.append(prepare(raw)[0].copy())
        advance()
    return tensors


def _path(report: VariantReport) -> str:
    """Where a variant's model lies in the bundle."""
    return f"variants/{report.name}.{report.format}"


def _close(models: Mapping[str, Model]) -> None:
    for model in models.values():
        model.close()
