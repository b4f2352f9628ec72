"""Log-mel features of sound. Pure, apart from its kept buffers.

Frames are multiplied by a periodic Hann window and transformed; the power (or the magnitude) of the
spectrum is summed up in triangular bands, and the logarithm taken. The mel scale is

- htk: 2595 · log10(1 + f / 700) (The HTK Book, section 5.4);
- slaney: f · 3 / 200 below 1000 Hz, 15 + 27 · ln(f / 1000) / ln(6.4) above (Slaney, Auditory
  Toolbox, 1998, as librosa has it).

With `triangles: hz` the slopes are straight over Hz (librosa, torchaudio), with `mel` over mel
(TensorFlow's linear_to_mel_weight_matrix). `norm: slaney` divides each by half of its width in Hz.
"""

from __future__ import annotations

import numpy as np

from edge.errors import BundleError
from edge.manifest import LogMel
from edge.types import Array

_MAX_VALUES = 1 << 26
_INTO = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


class LogMelFeatures:
    """Features [frames, n_mels] of sounds of `length` samples at `rate_hz`."""

    def __init__(self, config: LogMel, *, rate_hz: float, length: int) -> None:
        """BundleError when there are no such features."""
        window = config.window or config.n_fft
        pad = window // 2 if config.center else 0
        if length + 2 * pad < window or length <= pad:
            raise BundleError(f"log_mel: a sound of {length} samples is shorter than its window")
        frames = 1 + (length + 2 * pad - window) // config.hop
        if frames * config.n_fft > _MAX_VALUES:
            raise BundleError(f"log_mel: {frames} frames of {config.n_fft} samples are too many")
        self.shape = (frames, config.n_mels)
        self._config = config
        self._length = length
        self._pad = pad
        self._bank = filter_bank(config, rate_hz)
        self._hann = _hann(window)
        self._sound = np.zeros(length + 2 * pad)
        self._frames = np.lib.stride_tricks.sliding_window_view(self._sound, window)[:: config.hop]
        self._windowed = np.zeros((frames, config.n_fft))
        self._view = self._windowed[:, :window]
        bins = config.n_fft // 2 + 1
        self._spectrum = np.empty((frames, bins), np.complex128)
        self._power = np.empty((frames, bins))
        self._square = np.empty((frames, bins))
        self._energy = np.empty(self.shape)
        self._out = np.empty(self.shape, np.float32)

    def __call__(self, sound: Array) -> Array:
        """Finite samples [length] -> features float32 [frames, n_mels], valid until the next
        call."""
        config, pad = self._config, self._pad
        self._sound[pad : pad + self._length] = sound
        if pad:
            inner = self._sound[pad : pad + self._length]
            self._sound[:pad] = inner[pad:0:-1]
            self._sound[pad + self._length :] = inner[-2 : -pad - 2 : -1]
        np.einsum("ij,j->ij", self._frames, self._hann, out=self._view)  # multiply would buffer
        if _INTO:
            np.fft.rfft(self._windowed, axis=1, out=self._spectrum)
        else:
            self._spectrum[:] = np.fft.rfft(self._windowed, axis=1)
        np.multiply(self._spectrum.real, self._spectrum.real, out=self._power)
        np.multiply(self._spectrum.imag, self._spectrum.imag, out=self._square)
        self._power += self._square
        if config.power == 1:
            np.sqrt(self._power, out=self._power)
        energy = np.matmul(self._power, self._bank, out=self._energy)
        if config.floored == "added":
            energy += config.floor
        else:
            np.maximum(energy, config.floor, out=energy)
        (np.log if config.log == "ln" else np.log10)(energy, out=energy)
        if config.log == "db":
            energy *= 20 / config.power
        self._out[:] = energy
        return self._out


def filter_bank(config: LogMel, rate_hz: float) -> Array:
    """The weight of each bin of the spectrum in each band: [n_fft // 2 + 1, n_mels].

    BundleError when the bands do not lie within the spectrum.
    """
    top_hz = config.fmax or rate_hz / 2
    if not config.fmin < top_hz <= rate_hz / 2:
        raise BundleError(
            f"log_mel: bands from {config.fmin:g} to {top_hz:g} Hz; at {rate_hz:g} samples a second"
            f" they must rise, and end at {rate_hz / 2:g} Hz"
        )
    bins_hz = np.arange(config.n_fft // 2 + 1) * rate_hz / config.n_fft
    ends = _mel(np.array([config.fmin, top_hz]), config.scale)
    corners = np.linspace(ends[0], ends[1], config.n_mels + 2)
    corners_hz = _hz(corners, config.scale)
    if config.triangles == "mel":
        places, bins = corners, _mel(bins_hz, config.scale)
    else:
        places, bins = corners_hz, bins_hz
    low, middle, high = places[:-2], places[1:-1], places[2:]
    rising = (bins[:, None] - low) / (middle - low)
    falling = (high - bins[:, None]) / (high - middle)
    weights: Array = np.maximum(0.0, np.minimum(rising, falling))
    if config.norm == "slaney":
        weights *= 2.0 / (corners_hz[2:] - corners_hz[:-2])
    return weights


def _hann(window: int) -> Array:
    """0.5 - 0.5 · cos(2 π n / window): periodic, [window]."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window))


def _mel(hz: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, above)


def _hz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    above = 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, above)
