"""report.html: what a conversion or a comparison found, as one page for a person.

Invariant: one file that needs no network and no script; every text from outside is escaped.
"""

from __future__ import annotations

import base64
import html as markup
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.report import finite
from convert.worst import WorstSample
from edge.errors import ConfigError
from edge.types import Array, Classification, Detections, Prediction

SIDE = 320
"""Longest side of an embedded picture, in pixels."""
DRAWN = (60, 160, 40)
"""Colour of the boxes, BGR."""
SERIES = ("#2a78d6", "#1baf7a")
"""Marks of the two formats: onnx, tflite. Their names stand beside the marks."""

_STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1a1a19; --soft: #6b6a66;
  --line: #e3e2dd; --good: #0b7a3b; --bad: #b3261e; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --page: #1a1a19; --ink: #f2f1ec; --soft: #a5a49e;
  --line: #3a3a37; --good: #58c98a; --bad: #ff8a80; --card: #232322; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child, .left td, .left th { text-align: left; }
th { font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; margin: .8rem 0; }
article h3 { margin: 0 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.pairs { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem; }
figure div { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
figure img { width: 100%; height: auto; image-rendering: auto; border-radius: 4px; }
figcaption, figure small { font-size: .8rem; color: var(--soft); display: block;
  overflow-wrap: anywhere; }
svg { width: 100%; max-width: 46rem; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .axis { stroke: var(--line); } svg .tick { fill: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def html(report: Mapping[str, Any], worst: Mapping[str, Sequence[WorstSample]]) -> str:
    """The page of a report (the same document as report.json).

    Of the report it reads `title`, `samples`, `labelled`, `reference` (accuracy by name),
    `variants` (as VariantReport writes them, with `latency_s`, `dominated`, `layers` and
    `kept_float` where they are known), and shows whatever stands in `calibration`, `data`,
    `preprocess`, `provenance` and `tools`. `worst` are samples by the name of their variant.
    """
    variants = list(report.get("variants", []))
    title = str(report.get("title") or report.get("bundle") or "edge convert")
    parts = [
        f"<h1>{_text(title)}</h1>",
        _summary(report, variants),
        _table(report, variants),
        _trade_off(variants),
        *(_refused(v) for v in variants if v.get("refusals") or v.get("dominated")),
        *(_worst(name, samples) for name, samples in worst.items() if samples),
        _facts("How the inputs were prepared", report.get("preprocess")),
        _facts("Calibration", report.get("calibration")),
        _facts("Data", report.get("data")),
        _facts("Skipped", report.get("skipped")),
        _facts("Provenance", report.get("provenance")),
        _facts("Tools", report.get("tools")),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>\n"
    )


def write(
    folder: Path, report: Mapping[str, Any], worst: Mapping[str, Sequence[WorstSample]]
) -> None:
    """report.html and report.json into a folder. ConfigError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(html(report, worst), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(finite(report), indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: the report cannot be written: {error.strerror}") from error


def _summary(report: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> str:
    judged = [v for v in variants if v.get("role") != "reference"]
    ships = [str(v["name"]) for v in judged if v.get("ships")]
    word = "passed the gate" if report.get("kind") == "compare" else "ships"
    text = f"{len(ships)} of {len(judged)} {word}" + (f": {', '.join(ships)}" if ships else "")
    samples = f"{report.get('samples', 0)} samples"
    if "labelled" in report:
        samples += f", {report['labelled']} with a label"
    return f'<p class="soft">{_text(text)}. Judged on {_text(samples)}.</p>'


def _table(report: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> str:
    """One row a variant: what it costs and what it gives."""
    accuracy = list(dict.fromkeys(n for v in variants for n in v.get("accuracy", {})))
    shares = list(dict.fromkeys(n for v in variants for n in v.get("agreement", {})))
    timed = any(v.get("latency_s") for v in variants)
    head = ["", "verdict", "size, kB", *(["one inference, ms"] if timed else [])]
    head += ["max error", "p99 error", *(f"agreement: {name}" for name in shares), *accuracy]
    rows = []
    reference = report.get("reference") or {}
    if report.get("kind") != "compare" and reference:
        blank = [""] * (len(head) - 1 - len(accuracy))
        rows.append(["original", *blank, *(_number(reference.get(n)) for n in accuracy)])
    for v in variants:
        errors = list(v.get("parity", {}).values())
        cells = [str(v["name"]), _verdict(v), _number(v.get("size", 0) / 1000)]
        cells += [_number((v.get("latency_s") or 0) * 1e3 or None)] if timed else []
        cells += [_largest(errors, "max_error"), _largest(errors, "p99_error")]
        cells += [_number(v.get("agreement", {}).get(name)) for name in shares]
        cells += [_number(v.get("accuracy", {}).get(name)) for name in accuracy]
        rows.append(cells)
    body = "".join("<tr>" + "".join(_cell(c) for c in cells) + "</tr>" for cells in rows)
    titles = "".join(f"<th>{_text(name)}</th>" for name in head)
    return (
        f'<h2>Variants</h2><div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
        '<p class="soft">Errors are relative to the range of the original’s output; the largest of'
        " all outputs stands here. Speed is that of the machine that converted, one thread.</p>"
    )


def _verdict(variant: Mapping[str, Any]) -> str:
    if variant.get("role") == "reference":
        return "reference"
    if variant.get("refusals"):
        return "✗ refused"
    if variant.get("dominated"):
        return "– dominated"
    return "✓ ships" if variant.get("role") != "candidate" else "✓ passed"


def _cell(text: str) -> str:
    kind = {"✗": ' class="bad"', "✓": ' class="good"'}.get(text[:1], "")
    return f"<td{kind}>{_text(text)}</td>"


def _trade_off(variants: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy (or, without labels, agreement) over the time of one inference; area is size."""
    measure = next((n for v in variants for n in v.get("accuracy", {})), "")
    where = "accuracy" if measure else "agreement"
    measure = measure or next((n for v in variants for n in v.get("agreement", {})), "")
    points = [
        (float(v["latency_s"]) * 1e3, float(v[where][measure]), v)
        for v in variants
        if v.get("latency_s") and v.get(where, {}).get(measure) is not None
    ]
    if len(points) < 2:
        return ""
    width, height, left, right, top, bottom = 480, 300, 52, 140, 24, 44
    slowest = max(x for x, _, _ in points) * 1.15
    low, high = min(y for _, y, _ in points), max(y for _, y, _ in points)
    margin = max(high - low, 0.004) * 0.2
    low, high = low - margin, high + margin
    if all(y <= 1 for _, y, _ in points):
        high = min(high, 1.0)
    heaviest = max(v.get("size", 0) for _, _, v in points) or 1

    def x_of(value: float) -> float:
        return left + (width - left - right) * value / slowest

    def y_of(value: float) -> float:
        return height - bottom - (height - top - bottom) * (value - low) / (high - low)

    leaders: list[str] = []
    marks = [
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y_of(low):.1f}"'
        f' y2="{y_of(low):.1f}"/>'
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        marks.append(
            f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y_of(value):.1f}"'
            f' y2="{y_of(value):.1f}"/><text class="tick" x="{left - 8}" y="{y_of(value) + 4:.1f}"'
            f' text-anchor="end">{value:.3f}</text>'
        )
        time = slowest * step / 4
        marks.append(
            f'<text class="tick" x="{x_of(time):.1f}" y="{height - bottom + 18}"'
            f' text-anchor="middle">{time:.3g}</text>'
        )
    taken: list[float] = []
    for x, y, v in sorted(points, key=lambda point: -point[1]):
        radius = max(5.0, 16 * math.sqrt(v.get("size", 0) / heaviest))
        colour = SERIES[str(v.get("format", v["name"])).startswith("tflite")]
        # Labels stand in a column of their own height, so that near points stay readable.
        line = max([y_of(y) + 4, *(place + 15 for place in taken)])
        taken.append(line)
        text = f"{v['name']} ({v.get('size', 0) / 1000:.0f} kB)"
        # Under all circles, which have to stay whole.
        leaders.append(
            f'<line class="axis" x1="{x_of(x):.1f}" y1="{y_of(y):.1f}"'
            f' x2="{width - right + 4}" y2="{line - 4:.1f}"/>'
        )
        marks.append(
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="{radius:.1f}" fill="{colour}"'
            f' fill-opacity="{0.25 if v.get("refusals") else 0.7}" stroke="{colour}"'
            f' stroke-width="2"><title>{_text(text)}: {x:.3g} ms, {y:.4f}</title></circle>'
            f'<text x="{width - right + 8}" y="{line:.1f}">{_text(_short(str(v["name"])))}</text>'
        )
    marks.append(
        f'<text class="tick" x="{(left + width - right) / 2}" y="{height - 6}"'
        ' text-anchor="middle">one inference, ms</text>'
    )
    return (
        f"<h2>Trade-off: {_text(measure)} over time</h2>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_text(measure)} over the'
        f' time of one inference">{"".join(leaders + marks)}</svg>'
        '<p class="soft">Higher and further left is better. The area is the size of the file;'
        ' <span style="color:'
        + SERIES[0]
        + '">●</span> ONNX, <span style="color:'
        + SERIES[1]
        + '">●</span> TFLite; pale: refused.</p>'
    )


def _refused(variant: Mapping[str, Any]) -> str:
    """Why a variant is left out, where the error starts, and what to try."""
    reasons = [*variant.get("refusals", [])]
    if variant.get("dominated"):
        reasons.append(f"dominated: {variant['dominated']}")
    listed = "".join(f"<li>{_text(reason)}</li>" for reason in reasons)
    advice = variant.get("advice")
    tried = f"<p><strong>What to try:</strong> {_text(advice)}</p>" if advice else ""
    layers = variant.get("layers") or []
    rows = "".join(
        f"<tr>{_cell(str(x['layer']))}{_cell(str(x['op']))}{_cell(_number(x['error']))}"
        f"{_cell(_number(x['added']))}</tr>"
        for x in layers[:12]
    )
    table = (
        '<p>Where the error starts, worst first:</p><div class="scroll"><table><thead><tr>'
        "<th>layer</th><th>operation</th><th>error</th><th>added here</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    return f"<article><h3>{_text(variant['name'])}</h3><ul>{listed}</ul>{tried}{table}</article>"


def _worst(name: str, samples: Sequence[WorstSample]) -> str:
    figures = "".join(_figure(sample) for sample in samples)
    return (
        f"<h2>Worst samples of {_text(name)}</h2>"
        '<p class="soft">Left the original’s answer, right the variant’s.</p>'
        f'<div class="pairs">{figures}</div>'
    )


def _figure(sample: WorstSample) -> str:
    sides = "".join(
        f"<span>{_shown(sample.raw, answer)}<small>{_text(_said(answer))}</small></span>"
        for answer in (sample.reference, sample.found)
    )
    truth = ""
    if "class" in sample.truth and isinstance(sample.reference, Classification):
        truth = f", truth {sample.reference.labels[int(sample.truth['class'])]}"
    caption = f"sample {sample.index}: largest error {sample.error:.2g} of the range{truth}"
    return f"<figure><div>{sides}</div><figcaption>{_text(caption)}</figcaption></figure>"


def _said(answer: Prediction | None) -> str:
    if isinstance(answer, Classification):
        return f"{answer.label} ({answer.score:.3g})"
    if isinstance(answer, Detections):
        names = [f"{n} {s:.2f}" for n, s in zip(answer.names, answer.scores, strict=True)]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return "" if answer is None else type(answer).__name__


def _shown(raw: Array, answer: Prediction | None) -> str:
    """A picture with the boxes drawn, or the curves of a window, as an image without a file."""
    if raw.dtype != np.uint8 or raw.ndim != 3:
        return _curves(raw)
    import cv2

    scale = min(1.0, SIDE / max(raw.shape[:2]))
    size = (max(1, round(raw.shape[1] * scale)), max(1, round(raw.shape[0] * scale)))
    picture = cv2.resize(raw, size, interpolation=cv2.INTER_AREA)
    if isinstance(answer, Detections):
        for box in (answer.boxes * scale).round().astype(int).tolist():
            cv2.rectangle(picture, tuple(box[:2]), tuple(box[2:]), DRAWN, 2)
    data = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _curves(raw: Array) -> str:
    """Columns of [T, C] as lines; of anything else nothing is drawn."""
    window = np.asarray(raw, np.float64)
    if window.ndim != 2 or len(window) < 2 or not np.isfinite(window).all():
        return ""
    low, high = float(window.min()), float(window.max())
    spread = (high - low) or 1.0
    lines = []
    for column in window.T[:6]:
        points = " ".join(
            f"{160 * index / (len(column) - 1):.1f},{78 - 76 * (value - low) / spread:.1f}"
            for index, value in enumerate(column.tolist())
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{SERIES[0]}"/>')
    return f'<svg viewBox="0 0 160 80" role="img" aria-label="window">{"".join(lines)}</svg>'


def _facts(title: str, facts: Any) -> str:
    """A plain table of names and values, at most two deep."""
    if not facts:
        return ""
    if isinstance(facts, list | tuple):
        facts = {str(number): fact for number, fact in enumerate(facts, start=1)}
    rows = "".join(
        f"<dt>{_text(key)}</dt><dd>{_text(_flat(value))}</dd>" for key, value in facts.items()
    )
    return f"<h2>{_text(title)}</h2><dl>{rows}</dl>"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value)
    return str(value)


def _largest(errors: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [error.get(key) for error in errors]
    if not values:
        return ""
    # report.json has null for what is not finite.
    return "not finite" if None in values else f"{max(float(str(v)) for v in values):.2g}"


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"


def _text(value: Any) -> str:
    return markup.escape(str(value), quote=True)
