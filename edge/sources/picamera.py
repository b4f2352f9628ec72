"""A Raspberry Pi's camera through libcamera, by picamera2, which comes with its system:
`apt install python3-picamera2`, and an environment made with --system-site-packages."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edge.errors import SourceError
from edge.manifest import Preprocess
from edge.sources.live import LivePictures
from edge.sources.readers import Picture
from edge.sources.stream import Lost, Stream

_BGR = "RGB888"  # libcamera names it by the bytes of a word, from the highest


class PiCamera(LivePictures):
    """A camera at the board's connector."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`camera` is its number; `fps` 0 leaves the rate to the camera."""

        camera: int = 0
        width: int = 1280
        height: int = 720
        fps: float = 0.0
        stale_s: float = 5.0

        def __post_init__(self) -> None:
            if self.camera < 0 or self.width <= 0 or self.height <= 0 or self.fps < 0:
                raise ValueError("camera and fps must be 0 or more, width and height more than 0")
            if self.stale_s <= 0:
                raise ValueError("stale_s must be more than 0")

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        stream = Stream(
            lambda: _Libcamera(config),
            shown=f"libcamera {config.camera}",
            stale_s=config.stale_s,
        )
        super().__init__(stream, name=name)


class _Libcamera:
    def __init__(self, config: PiCamera.Config) -> None:
        try:
            from picamera2 import Picamera2
        except ImportError:
            raise SourceError(
                "picamera2 is not installed: apt install python3-picamera2, and make the"
                " environment with --system-site-packages"
            ) from None
        try:
            self._camera: Any = Picamera2(config.camera)
        except (RuntimeError, IndexError) as error:
            raise Lost(f"cannot be opened: {error}") from None
        try:
            controls = {"FrameRate": config.fps} if config.fps else {}
            self._camera.configure(
                self._camera.create_video_configuration(
                    main={"size": (config.width, config.height), "format": _BGR},
                    controls=controls,
                )
            )
            self._camera.start()
        except BaseException:
            self._camera.close()
            raise

    def read(self, timeout_s: float) -> Picture | None:
        """The next picture; picamera2 waits for it as long as it takes."""
        return Picture(np.ascontiguousarray(self._camera.capture_array("main")))

    def close(self) -> None:
        try:
            self._camera.stop()
        finally:
            self._camera.close()
