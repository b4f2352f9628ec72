"""A picture, or a folder or glob of pictures, in the order of their names; or those that come.

A file that is being written is not touched: what is watched is taken when it has stood still for
`_WHOLE_S`, however it came there.
"""

from __future__ import annotations

import glob
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from edge.clock import capture
from edge.errors import FrameError, SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.sources.live import LivePictures
from edge.sources.readers import Picture
from edge.sources.stream import Lost, Stream
from edge.types import Array, Frame
from edge.wire import SourceState

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
_WHOLE_S = 1.0
_LOOK_S = 0.3
_MAX_SHARE = 0.1
"""Of the time, what looking into a folder may take: a large one is looked at more rarely."""
_MAX_KNOWN = 100_000


class Images:
    """Every picture once (or for ever with `loop`); one that cannot be read is a bad frame."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`path` is a file, a folder or a glob such as "shots/*.jpg".

        With `watch` those are taken that come, or are written anew, after the start; a folder
        that is not there yet is waited for, and all that is then in it has come.
        """

        path: Path
        loop: bool = False
        watch: bool = False

        def __post_init__(self) -> None:
            if self.loop and self.watch:
                raise ValueError("loop and watch do not go together")

    live = False  # but for a folder that is watched

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self.live = config.watch
        self._pictures: _InOrder | _Arriving = (
            _Arriving(config.path, name=name) if config.watch else _InOrder(config, name=name)
        )

    @property
    def state(self) -> SourceState:
        """Lost while a folder that is watched is not there."""
        return self._pictures.state

    @property
    def counts(self) -> dict[str, int]:
        """Of a folder that is watched: what came, and what was not taken in time."""
        return self._pictures.counts

    def read(self, timeout_s: float) -> Frame | None:
        """The next picture as uint8 [H, W, 3] BGR; None when none came in time."""
        return self._pictures.read(timeout_s)

    def close(self) -> None:
        """Look no more."""
        self._pictures.close()


class _InOrder:
    """What is there, by name."""

    counts: ClassVar[dict[str, int]] = {}

    def __init__(self, config: Images.Config, *, name: str) -> None:
        self._config = config
        self._name = name
        self._files: list[Path] | None = None
        self._number = 0
        self.state = SourceState(state="starting")

    def read(self, timeout_s: float) -> Frame | None:
        if self._files is None:
            self._files = sorted(_files(self._config.path))
            if not self._files:
                raise SourceError(f"{self._config.path}: no pictures there")
            self.state = SourceState(state="running")
        if self._number >= len(self._files) and not self._config.loop:
            self.state = SourceState(state="ended")
            raise EndOfStream
        file = self._files[self._number % len(self._files)]
        self._number += 1
        return capture(_read_picture(file), source=self._name, number=self._number - 1)

    def close(self) -> None:
        """Nothing is held open."""


class _Arriving(LivePictures):
    """What comes."""

    def __init__(self, path: Path, *, name: str) -> None:
        known: dict[Path, _Mark] | None = None

        def open_folder() -> _Watch:
            nonlocal known
            if known is None:
                known = {}
                known.update(_look(path))  # what is there at the start has not come
            return _Watch(path, known)

        super().__init__(Stream(open_folder, shown=str(path), stale_s=0.0, keep=4), name=name)


_Mark = tuple[int, int]
"""Size and time of change: a file with another mark has been written anew."""


class _Watch:
    """Looks again and again for files that are not known, and gives those that are whole."""

    def __init__(self, path: Path, known: dict[Path, _Mark]) -> None:
        self._path = path
        self._known = known
        self._changing: dict[Path, tuple[_Mark, float]] = {}
        self._whole: list[Path] = []
        self._due_s = 0.0

    def read(self, timeout_s: float) -> Picture | None:
        """The next whole picture; FrameError for one that cannot be read."""
        if not self._whole:
            wait_s = self._due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, timeout_s))
                if wait_s > timeout_s:
                    return None
            began_s = time.monotonic()
            self._whole = self._find_whole(_look(self._path), began_s)
            now_s = time.monotonic()
            self._due_s = now_s + max(_LOOK_S, (now_s - began_s) / _MAX_SHARE)
        return Picture(_read_picture(self._whole.pop(0))) if self._whole else None

    def close(self) -> None:
        """Nothing is held open."""

    def _find_whole(self, there: dict[Path, _Mark], now_s: float) -> list[Path]:
        whole = []
        changing = {}
        for file, mark in there.items():
            if self._known.get(file) == mark:
                continue
            before, since_s = self._changing.get(file, (None, now_s))
            if before != mark:
                changing[file] = (mark, now_s)
            elif now_s - since_s < _WHOLE_S or mark[0] == 0:
                changing[file] = (mark, since_s)
            else:
                self._known[file] = mark
                whole.append(file)
        self._changing = changing
        if len(self._known) > _MAX_KNOWN:
            for file in self._known.keys() - there.keys():
                del self._known[file]
        return sorted(whole)


def _look(path: Path) -> dict[Path, _Mark]:
    """The files that are there now, with their marks. Lost when the folder is not there."""
    folder = path if not glob.has_magic(os.fspath(path)) else _fixed_part(path)
    if not folder.exists():
        raise Lost(f"there is no {folder}")
    found = {}
    for file in _files(path):
        try:
            seen = file.stat()
        except OSError:  # removed meanwhile
            continue
        if stat.S_ISREG(seen.st_mode):
            found[file] = (seen.st_size, seen.st_mtime_ns)
    return found


def _fixed_part(pattern: Path) -> Path:
    """The folder of a glob that is named without wildcards."""
    return next(parent for parent in pattern.parents if not glob.has_magic(os.fspath(parent)))


def _files(path: Path) -> Iterator[Path]:
    """The pictures of a folder, or the files of a glob."""
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1].lower() in _ENDINGS:
                    yield Path(entry.path)
    else:
        yield from (Path(name) for name in glob.iglob(os.fspath(path)))


def _read_picture(file: Path) -> Array:
    import cv2

    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise FrameError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        picture = None
    if picture is None:
        raise FrameError(f"{file}: not a picture that can be read")
    return np.asarray(picture)
