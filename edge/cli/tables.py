"""Tables for a person: by rich where it is installed, plainly otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    try:
        from rich.console import Console
    except ImportError:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    Console(soft_wrap=False).print(build(header, rows))


def build(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """The same as a rich table, for live views. ImportError without rich."""
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table, for documents."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
