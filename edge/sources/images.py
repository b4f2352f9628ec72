"""A picture, or a folder or glob of pictures, in the order of their names."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np

from edge.clock import capture
from edge.errors import FrameError, SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.types import Frame
from edge.wire import SourceState

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


class Images:
    """Every picture once (or for ever with `loop`); one that cannot be read is a bad frame."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`path` is a file, a folder or a glob such as "shots/*.jpg"."""

        path: Path
        loop: bool = False

    live = False

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._files: list[Path] | None = None
        self._number = 0
        self.state = SourceState(state="starting")

    def read(self, timeout_s: float) -> Frame | None:
        """The next picture as uint8 [H, W, 3] BGR."""
        if self._files is None:
            self._files = _find(self._config.path)
            self.state = SourceState(state="running")
        if self._number >= len(self._files) and not self._config.loop:
            self.state = SourceState(state="ended")
            raise EndOfStream
        file = self._files[self._number % len(self._files)]
        self._number += 1
        return _read_picture(file, self._name, self._number - 1)

    def close(self) -> None:
        """Nothing is held open."""


def _find(path: Path) -> list[Path]:
    import glob

    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _ENDINGS]
    else:
        files = [Path(name) for name in sorted(glob.glob(os.fspath(path)))]
    if not files:
        raise SourceError(f"{path}: no pictures there")
    return files


def _read_picture(file: Path, source: str, number: int) -> Frame:
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
    return capture(picture, source=source, number=number)
