"""What opens a stream, a device or a video file, and which library does it.

Two adapters of one seam, `VideoReader`: PyAV and OpenCV. `auto` takes PyAV for streams and files
where it is installed: it is as cheap, gives the first picture sooner, says which pictures are
damaged, and takes its options by the stream rather than by the process (bench/video.py has the
numbers). Devices and GStreamer pipelines are OpenCV's.
"""

from __future__ import annotations

import importlib.util
from typing import Literal, NamedTuple, Protocol

import msgspec

from edge.sources.addresses import is_device, is_gstreamer
from edge.sources.stream import Lost
from edge.types import Array

Library = Literal["auto", "pyav", "opencv"]
Transport = Literal["tcp", "udp"]
Hardware = Literal["none", "auto", "vaapi", "qsv", "drm", "cuda", "v4l2m2m"]


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """How something is opened. `live`: pictures are wanted as they come, not one thread of decoding
    later; `width` and `height` are asked of a device, 0 for its own."""

    url: str | int
    live: bool
    transport: Transport = "tcp"
    hardware: Hardware = "none"
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    width: int = 0
    height: int = 0

    def __repr__(self) -> str:
        return "Opening(...)"  # the url may hold a password


class Picture(NamedTuple):
    """uint8 [H, W, 3] BGR, and the seconds that its file gives it; None where nothing says so."""

    data: Array
    at_s: float | None = None


class Ended(Lost):
    """Nothing more will come of it."""


class VideoReader(Protocol):
    """A Reader of pictures."""

    about: str
    """What it reads: codec, size, the library, and where it is decoded; "unknown" for that where
    the library cannot tell."""
    frame_s: float
    """Seconds from picture to picture, as it says of itself; 0 where it does not."""

    def read(self, timeout_s: float) -> Picture | None:
        """See stream.Reader. Ended, FrameError for a picture that is damaged."""

    def close(self) -> None:
        """Let go of it."""


def open_reader(library: Library, opening: Opening) -> VideoReader:
    """It, opened. Lost when it cannot be had now, SourceError when it never can be."""
    if library == "auto":
        library = choose(opening)
    if library == "pyav":
        from edge.sources.pyav_reader import PyavReader

        return PyavReader(opening)
    from edge.sources.opencv_reader import OpenCvReader

    return OpenCvReader(opening)


def choose(opening: Opening) -> Library:
    """The library that `auto` stands for."""
    if is_device(opening.url) or is_gstreamer(opening.url):
        return "opencv"
    return "pyav" if importlib.util.find_spec("av") is not None else "opencv"
