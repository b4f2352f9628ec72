"""The table of convert/README.md: every kind of the zoo, really converted, run and judged.

`python tests/convert/table.py` (`make convert-table`) converts all of it and rewrites the table;
with names of kinds it converts those alone, and says how they differ from what stands there.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import zoo

from convert import cache, gate, importers, screen
from convert.agreement import agreement
from convert.errors import CannotConvert, reason
from convert.layouts import to_layout
from convert.original import (
    FORMATS,
    PRECISIONS,
    Exported,
    ExportOptions,
    Format,
    Original,
)
from convert.parity import Tally
from convert.quantize import quantize
from convert.recipe import Gate
from convert.report import Measured
from edge.engines.onnx import OnnxEngine
from edge.engines.tflite import TfliteEngine
from edge.errors import EdgeError
from edge.types import Array, Classification

README = ROOT / "convert" / "README.md"
BEGIN, END = "<!-- table: made by `make convert-table` -->", "<!-- end of the table -->"
COLUMNS = tuple(f"{format}-{precision}" for format in FORMATS for precision in PRECISIONS)
NOISE = 1e-4
"""Errors below it come from the order of additions, and differ from machine to machine."""
FACTOR = 10.0
"""Another processor trains other weights; what goes wrong goes wrong by more than that, or is
refused."""
ENGINES = {"onnx": OnnxEngine, "tflite": TfliteEngine}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What came of one variant: ok, refused or no way. `error` is the p99 error, of an ok one."""

    verdict: str
    error: float = 0.0
    reason: str = ""


def convert(kind: str) -> dict[str, Cell]:
    """All variants of one kind, by name."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them add in another order, and train other weights
    try:
        return _cells(kind)
    finally:
        torch.set_num_threads(threads)


def _cells(kind: str) -> dict[str, Cell]:
    with tempfile.TemporaryDirectory() as folder:
        specimen = zoo.KINDS[kind].make(Path(folder))
        original = importers.load(specimen.source, input=specimen.input, outputs=specimen.outputs)
        wanted = [original.run(tensor) for tensor in specimen.evaluation]
        cells: dict[str, Cell] = {}
        for format in FORMATS:
            names = [name for name in COLUMNS if name.startswith(f"{format}-")]
            cells |= dict(zip(names, _format(original, specimen, format, wanted), strict=True))
    return cells


def _format(
    original: Original, specimen: zoo.Specimen, format: Format, wanted: list[dict[str, Array]]
) -> Iterator[Cell]:
    try:
        exported = original.export(format, ExportOptions())
    except CannotConvert as error:
        yield from [Cell(verdict="no way", reason=str(error))] * len(PRECISIONS)
        return
    calibration = [
        to_layout(tensor, original.input, exported.input) for tensor in specimen.calibration
    ]
    for precision in PRECISIONS:
        try:
            variant = quantize(exported, precision, tensors=calibration)
        except CannotConvert as error:
            yield Cell(verdict="no way", reason=str(error))
            continue
        yield _judged(variant, original, specimen, wanted)


def _judged(
    variant: Exported, original: Original, specimen: zoo.Specimen, wanted: list[dict[str, Array]]
) -> Cell:
    """The variant on edge's engine, held against the original by the gate's default bounds."""
    tallies = {spec.name: Tally() for spec in original.outputs}
    answers = []
    try:
        engine = ENGINES[variant.format](variant.model)
        for tensor, expected in zip(specimen.evaluation, wanted, strict=True):
            fed = to_layout(tensor, original.input, variant.input)
            found = engine.run({variant.input.name: fed})
            for name, tally in tallies.items():
                tally.add(expected[name], found[name])
            answers.append(found)
    except (EdgeError, KeyError, ValueError) as error:
        return Cell(verdict="refused", reason=f"does not run: {reason(error)}")
    parity = {name: tally.parity() for name, tally in tallies.items()}
    scores = next((spec.name for spec in original.outputs if spec.shape == (1, zoo.CLASSES)), None)
    agreed = (
        {} if scores is None else agreement(_classes(wanted, scores), _classes(answers, scores))
    )
    refusals = gate.refusals(
        Measured(parity=parity, agreement=agreed), Gate().bounds(variant.precision), reference={}
    )
    if refusals:
        return Cell(verdict="refused", reason="; ".join(refusals))
    return Cell(verdict="ok", error=max(entry.p99_error for entry in parity.values()))


def _classes(outputs: Sequence[dict[str, Array]], name: str) -> list[Classification]:
    labels = tuple(map(str, range(zoo.CLASSES)))
    return [Classification(np.asarray(found[name][0], np.float32), labels) for found in outputs]


# ---- the table as text


def write(rows: dict[str, dict[str, Cell]]) -> str:
    """The table in Markdown, with its reasons numbered under it."""
    reasons: dict[str, int] = {}
    lines = [
        "| | " + " | ".join(column.replace("-", " ", 1) for column in COLUMNS) + " |",
        "| --- |" + " --- |" * len(COLUMNS),
    ]
    for kind, cells in rows.items():
        texts = []
        for column in COLUMNS:
            cell = cells[column]
            if cell.verdict == "ok":
                texts.append(f"ok {_digit(cell.error)}")
            else:
                number = reasons.setdefault(cell.reason, len(reasons) + 1)
                texts.append(f"{cell.verdict} ({number})")
        lines.append(f"| {zoo.KINDS[kind].title} | " + " | ".join(texts) + " |")
    listed = [f"{number}. {text}" for text, number in reasons.items()]
    return "\n".join([*lines, "", *listed])


def read(text: str) -> dict[str, dict[str, Cell]]:
    """The table that stands between the marks, by kind and variant; reasons left out."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    kinds = {kind.title: name for name, kind in zoo.KINDS.items()}
    found: dict[str, dict[str, Cell]] = {}
    for line in inside.splitlines():
        title, *texts = (part.strip() for part in line.strip("|").split("|"))
        if title in kinds:
            found[kinds[title]] = dict(zip(COLUMNS, map(_cell, texts), strict=True))
    return found


