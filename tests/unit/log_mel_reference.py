"""Writes log_mel_reference.json: log-mel features by librosa, for test_log_mel.py.

Run it by hand where librosa is installed: python tests/unit/log_mel_reference.py
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

RATE, LENGTH = 16_000, 1280
FILE = Path(__file__).with_suffix(".json")


def sound() -> Any:
    """A rising tone, a hum and a click: float32 [LENGTH]."""
    t = np.arange(LENGTH) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (200 * t + 30_000 * t * t)) + 0.05 * np.sin(
        2 * np.pi * 3100 * t
    )
    wave[700] += 0.5
    return wave.astype(np.float32)


def by_librosa(**options: Any) -> Any:
    import librosa

    mel = librosa.feature.melspectrogram(y=sound(), sr=RATE, window="hann", **options)
    return mel.T


def main() -> None:
    wanted = {
        "librosa, its defaults": np.log(
            np.maximum(1e-10, by_librosa(n_fft=256, hop_length=128, n_mels=20, pad_mode="reflect"))
        ),
        "librosa, htk, magnitude, from 100 to 4000 Hz, not centred": 20
        * np.log10(
            np.maximum(
                1e-5,
                by_librosa(n_fft=512, hop_length=160, n_mels=16, fmin=100, fmax=4000, htk=True,
                           norm=None, power=1, center=False),
            )
        ),
        "librosa, a window shorter than its transform": np.log10(
            np.maximum(
                1e-10,
                by_librosa(n_fft=512, win_length=400, hop_length=160, n_mels=16, htk=True,
                           norm=None, pad_mode="reflect"),
            )
        ),
    }  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in ("librosa", "numpy")}
    features = {name: np.round(found, 5).tolist() for name, found in wanted.items()}
    FILE.write_text(json.dumps({"made with": versions, "features": features}) + "\n")


if __name__ == "__main__":
    main()
