"""The model files of the variants: exported at fp32, and quantised from that."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from convert.cache import digest
from convert.errors import CannotConvert, ConversionError
from convert.job import Job
from convert.layouts import single, to_layout
from convert.original import FORMATS, Exported, ExportOptions, Format
from convert.quantize import Calibration, quantize
from convert.recorded import Recorded
from edge.manifest import Precision
from edge.types import Array, TensorSpec


class Maker:
    """Makes what was asked for, one variant after the other.

    `fp32` holds what the others are made from, by format; `absent` the reason why there is no way
    to a variant, by name.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.fp32: dict[Format, Exported] = {}
        self.absent: dict[str, str] = {}
        self.provenance: dict[str, Any] = {}

    def make(self, names: tuple[str, ...]) -> dict[str, Exported]:
        """The variants of these names that can be made."""
        made: dict[str, Exported] = {}
        for format in FORMATS:
            wanted = [name for name in names if name.startswith(f"{format}-")]
            if not wanted:
                continue
            exported = self._attempt(wanted, functools.partial(self._export, format))
            if exported is None:
                continue
            self.fp32[format] = exported
            for name in wanted:
                step = functools.partial(self._variant, exported, name)
                variant = self._attempt([name], step)
                if variant is not None:
                    made[name] = variant
        return {name: made[name] for name in names if name in made}

    def int8(self, format: Format, keep_float: frozenset[str]) -> Exported:
        """Static int8 with some layers left in float."""
        return self._quantize(self.fp32[format], "int8", keep_float)

    def tensors(self, spec: TensorSpec) -> list[Array]:
        """The calibration inputs as tensors of this spec; the count of them is bounded."""
        made, tensors = self._calibration
        return [to_layout(tensor, made, spec) for tensor in tensors]

    def _attempt(self, names: list[str], step: Callable[[], Exported]) -> Exported | None:
        """Run a converter; what it cannot do is said of its variants, and the others go on."""
        try:
            return step()
        except CannotConvert as error:
            traceback.print_exception(error)  # into the log
            for name in names:
                self.absent[name] = str(error)
            return None

    def _export(self, format: Format) -> Exported:
        job = self._job
        options = ExportOptions(fold=job.fold, dynamic_batch=job.recipe.dynamic_batch)
        parts = [job.trained, format, options.dynamic_batch, msgspec.to_builtins(options.fold)]

        def export() -> Exported:
            original = job.original
            with job.screen.step(f"exporting {format}"):
                return original.export(format, options)

        return job.cache.remember("export", parts, Exported, export)

    def _variant(self, exported: Exported, name: str) -> Exported:
        """The variant of this name, from what was exported."""
        if name == exported.name:
            return exported
        job = self._job
        precision = msgspec.convert(name.partition("-")[2], Precision)
        parts: list[Any] = [digest(exported.model), precision, job.recipe.task]
        if precision == "int8":
            if not job.inputs.can_calibrate:
                raise CannotConvert(
                    "there is nothing to calibrate with; name a folder of pictures or an .npz as"
                    " `[data] calibration` (--calibrate)"
                )
            parts += [msgspec.to_builtins(job.recipe.calibration), job.fed]
            self.provenance = job.cache.remember(
                "calibration", parts[3:], dict[str, Any], self._calibration_provenance
            )
        return job.cache.remember(
            "quantize", parts, Exported, lambda: self._quantize(exported, precision, frozenset())
        )

    def _quantize(
        self, exported: Exported, precision: Precision, keep_float: frozenset[str]
    ) -> Exported:
        config = self._job.recipe.calibration
        tensors = self.tensors(single(exported.input)) if precision == "int8" else []
        title = f"{exported.format} to {precision}"
        with self._job.screen.step(title, len(tensors) or None) as advance:
            return quantize(
                exported,
                precision,
                tensors=tensors,
                calibration=Calibration(method=config.method, percentile=config.percentile),
                keep_float=keep_float,
                task=self._job.recipe.task,
                advance=advance,
            )

    @functools.cached_property
    def _recorded(self) -> Recorded[Array]:
        job = self._job
        count = job.recipe.calibration.samples
        return Recorded(job.inputs.calibration(count, job.options.seed))

    @functools.cached_property
    def _calibration(self) -> tuple[TensorSpec, list[Array]]:
        """Input tensors of the calibration inputs, and their spec: through edge's own code."""
        job = self._job
        spec = single(next(iter(self.fp32.values())).input)
        prepare = job.recipe.preprocessor(spec)
        tensors = []
        title = "calibration inputs"
        with job.screen.step(title, job.recipe.calibration.samples) as advance:
            for raw in self._recorded:
                tensors.append(prepare(raw)[0].copy())
                advance()
        if not tensors:
            raise ConversionError(f"{job.recipe.file}: there are no calibration inputs")
        return spec, tensors

    def _calibration_provenance(self) -> dict[str, Any]:
        _ = self._calibration
        found = self._recorded.provenance("calibration", self._job.options.seed)
        return found | {"method": self._job.recipe.calibration.method}
