"""JSON lines: one event a line, to a file or to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge.errors import SinkError
from edge.folders import sync_folder
from edge.seams import Answers, Message
from edge.wire import Batch, State, StoredEvent

_STDOUT = Path("-")


class JsonLines:
    """Appends events; an event counts as confirmed when the file was synced to disk.

    State and telemetry are not written: every line is an event.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`path` is a file, appended to, or "-" for standard output (the default)."""

        path: Path = msgspec.field(default_factory=lambda: _STDOUT)

    room = 256
    batches = True

    def __init__(self, config: Config, *, device: str) -> None:
        self._path = config.path
        self._file: BinaryIO | None = None
        self._written: list[int] = []

    def open(self, state: State | None) -> None:
        """Open the file for appending. SinkError when it cannot be."""
        try:
            if self._path == _STDOUT:
                self._file = sys.stdout.buffer
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _append_on_a_line_of_its_own(self._path)
        except OSError as error:
            raise SinkError(f"{self._path}: cannot be opened: {error.strerror}") from error

    def send(self, messages: Sequence[Message]) -> None:
        """Write the events. SinkError when the disk is full or standard output is closed."""
        assert self._file is not None
        events = [event for message in messages for event in _events(message)]
        try:
            self._file.write(b"".join(event.payload + b"\n" for event in events))
            self._file.flush()
            if self._path != _STDOUT:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise SinkError(f"{self._path}: cannot be written: {error.strerror}") from error
        self._written += [event.seq for event in events]

    def poll(self, timeout_s: float) -> Answers:
        """What was written since the last call."""
        written, self._written = self._written, []
        return Answers([(seq, seq) for seq in written])

    def close(self) -> None:
        """Close the file; standard output stays open."""
        self._written = []
        if self._file is not None and self._path != _STDOUT:
            try:
                self._file.close()
            except OSError:  # a full disk, which `send` has told
                pass
        self._file = None


def _events(message: Message) -> list[StoredEvent]:
    if isinstance(message, StoredEvent):
        return [message]
    return message.events if isinstance(message, Batch) else []


def _append_on_a_line_of_its_own(path: Path) -> BinaryIO:
    """Open for appending, past a line that a power cut left unfinished."""
    new = not path.exists()
    file = open(path, "ab+")  # noqa: SIM115 - closed by `close`
    if new and path.is_file():
        sync_folder(path.parent)
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
