"""Microphones, by sounddevice (PortAudio).

A window is float32 [T, C] in -1..1 at the model's rate; the sound system converts where the device
has another one.
"""

from __future__ import annotations

import threading
from typing import Any

from edge.errors import ConfigError
from edge.manifest import Preprocess
from edge.sources.sampling import LiveSource, needs
from edge.sources.stream import Lost, Taken
from edge.sources.windows import Plan, WindowConfig, plan
from edge.types import Array

_BLOCK_S = 0.05


class Microphone(LiveSource["_Block"]):
    """A capture device of the sound system. When it is unplugged the source is lost, until it is
    back."""

    class Config(WindowConfig, frozen=True, kw_only=True):
        """`device` is a part of its name, or its index ("": the system's default). It is asked for
        the model's rate (or `rate_hz`)."""

        device: str | int = ""
        stale_s: float = 5.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.stale_s <= 0:
                raise ValueError("stale_s must be above 0")

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        _library()
        windows = plan(config, preprocess, name=name, rated=True)
        if windows.rate_hz != int(windows.rate_hz):
            raise ConfigError(f"source {name}: rate_hz must be a whole number for sound")
        shown = f"microphone {config.device}" if config.device != "" else "microphone"
        super().__init__(windows, name=name, shown=shown, stale_s=config.stale_s)
        self._plan = windows
        self._device = None if config.device == "" else config.device

    def _open(self) -> _Capture:
        return _Capture(self._device, self._plan)

    def _add(self, taken: Taken[_Block]) -> None:
        samples, follows = taken.item
        if not follows:
            self._windows.restart()
        self._windows.extend(samples)


_Block = tuple[Array, bool]
"""Samples [N, C], and whether they follow on the block before."""

_devices = threading.Lock()
_streams: set[int] = set()


class _Capture:
    """An open capture stream. PortAudio lists devices once: the list is made anew when no stream is
    open, so that a device that was plugged in later is found."""

    def __init__(self, device: str | int | None, windows: Plan) -> None:
        self._library = sound = _library()
        rate = int(windows.rate_hz)
        self._count = max(1, round(rate * _BLOCK_S))
        with _devices:
            try:
                if not _streams:
                    sound._terminate()
                    sound._initialize()
                self._stream = sound.InputStream(
                    samplerate=rate,
                    device=device,
                    channels=len(windows.channels),
                    dtype="float32",
                    blocksize=self._count,
                )
            except (sound.PortAudioError, ValueError, OSError) as error:
                raise Lost(f"cannot be opened: {_first_line(error)}") from error
            try:
                self._stream.start()
            except sound.PortAudioError as error:
                self._stream.close(ignore_errors=True)
                raise Lost(f"cannot be started: {_first_line(error)}") from error
            _streams.add(id(self))

    def read(self, timeout_s: float) -> _Block | None:
        try:
            samples, overflowed = self._stream.read(self._count)
        except self._library.PortAudioError as error:
            raise Lost(_first_line(error)) from error
        return samples, not overflowed

    def close(self) -> None:
        with _devices:
            _streams.discard(id(self))
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)


def _library() -> Any:
    """The module sounddevice. ConfigError when it, or PortAudio, is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise needs("microphone", "sounddevice", "audio", error) from error
    except OSError as error:
        raise ConfigError(
            "source microphone needs PortAudio: install it, for example apt install libportaudio2"
        ) from error
    return sounddevice


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
