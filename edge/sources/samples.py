"""Sensor samples from CSV or JSON lines, in windows: a file, or standard input with "-".

A window is float32 [length, C]. A row that cannot be used is dropped and counted as a bad frame;
since the window would then lie about time, it starts anew behind that row.
"""

from __future__ import annotations

import csv
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from edge.clock import capture
from edge.errors import ConfigError, FrameError, SourceError
from edge.manifest import Preprocess, WindowPreprocess
from edge.seams import EndOfStream
from edge.types import Array, Frame
from edge.wire import SourceState

_STDIN = Path("-")
_MAX_LINE_BYTES = 1 << 16


class WindowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is a file or "-". What is left out of `channels` (columns or fields in the model's
    order), `length` and `hop` (samples) is taken from the bundle."""

    path: Path = msgspec.field(default_factory=lambda: _STDIN)
    channels: tuple[str, ...] = ()
    length: int = 0
    hop: int = 0

    def __post_init__(self) -> None:
        if self.length < 0 or self.hop < 0:
            raise ValueError("length and hop must be 1 or more")


class Window:
    """Collects samples and gives a window every `hop` of them."""

    def __init__(self, length: int, hop: int, channels: int) -> None:
        self._buffer = np.empty((length, channels), np.float32)
        self._hop = hop
        self._filled = 0
        self._skip = 0

    def add(self, sample: Array) -> Array | None:
        """One sample [C]; the window [length, C] that it completes, as a copy, or None."""
        if self._skip:
            self._skip -= 1
            return None
        length = len(self._buffer)
        self._buffer[self._filled] = sample
        self._filled += 1
        if self._filled < length:
            return None
        window = self._buffer.copy()
        keep = max(0, length - self._hop)
        self._buffer[:keep] = window[length - keep :]
        self._filled = keep
        self._skip = max(0, self._hop - length)
        return window

    def clear(self) -> None:
        """Forget the samples collected so far."""
        self._filled = self._skip = 0


class _Lines:
    """Lines of a file or of standard input, without ever waiting longer than asked."""

    def __init__(self, path: Path) -> None:
        self._waits = path == _STDIN
        try:
            self._file: BinaryIO = (
                sys.stdin.buffer if self._waits else open(path, "rb")  # noqa: SIM115 - see close
            )
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        self._rest = b""
        self._ended = False

    def next(self, timeout_s: float) -> str | None:
        """The next line; None when none came in time. EndOfStream, FrameError for a bad one."""
        while b"\n" not in self._rest and not self._ended:
            if self._waits and not select.select([self._file], [], [], timeout_s)[0]:
                return None
            piece = os.read(self._file.fileno(), 1 << 16)
            self._ended = not piece
            self._rest += piece
            if len(self._rest) > 2 * _MAX_LINE_BYTES and b"\n" not in self._rest:
                self._rest = b""
                raise FrameError(f"a line is longer than {_MAX_LINE_BYTES} bytes")
        line, newline, self._rest = self._rest.partition(b"\n")
        if not line and not newline:
            raise EndOfStream
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise FrameError("a line is not UTF-8 text") from None

    def close(self) -> None:
        if not self._waits:
            self._file.close()


class _Samples:
    """Windows of what `_parse` makes of the lines: one sample, or None for a line without one."""

    live = False
    _parse: Callable[[str], list[float] | None]

    def __init__(
        self, config: WindowConfig, *, name: str, preprocess: Preprocess | None = None
    ) -> None:
        given = preprocess if isinstance(preprocess, WindowPreprocess) else None
        self._path = config.path
        self._channels = config.channels or (given.channels if given else ())
        length = config.length or (given.length if given else 0)
        hop = config.hop or (given.hop if given else 0)
        if not (self._channels and length and hop):
            raise ConfigError(f"source {name}: channels, length and hop are needed for this bundle")
        self._name = name
        self._lines: _Lines | None = None
        self._window = Window(length, hop, len(self._channels))
        self._number = 0
        self._row = 0
        self.state = SourceState(state="starting")

    def read(self, timeout_s: float) -> Frame | None:
        """The next window; None while samples are still missing."""
        if self._lines is None:
            self._lines = _Lines(self._path)
            self.state = SourceState(state="running")
        deadline = time.monotonic() + timeout_s
        while True:
            window = self._next_window(max(0.0, deadline - time.monotonic()))
            if window is not None:
                self._number += 1
                return capture(window, source=self._name, number=self._number - 1)
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()

    def _next_window(self, timeout_s: float) -> Array | None:
        assert self._lines is not None
        try:
            line = self._lines.next(timeout_s)
            if line is None:
                return None
            self._row += 1
            sample = self._parse(line)
            if sample is None:
                return None
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                values = np.array(sample, np.float32)
            if not np.isfinite(values).all():
                raise FrameError("a value is not finite")
            return self._window.add(values)
        except EndOfStream:
            self.state = SourceState(state="ended")
            raise
        except (FrameError, ValueError, OverflowError, RecursionError, csv.Error) as error:
            self._window.clear()
            self._number += self._number > 0  # the next window does not follow on the last one
            raise FrameError(f"{self._path}, line {self._row}: {error}") from error


class Csv(_Samples):
    """CSV with a header line that names the columns."""

    Config = WindowConfig

    def __init__(
        self, config: WindowConfig, *, name: str, preprocess: Preprocess | None = None
    ) -> None:
        super().__init__(config, name=name, preprocess=preprocess)
        self._columns: list[int] | None = None

    def _parse(self, line: str) -> list[float] | None:
        row = [cell.strip() for cell in next(csv.reader([line]), [])]
        if not row:
            return None
        if self._columns is None:
            missing = [name for name in self._channels if name not in row]
            if missing:
                raise SourceError(
                    f"{self._path}: the header has no column {', '.join(missing)};"
                    f" it has {', '.join(row)}"
                )
            self._columns = [row.index(name) for name in self._channels]
            return None
        if len(row) <= max(self._columns):
            raise FrameError(f"{len(row)} cells are too few")
        return [float(row[column]) for column in self._columns]


class JsonLines(_Samples):
    """One JSON object a line, with a field per channel."""

    Config = WindowConfig

    def _parse(self, line: str) -> list[float] | None:
        if not line.strip():
            return None
        fields = json.loads(line)
        if not isinstance(fields, Mapping):
            raise FrameError("not a JSON object")
        try:
            return [float(fields[name]) for name in self._channels]
        except (KeyError, TypeError) as error:
            raise FrameError(f"field missing or not a number: {error}") from error
