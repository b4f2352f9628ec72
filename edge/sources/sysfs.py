"""Sensors that the kernel knows: Linux IIO and hwmon, by polling sysfs.

A device is found anew whenever it is opened, since the kernel numbers devices as they come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from edge.errors import FrameError
from edge.manifest import Preprocess
from edge.sources.records import float32
from edge.sources.sampling import Poll, SampleSource
from edge.sources.stream import Lost
from edge.sources.windows import WindowConfig, plan

_MAX_BYTES = 256
_HWMON_SCALES = {
    "temp": 1e-3,  # m°C
    "in": 1e-3,  # mV
    "curr": 1e-3,  # mA
    "power": 1e-6,  # µW
    "energy": 1e-6,  # µJ
    "humidity": 1e-3,  # m%
    "fan": 1.0,  # revolutions a minute
}

_Read = Callable[[], float]


class _Sysfs(SampleSource):
    """Polls one device under `root`. An adapter says where a channel stands."""

    kind: ClassVar[str]

    def __init__(
        self,
        config: _Config,
        *,
        name: str,
        preprocess: Preprocess | None = None,
    ) -> None:
        windows = plan(config, preprocess, name=name, rated=True)
        stale_s = 5.0 + 1 / windows.rate_hz
        shown = f"{self.kind} {config.device}"
        super().__init__(windows, name=name, shown=shown, stale_s=stale_s)
        self._config = config
        self._rate_hz = windows.rate_hz

    def _open(self) -> Poll:
        try:
            folder = self._find()
            reads = [self._channel(folder, channel) for channel in self.channels]
        except OSError as error:
            raise Lost(f"cannot be opened: {error.strerror}") from error
        return Poll(lambda: float32(_all(reads)), rate_hz=self._rate_hz)

    def _find(self) -> Path:
        wanted, root = self._config.device, self._config.root
        folders = sorted(root.iterdir()) if root.is_dir() else []
        for folder in folders:
            if wanted in (folder.name, _text(folder / "name"), _text(folder / "label")):
                return folder
        there = {folder.name: _text(folder / "name") for folder in folders}
        known = ", ".join(f"{name} ({text})" for name, text in there.items() if text) or "none"
        raise Lost(f"cannot be opened: no device {wanted!r} in {root}; there are {known}")

    def _channel(self, folder: Path, channel: str) -> _Read:
        raise NotImplementedError


class _Config(WindowConfig, frozen=True, kw_only=True):
    device: str
    root: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        for channel in self.channels:
            if "/" in channel or "\0" in channel:
                raise ValueError(f"channels: {channel!r} is no name of a channel")


class Iio(_Sysfs):
    """Channels of the Industrial I/O subsystem: accelerometers, gyroscopes, light, ADCs."""

    class Config(_Config, frozen=True, kw_only=True):
        """`device` is a device's name or label, or its folder (iio:device0). A channel `accel_x` is
        (in_accel_x_raw + in_accel_x_offset) · in_accel_x_scale, or in_accel_x_input, in the
        kernel's units: m/s², rad/s, mV, m°C, kPa, lux."""

        root: Path = msgspec.field(default_factory=lambda: Path("/sys/bus/iio/devices"))

    kind = "iio"

    def _channel(self, folder: Path, channel: str) -> _Read:
        raw, done = folder / f"in_{channel}_raw", folder / f"in_{channel}_input"
        if not raw.exists():
            if not done.exists():
                raise Lost(f"cannot be opened: {folder} has no channel {channel}")
            return lambda: _number(done)
        scale = _shared(folder, channel, "scale", 1.0)
        offset = _shared(folder, channel, "offset", 0.0)
        return lambda: (_number(raw) + offset) * scale


class Hwmon(_Sysfs):
    """Temperatures, voltages, currents and powers of the board's monitoring chips."""

    class Config(_Config, frozen=True, kw_only=True):
        """`device` is a chip's name, or its folder (hwmon0). A channel is an input (temp1, in0,
        curr1, power1, fan1) or its label. Units are °C, V, A, W, J, % and revolutions a minute."""

        root: Path = msgspec.field(default_factory=lambda: Path("/sys/class/hwmon"))

    kind = "hwmon"

    def _channel(self, folder: Path, channel: str) -> _Read:
        for label in sorted(folder.glob("*_label")):
            if _text(label) == channel:
                channel = label.name.removesuffix("_label")
                break
        file = folder / f"{channel}_input"
        scale = _HWMON_SCALES.get(channel.rstrip("0123456789"))
        if scale is None or not file.exists():
            raise Lost(f"cannot be opened: {folder} has no channel {channel}")
        return lambda: _number(file) * scale


def _shared(folder: Path, channel: str, what: str, default: float) -> float:
    """in_accel_x_scale, else in_accel_scale, which its axes share."""
    parts = channel.split("_")
    for end in range(len(parts), 0, -1):
        file = folder / f"in_{'_'.join(parts[:end])}_{what}"
        if file.exists():
            return _number(file)
    numbered = folder / f"in_{channel.rstrip('0123456789')}_{what}"
    return _number(numbered) if numbered.exists() else default


def _all(reads: Sequence[_Read]) -> list[float]:
    try:
        return [read() for read in reads]
    except OSError as error:
        raise Lost(error.strerror or str(error)) from error


def _number(file: Path) -> float:
    """The number in a file. OSError when the device is gone; FrameError when it is no number."""
    text = _read(file)
    try:
        return float(text)
    except ValueError:
        raise FrameError(f"{file.name}: {text[:40]!r} is not a number") from None


def _text(file: Path) -> str:
    try:
        return _read(file)
    except OSError:
        return ""


def _read(file: Path) -> str:
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(handle, _MAX_BYTES).decode("utf-8", "replace").strip("\0 \n\t")
    finally:
        os.close(handle)
