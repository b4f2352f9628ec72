"""A camera that is live: at this machine, in the network, or behind a GStreamer pipeline.

It is opened again for ever with back-off, and its loss is its `state`. Pictures are stamped when
they arrive: what a camera says of its time is not needed and may be wrong.
"""

from __future__ import annotations

import urllib.parse

import msgspec

from edge.manifest import Preprocess
from edge.sources.addresses import is_device, is_gstreamer, is_network, without_credentials
from edge.sources.live import LivePictures
from edge.sources.readers import (
    Hardware,
    Library,
    Opening,
    Picture,
    Transport,
    VideoReader,
    open_reader,
)
from edge.sources.stream import Stream
from edge.wire import SourceState


class Camera(LivePictures):
    """A camera by index or device path, a stream by URL (rtsp, http), or a GStreamer pipeline."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`url` is an address such as rtsp://host/stream, a device such as
        /dev/v4l/by-id/usb-…, the camera's index, or a GStreamer pipeline that ends with appsink.

        A camera that gives no picture for `stale_s` is opened again. `transport` is RTSP's.
        `hardware` names what decodes the video; where it cannot, the processor does, and the state
        says so. `width` and `height` are asked of a device.
        """

        url: str | int
        library: Library = "auto"
        transport: Transport = "tcp"
        hardware: Hardware = "none"
        width: int = 0
        height: int = 0
        open_timeout_s: float = 10.0
        stale_s: float = 5.0

        def __post_init__(self) -> None:
            _check_address(self.url)
            if self.stale_s <= 0 or self.open_timeout_s <= 0:
                raise ValueError("stale_s and open_timeout_s must be more than 0")
            opencv_only = is_device(self.url) or is_gstreamer(self.url)
            if opencv_only and self.library == "pyav":
                raise ValueError('devices and GStreamer pipelines are read with library = "opencv"')
            if opencv_only and self.hardware != "none":
                raise ValueError("hardware is for streams; a device or pipeline decodes as it does")

        def __repr__(self) -> str:
            return f"Camera.Config(url={without_credentials(self.url)!r})"

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._reader: VideoReader | None = None
        self._shown = without_credentials(config.url)
        stream: Stream[Picture] = Stream(
            self._open,
            shown=self._shown,
            stale_s=config.stale_s,
            open_s=config.open_timeout_s + 5.0,
        )
        super().__init__(stream, name=name)

    @property
    def state(self) -> SourceState:
        """While it runs, the detail says what is read and where it is decoded."""
        state, reader = self._stream.state, self._reader
        if state.state == "running" and reader is not None and reader.about:
            return msgspec.structs.replace(state, detail=f"{self._shown} ({reader.about})")
        return state

    def _open(self) -> VideoReader:
        config = self._config
        self._reader = reader = open_reader(
            config.library,
            Opening(
                url=config.url,
                live=True,
                transport=config.transport,
                hardware=config.hardware,
                open_timeout_s=config.open_timeout_s,
                read_timeout_s=config.stale_s,
                width=config.width,
                height=config.height,
            ),
        )
        return reader


def _check_address(url: str | int) -> None:
    """ValueError when it cannot be one; its text repeats nothing of it."""
    if url == "":
        raise ValueError("url is empty")
    if isinstance(url, int) and url < 0:
        raise ValueError("url is a negative index")
    if is_gstreamer(url) and "appsink" not in str(url):
        raise ValueError("a GStreamer pipeline ends with appsink")
    if is_network(url):
        try:
            urllib.parse.urlsplit(str(url))
        except ValueError:  # its text may hold a part of the password
            raise ValueError("url is not a well-formed address") from None
