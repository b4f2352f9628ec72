"""Sound files, by soundfile: every window of one file.

A window is float32 [T, C] in -1..1 at the model's rate. Nothing is resampled here: linear
interpolation would fold high tones into low ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.clock import capture
from edge.errors import FrameError, SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.sources.sampling import needs
from edge.sources.windows import WindowConfig, Windows, plan
from edge.types import Array, Frame
from edge.wire import SourceState

_BLOCK_SAMPLES = 1 << 14


class Wav:
    """A sound file: every window, in order. Of one channel where the model takes one: the mean."""

    class Config(WindowConfig, frozen=True, kw_only=True):
        """`path` of a WAV, FLAC or OGG file, at the rate of the model (or `rate_hz`)."""

        path: Path

    live = False

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        try:
            import soundfile
        except (ImportError, OSError) as error:
            raise needs("wav", "soundfile", "audio", error) from error
        self._soundfile = soundfile
        self._path = config.path
        self._plan = plan(config, preprocess, name=name, rated=True)
        self._windows = Windows(self._plan)
        self._name = name
        self._file: Any = None
        self.channels = self._plan.channels
        self.counts = self._windows.counts
        self.state = SourceState(state="starting")

    def read(self, timeout_s: float) -> Frame | None:
        """The next window."""
        if self._file is None:
            self._file = self._open()
            self.state = SourceState(state="running")
        while (made := self._windows.take()) is None:
            try:
                samples = self._file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)
            except self._soundfile.LibsndfileError as error:
                raise SourceError(f"{self._path}: cannot be read: {error}") from error
            if not len(samples):
                self.state = SourceState(state="ended")
                raise EndOfStream
            try:
                self._windows.extend(_mixed(samples, len(self.channels)))
            except FrameError as error:
                raise FrameError(f"{self._path}: {error}") from error
        return capture(made[1], source=self._name, number=made[0])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> Any:
        if not self._path.is_file():
            raise SourceError(f"{self._path}: no such sound file; it is missing")
        try:
            file = self._soundfile.SoundFile(self._path)
        except (OSError, TypeError, self._soundfile.LibsndfileError) as error:
            raise SourceError(
                f"{self._path}: not a sound file that can be read: {error}"
            ) from error
        wanted = len(self.channels)
        if file.samplerate != self._plan.rate_hz or (wanted > 1 and file.channels != wanted):
            found = f"{file.channels} channels at {file.samplerate} Hz"
            file.close()
            raise SourceError(
                f"{self._path}: {found}; the model takes {wanted} at {self._plan.rate_hz:g} Hz:"
                " convert the file, for example with sox or ffmpeg"
            )
        return file


def _mixed(samples: Array, channels: int) -> Array:
    """The mean of all channels where one is wanted."""
    if channels == 1 and samples.shape[1] > 1:
        mean: Array = samples.mean(axis=1, keepdims=True)
        return mean
    return samples
