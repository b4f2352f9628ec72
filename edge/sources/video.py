"""A video file: every frame in order, at the times that the file gives them, and an end.

Invariant: a frame's time is the moment at which the file was begun and the time in the file, and
never goes back, whatever the file says.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from edge.errors import FrameError, SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.sources.readers import (
    Ended,
    Hardware,
    Library,
    Opening,
    Picture,
    VideoReader,
    open_reader,
)
from edge.sources.stream import Lost
from edge.types import Frame
from edge.wire import SourceState

_FRAME_S = 0.04
_JUMP_S = 3600.0


class Video:
    """A video file, read as fast as its frames are taken."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`path` of the file; `loop` plays it again and again. `hardware` as for a camera."""

        path: Path
        loop: bool = False
        library: Library = "auto"
        hardware: Hardware = "none"

    live = False

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._reader: VideoReader | None = None
        self._number = 0
        self._times: FileTimes | None = None
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        self._state = SourceState(state="starting")

    @property
    def state(self) -> SourceState:
        """While it runs, the detail says what is read and where it is decoded."""
        state, reader = self._state, self._reader
        if state.state == "running" and reader is not None and reader.about:
            return SourceState(state="running", detail=reader.about)
        return state

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame as uint8 [H, W, 3] BGR."""
        with self._in_use:
            frame = None if self._closed.is_set() else self._read(timeout_s)
        if self._closed.is_set():  # meanwhile: `close` has left the rest to us
            self.close()
        return frame

    def close(self) -> None:
        """Close the file, for good."""
        self._closed.set()
        if self._in_use.acquire(blocking=False):  # closing under a native read may crash
            try:
                self._close_reader()
            finally:
                self._in_use.release()

    def _read(self, timeout_s: float) -> Frame | None:
        if self._state.state == "ended":
            raise EndOfStream
        picture = self._next(timeout_s)
        if picture is None:
            return None
        if self._times is None:
            self._times = FileTimes(self._reader.frame_s if self._reader else 0.0)
        mono_ns, wall_ns = self._times.of(picture.at_s)
        self._number += 1
        return Frame(
            data=picture.data,
            source=self._name,
            number=self._number - 1,
            mono_ns=mono_ns,
            wall_ns=wall_ns,
        )

    def _next(self, timeout_s: float) -> Picture | None:
        path = self._config.path
        if self._reader is None:
            self._reader = self._open()
        try:
            return self._reader.read(timeout_s)
        except Ended:
            self._close_reader()
            if not self._config.loop or not self._number:
                self._state = SourceState(state="ended")
                raise EndOfStream from None
        except Lost as lost:
            raise SourceError(f"{path}: {lost}") from None
        except FrameError as error:
            raise FrameError(f"{path}: {error}") from error
        if self._times is not None:
            self._times.again()
        return None

    def _open(self) -> VideoReader:
        path = self._config.path
        if not path.is_file():
            raise SourceError(f"{path}: no such video file")
        opening = Opening(url=str(path.absolute()), live=False, hardware=self._config.hardware)
        try:
            reader = open_reader(self._config.library, opening)
        except Lost as lost:
            raise SourceError(f"{path}: not a video that can be read: {lost}") from None
        self._state = SourceState(state="running")
        return reader

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class FileTimes:
    """The times of a file's frames as capture times.

    Where the file's time is missing, stands still, goes back or leaps by more than an hour, a frame
    comes `frame_s` after the one before it.
    """

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s or _FRAME_S
        self._mono_ns, self._wall_ns = time.monotonic_ns(), time.time_ns()
        self._elapsed_s: float | None = None
        self._last_s: float | None = None

    def of(self, at_s: float | None) -> tuple[int, int]:
        """Monotonic and wall time in nanoseconds of the frame at `at_s` in the file."""
        step_s = self._frame_s
        if at_s is not None and self._last_s is not None and 0 < at_s - self._last_s <= _JUMP_S:
            step_s = at_s - self._last_s
        self._last_s = at_s
        self._elapsed_s = 0.0 if self._elapsed_s is None else self._elapsed_s + step_s
        elapsed_ns = round(self._elapsed_s * 1e9)
        return self._mono_ns + elapsed_ns, self._wall_ns + elapsed_ns

    def again(self) -> None:
        """The file begins anew."""
        self._last_s = None
