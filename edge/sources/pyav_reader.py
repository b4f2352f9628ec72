"""Pictures by PyAV, FFmpeg's libraries as a Python package: streams and files.

Its errors are shown by their cause alone: their text repeats the address. PyAV keeps FFmpeg's own
log to itself unless somebody asks for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edge.errors import FrameError, SourceError
from edge.sources.readers import Ended, Opening, Picture
from edge.sources.stream import Lost

_HARDWARE_FORMATS = {
    "cuda": "cuda", "qsv": "qsv", "vaapi": "vaapi", "drm_prime": "drm", "vulkan": "vulkan",
}  # fmt: skip
_MAX_SKIPPED = 300
"""Packets in a row that give neither a picture nor an error; then it is asked whether to go on."""


class PyavReader:
    """One container, and the decoder of its first video stream."""

    def __init__(self, opening: Opening) -> None:
        """Lost when it cannot be opened."""
        try:
            import av
            from av.video.reformatter import VideoReformatter
        except ImportError:
            raise SourceError("av is not installed: pip install 'edgewright[stream]'") from None
        self._av = av
        self._opening = opening
        self._reformat = VideoReformatter().reformat
        self._frames: list[Any] = []
        self._shape: tuple[int, int] | None = None
        self.about = ""
        with self._lost_for("cannot be opened"):
            self._container = self._open()
        try:
            self._video = self._container.streams.video[0]
        except IndexError:
            self._container.close()
            raise Lost("cannot be opened: there is no video in it") from None
        if opening.live:  # each thread of decoding would hold a picture back
            self._video.codec_context.thread_count = 1
        else:
            self._video.codec_context.thread_type = "AUTO"
        self._decoder = self._own_decoder() or self._video.codec_context
        self._packets = self._container.demux(self._video)
        rate = self._video.average_rate
        self.frame_s = float(1 / rate) if rate and 1 <= rate <= 1000 else 0.0

    def read(self, timeout_s: float) -> Picture | None:
        """The next picture; FrameError for one that is damaged, as the decoder says."""
        for _ in range(_MAX_SKIPPED):
            if self._frames:
                return self._picture(self._frames.pop(0))
            self._frames = self._decode_next()
        return None

    def close(self) -> None:
        """Close the container, and let go of the decoder: its threads live as long as it does."""
        self._frames.clear()
        self._container.close()
        del self._packets, self._decoder, self._video

    def _open(self) -> Any:
        opening = self._opening
        options = {}
        if str(opening.url).lower().startswith("rtsp"):
            # The rate of frames is of no use here, and would take seconds to be found out; and a
            # microphone is waited for, too, unless it is left out.
            options = {
                "rtsp_transport": opening.transport,
                "fpsprobesize": "0",
                "allowed_media_types": "video",
            }
        accelerations: list[Any] = [None]
        if opening.hardware not in ("none", "v4l2m2m"):
            accelerations = [*self._accelerations(), None]
        for acceleration in accelerations:
            try:
                return self._av.open(
                    str(opening.url),
                    options=options,
                    timeout=(opening.open_timeout_s, opening.read_timeout_s),
                    hwaccel=acceleration,
                )
            except (NotImplementedError, RuntimeError):  # not for this codec
                continue
        raise AssertionError  # not reached: the last one is software

    def _accelerations(self) -> list[Any]:
        """Those wanted that this machine has: found out before the stream is opened, once."""
        from av.codec.hwaccel import HWAccel, hwdevices_available

        there = hwdevices_available()
        wanted = there if self._opening.hardware == "auto" else [self._opening.hardware]
        found = []
        for acceleration in [HWAccel(device_type=name) for name in wanted if name in there]:
            try:
                acceleration.create(self._av.Codec("h264", "r"))
            except (NotImplementedError, RuntimeError, OSError, ValueError):  # FFmpeg's, too
                continue
            found.append(acceleration)
        return found

    def _own_decoder(self) -> Any:
        """The board's decoder behind V4L2, which is a codec of its own; None without it."""
        if self._opening.hardware != "v4l2m2m":
            return None
        context = self._video.codec_context
        try:
            decoder = self._av.CodecContext.create(f"{context.name}_v4l2m2m", "r")
            decoder.extradata = context.extradata
            decoder.open()
        except (ValueError, self._av.error.FFmpegError):  # unknown here, or no such device
            return None
        return decoder

    def _decode_next(self) -> list[Any]:
        with self._lost_for("the stream broke off"):
            packet = next(self._packets, None)
        if packet is None:
            raise Ended("the stream has ended")
        try:
            return list(self._decoder.decode(packet))
        except EOFError:
            raise Ended("the stream has ended") from None
        except self._av.error.FFmpegError as error:
            raise FrameError(f"a packet cannot be decoded: {error.strerror}") from None

    def _picture(self, frame: Any) -> Picture:
        if frame.is_corrupt:
            raise FrameError("a picture is damaged")
        data = self._reformat(frame, format="bgr24").to_ndarray()
        if (frame.width, frame.height) != self._shape:
            self._shape = (frame.width, frame.height)
            self.about = self._describe()
        at_s = None
        if not self._opening.live and frame.pts is not None:
            at_s = float(frame.pts * frame.time_base)
        return Picture(data, at_s)

    def _describe(self) -> str:
        width, height = self._shape or (0, 0)
        return (
            f"{self._video.codec_context.name} {width}x{height}, pyav, decoding: {self._decoding()}"
        )

    def _decoding(self) -> str:
        """Where it is decoded: by the format that the decoder settled on, not by what was asked."""
        if self._decoder is not self._video.codec_context:
            return "v4l2m2m"
        context = self._decoder
        if not context.is_hwaccel:
            return "software"
        if context.pix_fmt is None:
            return "unknown"
        return _HARDWARE_FORMATS.get(context.pix_fmt, "software")

    @contextlib.contextmanager
    def _lost_for(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise Lost(f"{what}: {error.strerror}") from None
        except (OSError, ValueError) as error:
            raise Lost(f"{what}: {type(error).__name__}") from None
