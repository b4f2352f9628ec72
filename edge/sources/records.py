"""Bytes -> lines, and a line or payload -> a sample or an error, whatever came. Pure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge.errors import FrameError, SourceError
from edge.types import Array

MAX_LINE_BYTES = 1 << 16
_TOO_LONG = f"a line is longer than {MAX_LINE_BYTES} bytes"


class Sample(NamedTuple):
    """Values [C] in the order of the channels, and when they were taken, if they say so. `follows`
    is False when something may be missing before it."""

    values: Array
    time_s: float | None = None
    follows: bool = True


class LineBuffer:
    """Cuts what comes in pieces into lines. One that is too long, or no text, is an error once."""

    def __init__(self, newline: str = "\n", *, mid_line: bool = False) -> None:
        """`mid_line`: what comes up to the first newline is the end of a line, and is dropped."""
        self._newline = newline.encode("utf-8")
        self._rest = b""
        self._skip = mid_line

    def put(self, data: bytes) -> None:
        """Bytes as they came; take all lines before the next ones are put in."""
        self._rest += data

    def take(self, *, ended: bool = False) -> str | None:
        """The next line, without its newline; None when there is no whole one. At the end what is
        left is one, too. FrameError for a bad one."""
        while True:
            line, newline, rest = self._rest.partition(self._newline)
            if newline or (ended and line):
                self._rest = rest
                if self._skip:
                    self._skip = False
                    continue
                return self._text(line)
            if len(line) <= MAX_LINE_BYTES:
                return None
            self._rest = line[-len(self._newline) :]  # the first part of a newline, perhaps
            if not self._skip:
                self._skip = True
                raise FrameError(_TOO_LONG)

    def _text(self, line: bytes) -> str:
        if len(line) > MAX_LINE_BYTES:
            raise FrameError(_TOO_LONG)
        return text(line)


def text(data: bytes) -> str:
    """UTF-8 text. FrameError when it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FrameError("not UTF-8 text") from None


class Records(Protocol):
    """How samples are written."""

    def sample(self, text: str) -> Sample | None:
        """The sample of a line; None for a line without one. FrameError when it is malformed."""


class Csv:
    """Values between commas. Without `columns` the first line names them.

    `time` is a column's name ("": none), of which one counts `unit_s` seconds.
    """

    def __init__(
        self,
        channels: Sequence[str],
        *,
        time: str = "",
        unit_s: float = 1.0,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._wanted = [*channels, *([time] if time else [])]
        self._unit_s = unit_s if time else None
        self._places = None if columns is None else self._find(columns)

    def sample(self, text: str) -> Sample | None:
        """The sample of a row. SourceError when the header lacks a channel."""
        try:
            row = [cell.strip() for cell in next(csv.reader([text]), [])]
            if not row:
                return None
            if self._places is None:
                self._places = self._find(row)
                return None
            if len(row) <= max(self._places):
                raise FrameError(f"{len(row)} cells are too few")
            return _sample([float(row[place]) for place in self._places], self._unit_s)
        except (ValueError, OverflowError, csv.Error) as error:
            raise FrameError(str(error)) from error

    def _find(self, row: Sequence[str]) -> list[int]:
        missing = [name for name in self._wanted if name not in row]
        if missing:
            raise SourceError(
                f"the header has no column {', '.join(missing)}; it has {', '.join(row)}"
            )
        return [row.index(name) for name in self._wanted]


class Json:
    """A JSON object with a field for each channel, or a bare number where there is one channel.

    A field is named by its key, or by its path: keys, and places in lists, between dots.
    """

    def __init__(self, fields: Sequence[str], *, time: str = "", unit_s: float = 1.0) -> None:
        self._fields = [*fields, *([time] if time else [])]
        self._unit_s = unit_s if time else None

    def sample(self, text: str) -> Sample | None:
        """The sample of a document."""
        if not text.strip():
            return None
        try:
            document = json.loads(text)
            if not isinstance(document, Mapping):
                if isinstance(document, int | float) and len(self._fields) == 1:
                    return _sample([float(document)], None)
                raise FrameError("not a JSON object")
            return _sample([float(_at(document, field)) for field in self._fields], self._unit_s)
        except (KeyError, IndexError, TypeError) as error:
            raise FrameError(f"field missing or not a number: {error}") from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise FrameError(str(error)) from error


def _at(document: Mapping[str, Any], field: str) -> Any:
    """What stands under a key or a path. KeyError, IndexError, ValueError, TypeError."""
    if field in document:
        return document[field]
    found: Any = document
    for part in field.split("."):
        if isinstance(found, list):
            found = found[int(part)]
        elif isinstance(found, Mapping) and part in found:
            found = found[part]
        else:
            raise KeyError(field)
    return found


def _sample(numbers: list[float], unit_s: float | None) -> Sample:
    time_s = None if unit_s is None else numbers.pop() * unit_s
    return Sample(float32(numbers), time_s)


def float32(numbers: Sequence[float]) -> Array:
    """Numbers [C] as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)
