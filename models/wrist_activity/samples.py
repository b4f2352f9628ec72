"""A synthetic wrist: signals like those of BasicMotions, without a sample of it.

A window is an offset, a swing (a sinusoid at the cadence and one at twice it), correlated noise and
strokes (short pulses at random times). fit_samples.py printed the table from the training set.
"""

from typing import NamedTuple

import numpy as np

RATE_HZ = 10.0
STROKE_S = 0.15  # half-width of a stroke


class Activity(NamedTuple):
    """Six values per channel (ax ay az in m/s², gx gy gz in rad/s); spreads are one sigma."""

    offset: tuple[float, ...]
    offset_spread: tuple[float, ...]
    cadence_hz: float
    cadence_spread: float  # relative
    swing: tuple[tuple[float, ...], tuple[float, ...]]  # amplitude at cadence, at twice cadence
    noise: tuple[float, ...]
    noise_memory: float  # correlation of neighbouring samples
    strokes_per_s: float
    stroke: tuple[float, ...]
    gain_spread: float  # log-normal, of everything but the offset


ACTIVITIES = {
    "standing": Activity(
        offset=(-0.12, 0.09, 0.04, -0.01, 0.0, 0.0), cadence_hz=0.69, cadence_spread=0.3,
        offset_spread=(0.07, 0.06, 0.07, 0.05, 0.01, 0.04), noise_memory=0.6, gain_spread=0.51,
        swing=((0.09, 0.54, 0.12, 0.13, 0.05, 0.25), (0.09, 0.37, 0.15, 0.07, 0.05, 0.17)),
        noise=(0.16, 0.46, 0.18, 0.13, 0.06, 0.2), strokes_per_s=0.15,
        stroke=(1.09, 1.49, 1.5, 2.14, 0.25, 1.09),
    ),
    "running": Activity(
        offset=(4.79, -4.47, -2.28, 0.03, 0.04, 0.0), cadence_hz=1.15, cadence_spread=0.04,
        offset_spread=(1.06, 0.66, 0.71, 0.18, 0.1, 0.14), noise_memory=0.27, gain_spread=0.15,
        swing=((12.16, 11.3, 2.74, 1.79, 1.66, 6.66), (5.8, 5.37, 1.19, 0.82, 0.54, 0.51)),
        noise=(4.54, 4.41, 2.11, 1.17, 1.01, 2.06), strokes_per_s=0.09,
        stroke=(12.97, 8.63, 6.6, 2.84, 2.15, 4.74),
    ),
    "walking": Activity(
        offset=(0.75, 0.11, -0.27, 0.07, -0.02, 0.0), cadence_hz=0.74, cadence_spread=0.07,
        offset_spread=(0.2, 0.16, 0.1, 0.08, 0.04, 0.05), noise_memory=0.59, gain_spread=0.17,
        swing=((0.76, 3.75, 0.72, 0.68, 0.39, 1.69), (0.9, 0.42, 0.24, 0.16, 0.09, 0.23)),
        noise=(0.88, 1.3, 0.57, 0.47, 0.27, 0.54), strokes_per_s=0.14,
        stroke=(2.92, 3.0, 2.04, 1.23, 0.62, 1.85),
    ),
    "badminton": Activity(
        offset=(4.79, -0.94, -1.6, -0.01, -0.11, -0.23), cadence_hz=0.71, cadence_spread=0.16,
        offset_spread=(1.6, 0.74, 0.78, 0.35, 0.17, 0.4), noise_memory=0.32, gain_spread=0.21,
        swing=((4.0, 1.59, 2.77, 1.03, 1.3, 1.82), (2.05, 2.14, 1.56, 0.82, 0.82, 1.74)),
        noise=(4.81, 4.31, 3.72, 2.37, 2.06, 2.58), strokes_per_s=0.53,
        stroke=(15.04, 15.14, 12.28, 9.66, 6.83, 11.28),
    ),
}  # fmt: skip


def window(activity: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` samples at 10 Hz of one wearer: float32 [length, 6], m/s² and rad/s.

    A long call is a continuous stream: the phase wanders and strokes keep coming.
    """
    of = ACTIVITIES[activity]
    cadence_hz = of.cadence_hz * np.exp(rng.normal(0, of.cadence_spread))
    pace = cadence_hz * (1 + rng.normal(0, 0.1, length))
    cycles = np.cumsum(pace)[:, None, None] / RATE_HZ * np.array([[1], [2]])
    swing = (np.asarray(of.swing) * np.sin(2 * np.pi * (cycles + rng.random((2, 6))))).sum(axis=1)
    noise = rng.normal(0, of.noise, (length, 6))
    for t in range(1, length):
        noise[t] = of.noise_memory * noise[t - 1] + np.sqrt(1 - of.noise_memory**2) * noise[t]
    times_s = rng.uniform(0, length / RATE_HZ, rng.poisson(of.strokes_per_s * length / RATE_HZ))
    signs = rng.choice((-1.0, 1.0), (len(times_s), 6))
    heights = signs * of.stroke * rng.uniform(0.5, 1.5, (len(times_s), 6))
    away = (np.arange(length)[:, None] / RATE_HZ - times_s) / STROKE_S  # [length, strokes]
    pulses = np.exp(-(away**2) / 2) @ heights
    moving = np.exp(rng.normal(0, of.gain_spread)) * (swing + noise + pulses)
    return np.asarray(rng.normal(of.offset, of.offset_spread) + moving, dtype=np.float32)
