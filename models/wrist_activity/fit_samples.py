"""Derive the activity table of samples.py from the BasicMotions training set and print it.

Only statistics over all ten training windows of an activity leave this script. A window is taken
apart into an offset, two sinusoids at a common cadence f and 2f (least squares, f by search),
strokes (peaks of the residual's energy) and the rest, which is noise with a lag-one correlation.

    python models/wrist_activity/fit_samples.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

HERE = Path(__file__).resolve().parent
CADENCES_HZ = np.arange(0.5, 1.8, 0.01)


def _sibling(name: str) -> ModuleType:
    """Load `name`.py of this folder by its location, leaving sys.path alone."""
    spec = importlib.util.spec_from_file_location(f"wrist_activity_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tones(window: np.ndarray, cadence_hz: float, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit sinusoids at f and 2f to a zero-mean window [T, 6].

    Returns the amplitudes [2, 6] and the residual [T, 6].
    """
    angle = 2 * np.pi * cadence_hz * np.arange(len(window)) / rate_hz
    basis = np.stack([f(k * angle) for k in (1, 2) for f in (np.cos, np.sin)], axis=1)
    weights = np.linalg.lstsq(basis, window, rcond=None)[0]
    amplitudes = np.hypot(weights[0::2], weights[1::2])
    return amplitudes, window - basis @ weights


def strokes(residual: np.ndarray, spread: np.ndarray, gap: int = 5) -> np.ndarray:
    """Times [K] where the energy of a residual [T, 6] peaks at six times its median or more."""
    energy = ((residual / spread) ** 2).sum(axis=1)
    level = 6 * max(float(np.median(energy)), 1e-9)
    found = [
        t
        for t in range(len(energy))
        if energy[t] >= level and energy[t] == energy[max(0, t - gap) : t + gap + 1].max()
    ]
    return np.array(found, dtype=int)


def fit(windows: np.ndarray, rate_hz: float) -> dict[str, object]:
    """The parameters of one activity from its windows [N, T, 6]; names as in samples.Activity."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    spread = centred.std(axis=(0, 1))
    cadences, amplitudes, residuals = [], [], []
    for window in centred:
        left = [float(((tones(window, f, rate_hz)[1] / spread) ** 2).sum()) for f in CADENCES_HZ]
        cadences.append(float(CADENCES_HZ[int(np.argmin(left))]))
        amplitude, residual = tones(window, cadences[-1], rate_hz)
        amplitudes.append(amplitude)
        residuals.append(residual)
    peaks = [(residual, strokes(residual, spread)) for residual in residuals]
    heights = np.concatenate([residual[times] for residual, times in peaks])
    rest = np.stack(residuals)
    noise = 1.4826 * np.median(np.abs(rest), axis=(0, 1))
    lag = (rest[:, 1:] * rest[:, :-1]).sum() / (rest**2).sum()
    return {
        "offset": windows.mean(axis=(0, 1)),
        "offset_spread": windows.mean(axis=1).std(axis=0),
        "cadence_hz": np.mean(cadences),
        "cadence_spread": np.std(cadences) / np.mean(cadences),
        "swing": np.mean(amplitudes, axis=0),
        "noise": noise,
        "noise_memory": lag,
        "strokes_per_s": len(heights) * rate_hz / rest[..., 0].size,
        "stroke": np.sqrt((heights**2).mean(axis=0)) if len(heights) else np.zeros(6),
        "gain_spread": np.log(windows.std(axis=1)).std(axis=0).mean(),
    }


def main() -> None:
    """Print the table, rounded as it stands in samples.py."""
    model = _sibling("model")
    windows, classes = model.basicmotions("TRAIN")
    for index, label in enumerate(model.LABELS):
        print(label)
        for name, value in fit(windows[classes == index], model.RATE_HZ).items():
            print(f"    {name} = {np.round(np.asarray(value, dtype=float), 2).tolist()}")


if __name__ == "__main__":
    main()
