"""What a person watches during a conversion: steps with their progress, and a table at the end.

Progress goes to standard error, so that standard output holds the result alone. With rich on a
terminal it moves; otherwise each step is one plain line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO


class Screen:
    """Shows the steps of long work on `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._moving = stream.isatty() and _has_rich()

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """One step; call what it yields once for each of `total` parts done."""
        with (self._bar if self._moving else self._line)(title, total) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[], None]]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:36}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=self._stream)) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
            progress.update(task, total=total or 1, completed=total or 1)

    @contextlib.contextmanager
    def _line(self, title: str, total: int | None) -> Iterator[Callable[[], None]]:
        started = time.monotonic()
        self._stream.write(f"{title} …")
        self._stream.flush()
        try:
            yield lambda: None
        except BaseException:
            self._stream.write("\n")
            raise
        self._stream.write(f" {time.monotonic() - started:.1f} s\n")
        self._stream.flush()


@contextlib.contextmanager
def quiet(verbose: bool, log: Path) -> Iterator[TextIO]:
    """Keep the converters' chatter, native code's included, off the terminal and in `log`.

    Yields a stream to the real standard error. Redirects file descriptors, so it is for a command
    and not for a library. With `verbose` everything is let through.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    level = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8"))
        if not verbose:
            # Read when the libraries are first imported.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            stack.callback(logging.disable, level)
            sink = stack.enter_context(_open_log(log))
            for descriptor in (1, 2):
                kept = os.dup(descriptor)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, descriptor)
                os.dup2(sink.fileno(), descriptor)
            stack.callback(sys.stderr.flush)
            stack.callback(sys.stdout.flush)
        yield stream


def _open_log(log: Path) -> BinaryIO:
    """The log, or nowhere: a conversion does not fail for want of a log."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("wb")
    except OSError:
        return open(os.devnull, "wb")


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: the first column to the left, numbers to the right."""
    if sys.stdout.isatty() and _has_rich():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, title in enumerate(header):
            table.add_column(title, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row, style=("bold" if row is rows[-1] else None))
        Console().print(table)
        return
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    for row in (header, *rows):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        sys.stdout.write("  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip() + "\n")


def _has_rich() -> bool:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return False
    return True
