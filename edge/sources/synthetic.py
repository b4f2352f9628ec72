"""What the demo sees: a rendered water meter before a camera, and the samples of a wrist.

Both are deterministic for a seed, so that what was read can be held against what was shown.
"""

from __future__ import annotations

import importlib.resources
import time
from typing import NamedTuple

import msgspec
import numpy as np

from edge.clock import capture
from edge.errors import SourceError
from edge.manifest import Preprocess
from edge.seams import EndOfStream
from edge.sources.windows import Window
from edge.types import Array, Frame
from edge.wire import SourceState

_WIDTH, _HEIGHT = 640, 360
_CELL_WIDTH, _CELL_HEIGHT, _GAP = 52, 72, 8
_DWELL = 0.65  # the part of its turn in which the last wheel rests on a digit


class DemoMeter:
    """A camera before a mechanical counter whose last wheel turns."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """A counter of `digits` wheels that starts at `start` and rises by `rate` a second, seen
        at `fps` frames a second for `frames` frames (0: for ever)."""

        digits: int = 6
        start: int = 4711
        rate: float = 0.5
        fps: float = 15.0
        frames: int = 0
        seed: int = 0

        def __post_init__(self) -> None:
            if self.fps <= 0 or not 1 <= self.digits <= 8:
                raise ValueError("fps must be above 0 and digits between 1 and 8")

    live = True

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._number = 0
        self._started_s: float | None = None
        self._strip, self._plate = _strip(), _plate(config.digits, config.seed)
        self.state = SourceState(state="running")

    def read(self, timeout_s: float) -> Frame | None:
        """The picture that is due next: uint8 [360, 640, 3] BGR."""
        if self._config.frames and self._number >= self._config.frames:
            self.state = SourceState(state="ended")
            raise EndOfStream
        now = time.monotonic()
        if self._started_s is None:
            self._started_s = now
        due = self._started_s + self._number / self._config.fps
        if due - now > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, due - now))
        number, self._number = self._number, self._number + 1
        return capture(self.picture(number), source=self._name, number=number)

    def close(self) -> None:
        """Nothing is held open."""

    def shown(self, number: int) -> float:
        """What the counter shows in frame `number`; a whole number while no wheel is turning."""
        position = self._config.start + number / self._config.fps * self._config.rate
        whole, turn = divmod(position, 1.0)
        return float(whole + max(0.0, (turn - _DWELL) / (1 - _DWELL)))

    def picture(self, number: int) -> Array:
        """Frame `number` as uint8 [360, 640, 3] BGR."""
        import cv2

        config = self._config
        picture = self._plate.copy()
        left = (_WIDTH - config.digits * (_CELL_WIDTH + _GAP) + _GAP) // 2
        top = (_HEIGHT - _CELL_HEIGHT) // 2
        for place in range(config.digits):
            turn = round(_wheel(self.shown(number), config.digits - 1 - place) * _CELL_HEIGHT)
            x = left + place * (_CELL_WIDTH + _GAP)
            picture[top : top + _CELL_HEIGHT, x : x + _CELL_WIDTH] = self._strip[
                turn : turn + _CELL_HEIGHT, :, None
            ]
        rng = np.random.default_rng((config.seed, number))
        sway = np.array(
            [[1, 0.004 * np.sin(number / 37), 2 * np.sin(number / 23)],
             [0.01 * np.sin(number / 41), 1, 2 * np.sin(number / 17)]]
        )  # fmt: skip
        picture = cv2.warpAffine(picture, sway, (_WIDTH, _HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        grain = rng.integers(0, 9, (_HEIGHT // 2, _WIDTH // 2), np.uint8)
        grain = cv2.cvtColor(cv2.resize(grain, (_WIDTH, _HEIGHT)), cv2.COLOR_GRAY2BGR)
        return np.asarray(cv2.add(picture, grain))


def _wheel(shown: float, place: int) -> float:
    """Where a wheel stands, 0 to 10; place 0 is the last one. A wheel turns while all behind it
    turn from 9 to 0."""
    whole, turn = divmod(shown, 1.0)
    position = int(whole)
    for _ in range(place):
        position, digit = divmod(position, 10)
        turn = turn if digit == 9 else 0.0
    return position % 10 + turn


def _strip() -> Array:
    """The digits of a wheel, 0 to 9 and 0 again, from top to bottom: uint8 [11 * cell, cell]."""
    import cv2

    data = importlib.resources.files("edge.sources").joinpath("digits.png").read_bytes()
    strip = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if strip is None:
        raise SourceError("edge/sources/digits.png cannot be read; install edgewright again")
    strip = cv2.resize(strip, (_CELL_WIDTH, 10 * _CELL_HEIGHT), interpolation=cv2.INTER_AREA)
    strip = np.maximum(strip, 22)
    return np.concatenate([strip, strip[:_CELL_HEIGHT]])


def _plate(digits: int, seed: int) -> Array:
    """The meter without its wheels: uint8 [360, 640, 3] BGR."""
    import cv2

    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
    light = 205 - 0.06 * columns - 0.10 * rows
    plate = np.repeat(light[:, :, None], 3, axis=2).clip(0, 255).astype(np.uint8)
    half = (digits * (_CELL_WIDTH + _GAP)) // 2 + 12
    top, bottom = (_HEIGHT - _CELL_HEIGHT) // 2 - 14, (_HEIGHT + _CELL_HEIGHT) // 2 + 14
    middle = _WIDTH // 2
    cv2.circle(plate, (middle, _HEIGHT // 2), 172, (150, 152, 158), 3, cv2.LINE_AA)
    cv2.rectangle(plate, (middle - half, top), (middle + half, bottom), (60, 60, 64), -1)
    cv2.rectangle(plate, (middle - half, top), (middle + half, bottom), (110, 112, 116), 3)
    cv2.putText(
        plate, "m3", (middle - 20, bottom + 50), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (70, 70, 70), 2
    )
    return plate


class _Activity(NamedTuple):
    """Six values a channel: acceleration in m/s², rotation in rad/s. Aggregates, not samples."""

    offset: tuple[float, ...]
    swing: tuple[float, ...]
    second_swing: tuple[float, ...]
    noise: tuple[float, ...]
    stroke: tuple[float, ...]
    cadence_hz: float
    noise_memory: float
    strokes_per_s: float


# Middle values of the table in models/wrist_activity/samples.py, whose spreads are left out.
_ACTIVITIES = {
    "standing": _Activity(
        offset=(-0.12, 0.09, 0.04, -0.01, 0.0, 0.0),
        swing=(0.09, 0.54, 0.12, 0.13, 0.05, 0.25),
        second_swing=(0.09, 0.37, 0.15, 0.07, 0.05, 0.17),
        noise=(0.16, 0.46, 0.18, 0.13, 0.06, 0.2),
        stroke=(1.09, 1.49, 1.5, 2.14, 0.25, 1.09),
        cadence_hz=0.69, noise_memory=0.6, strokes_per_s=0.15,
    ),
    "walking": _Activity(
        offset=(0.75, 0.11, -0.27, 0.07, -0.02, 0.0),
        swing=(0.76, 3.75, 0.72, 0.68, 0.39, 1.69),
        second_swing=(0.9, 0.42, 0.24, 0.16, 0.09, 0.23),
        noise=(0.88, 1.3, 0.57, 0.47, 0.27, 0.54),
        stroke=(2.92, 3.0, 2.04, 1.23, 0.62, 1.85),
        cadence_hz=0.74, noise_memory=0.59, strokes_per_s=0.14,
    ),
    "running": _Activity(
        offset=(4.79, -4.47, -2.28, 0.03, 0.04, 0.0),
        swing=(12.16, 11.3, 2.74, 1.79, 1.66, 6.66),
        second_swing=(5.8, 5.37, 1.19, 0.82, 0.54, 0.51),
        noise=(4.54, 4.41, 2.11, 1.17, 1.01, 2.06),
        stroke=(12.97, 8.63, 6.6, 2.84, 2.15, 4.74),
        cadence_hz=1.15, noise_memory=0.27, strokes_per_s=0.09,
    ),
    "badminton": _Activity(
        offset=(4.79, -0.94, -1.6, -0.01, -0.11, -0.23),
        swing=(4.0, 1.59, 2.77, 1.03, 1.3, 1.82),
        second_swing=(2.05, 2.14, 1.56, 0.82, 0.82, 1.74),
        noise=(4.81, 4.31, 3.72, 2.37, 2.06, 2.58),
        stroke=(15.04, 15.14, 12.28, 9.66, 6.83, 11.28),
        cadence_hz=0.71, noise_memory=0.32, strokes_per_s=0.53,
    ),
}  # fmt: skip
_RATE_HZ = 10.0
_STROKE_S = 0.15  # half-width of a stroke


class DemoWrist:
    """A wrist that stands, walks, runs and plays badminton, in turn."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """Each activity lasts `activity_s` seconds of the wearer's time, which passes `speed`
        times as fast as ours; it ends after `windows` windows (0: never)."""

        activity_s: float = 60.0
        speed: float = 20.0
        windows: int = 0
        seed: int = 0

        def __post_init__(self) -> None:
            if self.speed <= 0 or self.activity_s <= 0:
                raise ValueError("speed and activity_s must be above 0")

    live = False
    _LENGTH, _HOP = 100, 50

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        self._config = config
        self._name = name
        self._rng = np.random.default_rng(config.seed)
        self._window = Window(self._LENGTH, self._HOP, 6)
        self._samples = 0
        self._number = 0
        self._stretch = np.empty((0, 6), np.float32)
        self._started_s: float | None = None
        self.state = SourceState(state="running")

    def read(self, timeout_s: float) -> Frame | None:
        """The window that is due next: float32 [100, 6]."""
        if self._config.windows and self._number >= self._config.windows:
            self.state = SourceState(state="ended")
            raise EndOfStream
        now = time.monotonic()
        if self._started_s is None:
            self._started_s = now
        last = self._LENGTH + self._number * self._HOP
        due = self._started_s + last / _RATE_HZ / self._config.speed
        if due - now > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, due - now))
        while (window := self._window.take()) is None:
            self._window.put(self._next_sample()[None])
        number, self._number = self._number, self._number + 1
        return capture(window, source=self._name, number=number)

    def close(self) -> None:
        """Nothing is held open."""

    def shown(self, number: int) -> str:
        """The activity in which window `number` ends."""
        last = self._LENGTH + number * self._HOP - 1
        return list(_ACTIVITIES)[last // self._stretch_length % len(_ACTIVITIES)]

    @property
    def _stretch_length(self) -> int:
        return max(1, round(self._config.activity_s * _RATE_HZ))

    def _next_sample(self) -> Array:
        place = self._samples % self._stretch_length
        if place == 0:
            turn = self._samples // self._stretch_length % len(_ACTIVITIES)
            activity = list(_ACTIVITIES.values())[turn]
            self._stretch = _wrist(activity, self._stretch_length, self._rng)
        self._samples += 1
        sample: Array = self._stretch[place]
        return sample


def _wrist(of: _Activity, length: int, rng: np.random.Generator) -> Array:
    """`length` samples of one activity: float32 [length, 6]."""
    cycles = np.cumsum(of.cadence_hz * (1 + rng.normal(0, 0.1, length)))[:, None] / _RATE_HZ
    phase = rng.random((2, 6))
    swing = np.asarray(of.swing) * np.sin(2 * np.pi * (cycles + phase[0]))
    swing += np.asarray(of.second_swing) * np.sin(2 * np.pi * (2 * cycles + phase[1]))
    noise = rng.normal(0, of.noise, (length, 6))
    for step in range(1, length):
        noise[step] *= np.sqrt(1 - of.noise_memory**2)
        noise[step] += of.noise_memory * noise[step - 1]
    seconds = length / _RATE_HZ
    strokes_s = rng.uniform(0, seconds, rng.poisson(of.strokes_per_s * seconds))
    heights = rng.choice((-1.0, 1.0), (len(strokes_s), 6)) * of.stroke
    heights *= rng.uniform(0.5, 1.5, (len(strokes_s), 6))
    away = (np.arange(length)[:, None] / _RATE_HZ - strokes_s) / _STROKE_S
    samples: Array = of.offset + swing + noise + np.exp(-(away**2) / 2) @ heights
    return samples.astype(np.float32)
