"""What a conversion was asked for, and what came of it: as values, as a table, as JSON.

Importable without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from edge.bundle import Bundle
from edge.manifest import Parity

VARIANTS = ("onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8")
"""In the order in which a device tries them when nobody measured there: the safest first."""


def finite(document: Any) -> Any:
    """The same document with None for the numbers that JSON cannot say."""
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    if isinstance(document, float) and not math.isfinite(document):
        return None
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much to measure, on what, and which variants to ship.

    With `strict` one refused variant keeps the whole bundle from being written.
    """

    samples: int = 400
    calibration: int = 128
    seed: int = 0
    only: tuple[str, ...] = VARIANTS
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one variant, or of the original (which has its accuracy alone)."""

    parity: dict[str, Parity] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class VariantReport:
    """One variant on its way through the gate; `refusals` say why it is not shipped."""

    name: str
    size: int = 0
    measured: Measured = Measured()
    refusals: list[str] = field(default_factory=list)
    advice: str = ""

    @property
    def format(self) -> Literal["onnx", "tflite"]:
        """The first part of the name."""
        return "onnx" if self.name.startswith("onnx-") else "tflite"

    @property
    def precision(self) -> Literal["fp32", "int8"]:
        """The second part of the name."""
        return "int8" if self.name.endswith("-int8") else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The bundle, or None when nothing passed or `strict` forbade it; and how each variant did."""

    bundle: Bundle | None
    reference: Measured
    variants: list[VariantReport]
    samples: int

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table: one column for the original and for each variant."""
        columns = [("original", self.reference), *((v.name, v.measured) for v in self.variants)]
        lines: dict[str, list[str]] = {}

        def put(title: str, column: int, text: str) -> None:
            lines.setdefault(title, [""] * len(columns))[column] = text

        for index, report in enumerate(self.variants, start=1):
            put("size, kB", index, f"{report.size / 1000:.1f}" if report.size else "-")
        for index, (_, measured) in enumerate(columns):
            for output, parity in measured.parity.items():
                put(f"{output}: max error", index, f"{parity.max_error:.2g}")
                put(f"{output}: p99 error", index, f"{parity.p99_error:.2g}")
                put(f"{output}: cosine", index, f"{parity.cosine:.5f}")
            for name, value in measured.agreement.items():
                put(f"agreement: {name}", index, f"{value:.4f}")
        for index, (_, measured) in enumerate(columns):
            for name, value in measured.accuracy.items():
                put(name, index, f"{value:.4f}")
        for index, report in enumerate(self.variants, start=1):
            put("verdict", index, "refused" if report.refusals else "ships")
        header = ["", *(name for name, _ in columns)]
        return header, [[title, *cells] for title, cells in lines.items()]

    def as_json(self) -> dict[str, Any]:
        """One object for machines."""
        return {
            "bundle": str(self.bundle.path) if self.bundle else None,
            "identity": self.bundle.identity if self.bundle else None,
            "size": sum(f.size for f in self.bundle.manifest.files.values()) if self.bundle else 0,
            "samples": self.samples,
            "reference": self.reference.accuracy,
            "variants": [
                {
                    "name": report.name,
                    "ships": not report.refusals and self.bundle is not None,
                    "size": report.size,
                    **msgspec.to_builtins(report.measured),
                    "refusals": report.refusals,
                    "advice": report.advice,
                }
                for report in self.variants
            ],
        }
