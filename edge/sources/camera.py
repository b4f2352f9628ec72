"""Cameras and video by OpenCV.

A `Camera` is live: it reconnects for ever with back-off, and a loss is its `state`. A `Video` is a
file: every frame, in order, and an end.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import msgspec

from edge.backoff import backoff_s
from edge.clock import capture
from edge.errors import SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.types import Frame
from edge.wire import SourceState

_BACKOFF_S = (0.5, 15.0)


class Camera:
    """A camera by index or device path, or a stream by URL (rtsp, http)."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`url` is an address such as rtsp://host/stream, a device such as /dev/video0, or the
        camera's index. A stream that gives nothing for `read_timeout_s` is opened again."""

        url: str | int
        width: int = 0
        height: int = 0
        open_timeout_s: float = 10.0
        read_timeout_s: float = 5.0

        def __post_init__(self) -> None:
            if self.url == "":
                raise ValueError("url is empty")
            without_credentials(self.url)

        def __repr__(self) -> str:
            return f"Camera.Config(url={without_credentials(self.url)!r})"

    live = True

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._shown = without_credentials(config.url)
        self._capture: Any = None
        self._number = 0
        self._failures = 0
        self._retry_at = 0.0
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        self.state = SourceState(state="starting", detail=self._shown)

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame as uint8 [H, W, 3] BGR; None while the camera is away."""
        with self._in_use:
            frame = None if self._closed.is_set() else self._read(timeout_s)
        if self._closed.is_set():  # meanwhile: `close` has left the release to us
            self.close()
        return frame

    def _read(self, timeout_s: float) -> Frame | None:
        if self._capture is None and not self._connect(timeout_s):
            return None
        ok, picture = self._capture.read()
        if not ok or picture is None:
            self._lost("no frame came")
            return None
        if self.state.state != "running":
            self.state = SourceState(state="running", detail=self._shown)
            self._failures = 0
        self._number += 1
        return capture(picture, source=self._name, number=self._number - 1)

    def close(self) -> None:
        """Let go of the camera, for good."""
        self._closed.set()
        if self._in_use.acquire(blocking=False):  # releasing under a native read may crash
            try:
                capture, self._capture = self._capture, None
                if capture is not None:
                    capture.release()
            finally:
                self._in_use.release()

    def _connect(self, timeout_s: float) -> bool:
        wait_s = self._retry_at - time.monotonic()
        if wait_s > 0 and self._closed.wait(min(wait_s, timeout_s)):
            return False
        if time.monotonic() < self._retry_at:
            return False
        capture = open_capture(
            self._config.url, self._config.open_timeout_s, self._config.read_timeout_s
        )
        if capture is None:
            self._lost("cannot be opened")
            return False
        import cv2

        if self._config.width:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._config.width)
        if self._config.height:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._config.height)
        self._capture = capture
        return True

    def _lost(self, reason: str) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()
        self._retry_at = time.monotonic() + backoff_s(self._failures, _BACKOFF_S)
        self._failures += 1
        self._number += self._number > 0  # what comes next does not follow on what came last
        self.state = SourceState(state="lost", detail=f"{self._shown}: {reason}")


class Video:
    """A video file: every frame, in order."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`path` of the file; `loop` plays it again and again."""

        path: Path
        loop: bool = False

    live = False

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._capture: Any = None
        self._number = 0
        self.state = SourceState(state="starting")

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame as uint8 [H, W, 3] BGR."""
        if self._capture is None:
            self._open()
        ok, picture = self._capture.read()
        if not ok and self._config.loop and self._number:
            self._open()
            ok, picture = self._capture.read()
        if not ok or picture is None:
            self.state = SourceState(state="ended")
            raise EndOfStream
        self._number += 1
        return capture(picture, source=self._name, number=self._number - 1)

    def close(self) -> None:
        """Close the file."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _open(self) -> None:
        self.close()
        if not self._config.path.is_file():
            raise SourceError(f"{self._config.path}: no such video file")
        self._capture = open_capture(str(self._config.path), 10.0, 10.0)
        if self._capture is None:
            raise SourceError(f"{self._config.path}: not a video that can be read")
        self.state = SourceState(state="running")


def open_capture(url: str | int, open_timeout_s: float, read_timeout_s: float) -> Any:
    """A cv2.VideoCapture that is open, or None."""
    import cv2

    target = int(url) if isinstance(url, str) and url.isdigit() else url
    if isinstance(target, int) or target.startswith("/dev/"):
        capture = cv2.VideoCapture(target, cv2.CAP_V4L2)
    else:
        capture = cv2.VideoCapture(
            target,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                round(open_timeout_s * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                round(read_timeout_s * 1000),
            ],
        )
    if capture.isOpened():
        return capture
    capture.release()
    return None


def without_credentials(url: str | int) -> str:
    """The address as it may be shown: user name, password and the query's values replaced.

    ValueError when it is not an address.
    """
    if isinstance(url, int):
        return f"camera {url}"
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # its text may hold a part of the password
        raise ValueError("url is not a well-formed address") from None
    _, at, host = parts.netloc.rpartition("@")
    query = "&".join(f"{name}=***" for name in urllib.parse.parse_qs(parts.query))
    return urllib.parse.urlunsplit(
        parts._replace(netloc=f"***@{host}" if at else host, query=query)
    )