def _cell(text: str) -> Cell:
    ok = re.fullmatch(r"ok (\S+)", text)
    if ok:
        return Cell(verdict="ok", error=float(ok[1]))
    other = re.fullmatch(r"(refused|no way) \(\d+\)", text)
    if other is None:
        raise ValueError(f"no cell of the table: {text!r}")
    return Cell(verdict=other[1])


def _digit(error: float) -> str:
    """One significant digit, as 2e-7, 0.02 or 0."""
    if error == 0:
        return "0"
    text = f"{error:.0e}"
    mantissa, exponent = text.split("e")
    return f"{float(text):g}" if int(exponent) >= -3 else f"{mantissa}e{int(exponent)}"


def differences(kind: str, found: dict[str, Cell], stands: dict[str, Cell]) -> list[str]:
    """Where another verdict came out, or an error of another order of magnitude."""
    told = []
    for column in COLUMNS:
        now, before = found[column], stands[column]
        far = max(now.error, before.error) > FACTOR * min(now.error, before.error)
        noise = max(now.error, before.error) < NOISE
        if now.verdict != before.verdict or (far and not noise):
            texts = [
                f"{cell.verdict} {_digit(cell.error)} {cell.reason}".strip()
                for cell in (before, now)
            ]
            told.append(f"{kind}, {column}: {texts[0]} stands in the table, {texts[1]} came out")
    return told


def main(kinds: Sequence[str]) -> int:
    """Convert, tell the seconds of each kind, and rewrite or compare."""
    with screen.quiet(False, cache.folder() / "logs" / "convert-table.log") as stream:
        rows: dict[str, dict[str, Cell]] = {}
        for kind in kinds or zoo.KINDS:
            started = time.monotonic()
            rows[kind] = convert(kind)
            seconds = round(time.monotonic() - started, 1)
            cells = {name: asdict(cell) for name, cell in rows[kind].items()}
            print(json.dumps({"kind": kind, "seconds": seconds, "cells": cells}), file=stream)
            stream.flush()
    text = README.read_text(encoding="utf-8")
    if kinds:
        stands = read(text)
        told = [line for kind in kinds for line in differences(kind, rows[kind], stands[kind])]
        print("\n".join([write(rows), "", *(told or ["as it stands in the table"])]))
        return int(bool(told))
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n\n{write(rows)}\n\n{END}{after}", encoding="utf-8")
    print(f"{README}: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
