"""Sensor samples from CSV or JSON lines, in windows: a file, or standard input with "-".

A window is float32 [length, C]. A row that cannot be used is dropped and counted as a bad frame;
since the window would then lie about time, it starts anew behind that row.
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge.clock import capture
from edge.errors import ConfigError, FrameError, SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.sources import records
from edge.sources.records import LineBuffer, Records
from edge.sources.windows import UNITS, TimedConfig, Windows, plan
from edge.types import Frame
from edge.wire import SourceState

_STDIN = Path("-")
_PIECE_BYTES = 1 << 16


class LinesConfig(TimedConfig, frozen=True, kw_only=True):
    """`path` is a file or "-". What is left out of `channels` (columns or fields in the model's
    order), `length` and `hop` (samples) is taken from the bundle. `time` names the column or field
    that says when a sample was taken, in `time_unit`; on a regular grid of `rate_hz` there must be
    one, except on standard input, where a sample counts as taken when it arrives."""

    path: Path = msgspec.field(default_factory=lambda: _STDIN)


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
        self._buffer = LineBuffer()
        self._ended = False

    def next(self, timeout_s: float) -> str | None:
        """The next line; None when none came in time. EndOfStream, FrameError for a bad one."""
        while (line := self._buffer.take(ended=self._ended)) is None:
            if self._ended:
                raise EndOfStream
            if self._waits and not select.select([self._file], [], [], timeout_s)[0]:
                return None
            piece = os.read(self._file.fileno(), _PIECE_BYTES)
            self._ended = not piece
            self._buffer.put(piece)
        return line

    def close(self) -> None:
        if not self._waits:
            self._file.close()


class _Samples:
    """Windows of what `_records` makes of the lines."""

    live = False

    def __init__(
        self, config: LinesConfig, *, name: str, preprocess: Preprocess | None = None
    ) -> None:
        windows = plan(config, preprocess, name=name)
        if windows.on_grid and not config.time and config.path != _STDIN:
            raise ConfigError(
                f"source {name}: rate_hz needs `time`, which says when a sample was taken"
            )
        self._path = config.path
        self._arrival = windows.on_grid and not config.time
        self._name = name
        self._lines: _Lines | None = None
        self._records = self._reads(windows.channels, config.time, UNITS[config.time_unit])
        self._windows = Windows(windows)
        self._row = 0
        self.counts = self._windows.counts
        self.state = SourceState(state="starting")

    @staticmethod
    def _reads(channels: tuple[str, ...], time: str, unit_s: float) -> Records:
        raise NotImplementedError

    def read(self, timeout_s: float) -> Frame | None:
        """The next window; None while samples are still missing."""
        if self._lines is None:
            self._lines = _Lines(self._path)
            self.state = SourceState(state="running")
        deadline = time.monotonic() + timeout_s
        while (made := self._windows.take()) is None:
            wait_s = deadline - time.monotonic()
            if not self._add_line(max(0.0, wait_s)) or wait_s <= 0:
                return None
        return capture(made[1], source=self._name, number=made[0])

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()

    def _add_line(self, timeout_s: float) -> bool:
        """Take over the sample of the next line; False when none came in time."""
        assert self._lines is not None
        try:
            line = self._lines.next(timeout_s)
            if line is None:
                return False
            self._row += 1
            sample = self._records.sample(line)
        except EndOfStream:
            self.state = SourceState(state="ended")
            raise
        except FrameError as error:
            self._windows.bad()
            raise FrameError(f"{self._path}, line {self._row}: {error}") from error
        except SourceError as error:
            raise SourceError(f"{self._path}: {error}") from error
        if sample is not None:
            try:
                self._windows.add(
                    sample.values, time.monotonic() if self._arrival else sample.time_s
                )
            except FrameError as error:
                raise FrameError(f"{self._path}, line {self._row}: {error}") from error
        return True


class Csv(_Samples):
    """CSV with a header line that names the columns."""

    Config = LinesConfig

    @staticmethod
    def _reads(channels: tuple[str, ...], time: str, unit_s: float) -> Records:
        return records.Csv(channels, time=time, unit_s=unit_s)


class JsonLines(_Samples):
    """One JSON object a line, with a field per channel."""

    Config = LinesConfig

    @staticmethod
    def _reads(channels: tuple[str, ...], time: str, unit_s: float) -> Records:
        return records.Json(channels, time=time, unit_s=unit_s)
