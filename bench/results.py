"""What was measured, for people and programs: a table, JSON, a picture, the table of README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from measuring import Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_COLUMNS = ("case", "metric", "who", "figure", "against", "figure", "ratio", "95 %", "answers")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns for a terminal."""
    cells = [_COLUMNS, *map(_cells, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    lines = []
    for row in cells:
        fitted = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(fitted).rstrip())
    return "\n".join(lines)


def write(folder: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """latest.json and latest.svg in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (folder / "latest.svg").write_text(svg(rows))


def write_readme(readme: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """The table between the two marks, in the place of what stands there."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = f"Measured on {about['machine']}, Python {about['python']}; {versions}."
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| " + " | ".join("---" for _ in _COLUMNS) + " |"]
    lines += [
        "| " + " | ".join(cell.replace("|", "/") for cell in _cells(row)) + " |" for row in rows
    ]
    readme.write_text(before + BEGIN + "\n" + head + "\n\n" + "\n".join(lines) + "\n" + END + after)


def counts(row: Row) -> bool:
    """Whether its figure means anything: it was measured, and its answers are not wrong."""
    return row["ratio"] is not None and not str(row["answers"]).startswith("wrong")


def _cells(row: Row) -> tuple[str, ...]:
    def figure(key: str) -> str:
        return "–" if row[key] is None else f"{row[key]:.4g} {row['unit']}".rstrip()

    spread = "" if row["low"] is None else f"{row['low']:.3g}–{row['high']:.3g}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    if row["answers"] is not None and not counts(row):
        ratio, spread = f"({ratio})", "does not count"
    return (
        str(row["case"]), str(row["metric"]), str(row["who"]), figure("ours"),
        str(row["against"]), figure("reference"), ratio, spread, row["answers"] or "",
    )  # fmt: skip


# ---- the picture

_BAR, _LEFT, _RIGHT, _WIDE = 18, 330, 70, 400
_INK, _GREY, _OURS, _OTHERS = "#222222", "#9aa0a6", "#1a73e8", "#bdc1c6"


def svg(rows: Sequence[Row]) -> str:
    """One bar a ratio of `one frame` to a bare session, with its interval; a line where it is 1."""
    shown = [
        row for row in rows
        if row["metric"] == "one frame" and "bare" in row["against"] and counts(row)
    ]  # fmt: skip
    most = max((row["high"] for row in shown), default=1.0)
    height = 60 + _BAR * 1.6 * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + _RIGHT}"'
        f' height="{height:.0f}" font-family="sans-serif" font-size="12" fill="{_INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="22" font-size="14">One frame ÷ the bare session on the same file'
        " (less is better; 95 % intervals)</text>",
    ]
    y = 40.0
    for row in shown:
        length, low, high = (_WIDE * row[key] / most for key in ("ratio", "low", "high"))
        colour = _OURS if row["who"] == "edgewright" else _OTHERS
        middle = y + _BAR / 2
        parts += [
            f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(row['case'])}: {escape(row['who'])}</text>",
            f'<rect x="{_LEFT}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="M{_LEFT + low:.1f} {middle:.1f}H{_LEFT + high:.1f}" stroke="{_INK}"/>',
            f'<text x="{_LEFT + high + 6:.1f}" y="{middle + 4:.1f}">{row["ratio"]:.2f}</text>',
        ]
        y += _BAR * 1.6
    one = _LEFT + _WIDE / most
    parts.append(f'<path d="M{one:.1f} 34V{y:.1f}" stroke="{_GREY}" stroke-dasharray="3 3"/>')
    return "\n".join([*parts, "</svg>", ""])
