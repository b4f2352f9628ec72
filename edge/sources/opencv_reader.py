"""Pictures by OpenCV: streams and files through its FFmpeg, devices through V4L2, and GStreamer
pipelines where its build has GStreamer (the wheels on PyPI have not)."""

from __future__ import annotations

import os
from typing import Any

from edge.errors import SourceError
from edge.sources.addresses import is_device, is_gstreamer
from edge.sources.readers import Ended, Opening, Picture
from edge.sources.stream import Lost

_ACCELERATIONS = {"none": "NONE", "auto": "ANY", "vaapi": "VAAPI", "qsv": "MFX", "drm": "DRM"}
_QUIET = "-8"  # FFmpeg's own lines on stderr may repeat an address with its password


class OpenCvReader:
    """One cv2.VideoCapture."""

    def __init__(self, opening: Opening) -> None:
        """Lost when it cannot be opened."""
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _QUIET)
        try:
            import cv2
        except ImportError:
            raise SourceError(
                "opencv-python-headless is not installed: pip install 'edgewright[camera]'"
            ) from None
        if "OPENCV_LOG_LEVEL" not in os.environ:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it is a state here
        self._cv2 = cv2
        self._opening = opening
        self._capture = self._open()
        rate = self._get(cv2.CAP_PROP_FPS)
        self.frame_s = 1 / rate if 1 <= rate <= 1000 else 0.0
        self.about = ""
        self._shape: tuple[int, ...] = ()

    def read(self, timeout_s: float) -> Picture | None:
        """The next picture. OpenCV does not say which are damaged, nor why it has none."""
        ok, data = self._capture.read()
        if not ok or data is None:
            raise Ended("no frame came")
        if data.shape != self._shape:
            self._shape = data.shape
            self.about = self._describe()
        return Picture(data, None if self._opening.live else self._position_s())

    def close(self) -> None:
        """Release it; the object itself must not be left to do so, which would hold the GIL."""
        self._capture.release()

    def _open(self) -> Any:
        cv2, opening = self._cv2, self._opening
        if is_device(opening.url):
            return self._open_device()
        if is_gstreamer(opening.url):
            if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
                raise SourceError(
                    "this OpenCV is built without GStreamer; Debian's python3-opencv has it"
                )
            return self._opened(cv2.VideoCapture(opening.url, cv2.CAP_GSTREAMER))
        if opening.hardware not in _ACCELERATIONS:
            raise SourceError(f'OpenCV does not decode by {opening.hardware}; use library = "pyav"')
        if opening.hardware != "none":
            try:
                return self._open_ffmpeg(opening.hardware)
            except Lost:  # its FFmpeg may be built without it
                pass
        return self._open_ffmpeg("none")

    def _open_ffmpeg(self, hardware: str) -> Any:
        cv2, opening = self._cv2, self._opening
        acceleration = getattr(cv2, f"VIDEO_ACCELERATION_{_ACCELERATIONS[hardware]}", 0)
        options = [
            (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(opening.open_timeout_s * 1000)),
            (cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(opening.read_timeout_s * 1000)),
            (cv2.CAP_PROP_HW_ACCELERATION, acceleration),
        ]
        if opening.live:  # each thread of decoding would hold a picture back
            options.append((cv2.CAP_PROP_N_THREADS, 1))
        given = [int(number) for option in options for number in option]
        return self._opened(cv2.VideoCapture(self._with_transport(), cv2.CAP_FFMPEG, given))

    def _open_device(self) -> Any:
        cv2, opening = self._cv2, self._opening
        url = opening.url
        target = int(url) if isinstance(url, int) or url.isdigit() else url
        path = f"/dev/video{target}" if isinstance(target, int) else target
        if not os.path.exists(path):
            raise Lost(f"cannot be opened: there is no {path}")
        capture = self._opened(cv2.VideoCapture(target, cv2.CAP_V4L2))
        if opening.width:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, opening.width)
        if opening.height:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, opening.height)
        return capture

    def _opened(self, capture: Any) -> Any:
        if not capture.isOpened():
            capture.release()
            raise Lost("cannot be opened")
        return capture

    def _with_transport(self) -> str:
        """OpenCV has RTSP over TCP unless a variable of the whole process says otherwise; FFmpeg
        takes it from the address, too, and does not send it."""
        url = str(self._opening.url)
        if self._opening.transport != "udp" or not url.lower().startswith("rtsp"):
            return url
        return f"{url}{'&' if '?' in url else '?'}udp"

    def _position_s(self) -> float | None:
        position_ms = self._get(self._cv2.CAP_PROP_POS_MSEC)
        return position_ms / 1000 if position_ms >= 0 else None

    def _get(self, what: int) -> float:
        return float(self._capture.get(what))

    def _describe(self) -> str:
        cv2 = self._cv2
        height, width = self._shape[:2]
        code = int(self._get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        codec = code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ").lower()
        what = f"{codec} {width}x{height}" if codec.isalnum() else f"{width}x{height}"
        return f"{what}, opencv, decoding: {self._decoding()}"

    def _decoding(self) -> str:
        """What OpenCV reads back; of devices and GStreamer it knows nothing."""
        if is_device(self._opening.url) or is_gstreamer(self._opening.url):
            return "unknown"
        found = int(self._get(self._cv2.CAP_PROP_HW_ACCELERATION))
        if found == self._cv2.VIDEO_ACCELERATION_NONE:
            return "software"
        for shown in ("vaapi", "qsv", "drm"):
            if found == getattr(self._cv2, f"VIDEO_ACCELERATION_{_ACCELERATIONS[shown]}", None):
                return shown
        return "unknown"
