"""What a conversion was asked for, and what came of it: as values, as a table, as JSON.

Importable without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from convert.recipe import VARIANTS
from convert.worst import WorstSample
from edge.bundle import Bundle
from edge.manifest import Parity, Precision


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
    """How much to measure, and which variants to make and to ship.

    `only`: these variants alone (empty: what the recipe says). With `strict` one refused variant
    keeps the whole bundle from being written. `search` is the number of attempts at a refused
    variant with some layers left in float.
    """

    seed: int = 0
    only: tuple[str, ...] = ()
    strict: bool = False
    search: int = 0
    keep_dominated: bool = False
    unsafe_joblib: bool = False


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one variant, or of the original (which has its accuracy alone)."""

    parity: dict[str, Parity] = {}
    agreement: dict[str, float] = {}
    accuracy: dict[str, float] = {}


@dataclass(slots=True, kw_only=True)
class VariantReport:
    """One variant on its way through the gate.

    `absent` says why it could not be made, `refusals` why it is not shipped though it was, and
    `dominated` which other one is better in everything. `layers` are where the error starts, worst
    first; `kept` those that the search left in float.
    """

    name: str
    size: int = 0
    measured: Measured = field(default_factory=Measured)
    latency_s: float = 0.0
    absent: str = ""
    refusals: list[str] = field(default_factory=list)
    advice: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)
    kept: tuple[str, ...] = ()
    dominated: str = ""

    @property
    def precision(self) -> Precision:
        """The second part of the name."""
        return cast(Precision, self.name.partition("-")[2])

    @property
    def verdict(self) -> str:
        """ships, refused, dominated, or not made."""
        if self.absent:
            return "not made"
        if self.refusals:
            return "refused"
        return "dominated" if self.dominated else "ships"

    def lines(self) -> list[str]:
        """Why a variant that was made does not ship."""
        if not self.refusals:
            return [f"{self.name} left out: {self.dominated}"] if self.dominated else []
        told = [f"warning: {self.name} refused: {reason}" for reason in self.refusals]
        if self.layers:
            worst = ", ".join(
                f"{layer['layer']} ({layer['op']}, {layer['added']:.2g})"
                for layer in self.layers[:3]
            )
            told.append(f"  {self.name}: the error starts in {worst}")
        return told + ([f"  {self.name}: {self.advice}"] if self.advice else [])

    def as_json(self) -> dict[str, Any]:
        """All but the latency, which another run measures anew."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "ships": self.verdict == "ships",
            "size": self.size,
            **msgspec.to_builtins(self.measured),
            "absent": self.absent,
            "refusals": self.refusals,
            "advice": self.advice,
            "layers": self.layers,
            "kept_float": list(self.kept),
            "dominated": self.dominated,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The bundle, or None when nothing passed or `strict` forbade it; and how each variant did."""

    title: str
    bundle: Bundle | None
    reference: Measured
    variants: list[VariantReport]
    samples: int
    data: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst: dict[str, list[WorstSample]] = field(default_factory=dict)
    unchanged: bool = False

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table: one column for the original and for each variant."""
        made = [report for report in self.variants if not report.absent]
        columns = [("original", self.reference), *((v.name, v.measured) for v in made)]
        lines: dict[str, list[str]] = {}

        def put(title: str, column: int, text: str) -> None:
            lines.setdefault(title, [""] * len(columns))[column] = text

        for index, report in enumerate(made, start=1):
            put("size, kB", index, f"{report.size / 1000:.1f}")
        for index, report in enumerate(made, start=1):
            if report.latency_s:
                put("ms here, 1 thread", index, f"{report.latency_s * 1e3:.3f}")
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
        for index, report in enumerate(made, start=1):
            put("verdict", index, report.verdict)
        header = ["", *(name for name, _ in columns)]
        return header, [[title, *cells] for title, cells in lines.items()]

    def lines(self) -> list[str]:
        """What a person has to be told: of what could not be made once a reason, then the rest."""
        absent: dict[str, list[str]] = {}
        for report in self.variants:
            if report.absent:
                absent.setdefault(report.absent, []).append(report.name)
        told = [f"{', '.join(names)} not made: {reason}" for reason, names in absent.items()]
        told += [line for report in self.variants for line in report.lines()]
        return told + [f"note: {note}" for note in self.notes]

    def report(self) -> dict[str, Any]:
        """report.json: what does not change from run to run."""
        return {
            "samples": self.samples,
            "reference": self.reference.accuracy,
            "data": self.data,
            "notes": self.notes,
            "variants": [report.as_json() for report in self.variants],
        }

    def as_json(self) -> dict[str, Any]:
        """One object for machines and for the page, latencies included."""
        latencies = {report.name: report.latency_s for report in self.variants}
        variants = [
            {**entry, "latency_s": latencies[entry["name"]]} for entry in self.report()["variants"]
        ]
        return {
            "kind": "convert",
            "title": self.title,
            "bundle": str(self.bundle.path) if self.bundle else None,
            "identity": self.bundle.identity if self.bundle else None,
            "size": sum(f.size for f in self.bundle.manifest.files.values()) if self.bundle else 0,
            "unchanged": self.unchanged,
            **self.report(),
            "variants": variants,
        }


def wanted_variants(only: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    """What the command line asks for, else the recipe, else all; in the order of VARIANTS."""
    chosen = only or asked or VARIANTS
    return tuple(name for name in VARIANTS if name in chosen)
