"""Log-mel features against those of librosa, and of pencil and paper."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from needs import ROOT

from edge.errors import BundleError, FrameError
from edge.log_mel import LogMelFeatures, filter_bank
from edge.manifest import FORMAT, LogMel, Manifest, WindowPreprocess
from edge.preprocess import WindowPreprocessor
from edge.types import Array, TensorSpec

from . import log_mel_reference as reference

RECORDED = json.loads(reference.FILE.read_text())["features"]
LIBROSA = {"scale": "slaney", "norm": "slaney", "center": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "librosa, its defaults": {"n_fft": 256, "hop": 128, "n_mels": 20, **LIBROSA},
    "librosa, htk, magnitude, from 100 to 4000 Hz, not centred": {
        "n_fft": 512, "hop": 160, "n_mels": 16, "fmin": 100.0, "fmax": 4000.0, "power": 1,
        "log": "db", "floor": 1e-5,
    },
    "librosa, a window shorter than its transform": {
        "n_fft": 512, "window": 400, "hop": 160, "n_mels": 16, "center": True, "log": "log10",
    },
}  # fmt: skip


def features(**options: Any) -> LogMelFeatures:
    return LogMelFeatures(LogMel(**options), rate_hz=reference.RATE, length=reference.LENGTH)


@pytest.mark.parametrize("name", RECORDED)
def test_features_are_those_of_others(name: str) -> None:
    wanted = np.array(RECORDED[name])
    made = features(**CONFIGS[name])
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made(reference.sound()), wanted, atol=5e-4)


def test_triangles_over_mel_are_those_of_tensorflow() -> None:
    """The rule of tf.signal.linear_to_mel_weight_matrix, one bin and band after the other."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    config = LogMel(n_fft=64, hop=32, n_mels=6, fmin=125.0, fmax=7500.0, triangles="mel")
    step = (mel(7500.0) - mel(125.0)) / 7
    wanted = np.zeros((33, 6))
    for bin_ in range(1, 33):
        for band in range(6):
            place = (mel(bin_ * 16_000 / 64) - mel(125.0)) / step - band
            wanted[bin_, band] = max(0.0, min(place, 2.0 - place))
    np.testing.assert_allclose(filter_bank(config, 16_000.0), wanted, atol=2e-4)


def test_silence_is_the_floor_and_a_tone_lies_in_its_band() -> None:
    made = features(n_fft=512, hop=256, n_mels=30, log="db", floor=1e-8)
    assert (made(np.zeros(reference.LENGTH, np.float32)) == -80.0).all()
    tone = np.sin(2 * np.pi * 1000 * np.arange(reference.LENGTH) / reference.RATE)
    bank = filter_bank(LogMel(n_fft=512, hop=256, n_mels=30), reference.RATE)
    assert (
        made(tone.astype(np.float32)).argmax(axis=1) == bank[1000 * 512 // 16_000].argmax()
    ).all()


def test_the_floor_may_be_added() -> None:
    options = {"n_fft": 256, "hop": 128, "n_mels": 8, "floor": 1e-3}
    energy = np.exp(features(**{**options, "floor": 1e-30})(reference.sound()))
    added = features(**options, floored="added")(reference.sound())
    np.testing.assert_allclose(added, np.log(energy + 1e-3), atol=1e-4)


def test_nothing_is_allocated_for_a_sound() -> None:
    made, sound = features(n_fft=512, hop=160, n_mels=40), reference.sound()
    made(sound)
    tracemalloc.start()
    made(sound)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000, "the spectrum alone takes 20 kB"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_fft": 2048, "hop": 10, "n_mels": 4}, "shorter than its window"),
        ({"n_fft": 256, "hop": 10, "n_mels": 4, "fmax": 9000.0}, "end at 8000 Hz"),
        ({"n_fft": 256, "hop": 10, "n_mels": 4, "fmin": 8000.0}, "must rise"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        features(**options)


@pytest.mark.parametrize(
    "options", [{"n_fft": 1}, {"hop": 0}, {"n_mels": 5000}, {"window": 300}, {"floor": 0.0}]
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="log_mel"):
        LogMel(**{"n_fft": 256, "hop": 10, "n_mels": 4, **options})


# ---- as preprocessing


def window(log_mel: LogMel, mean: tuple[float, ...] = (0.0,)) -> WindowPreprocess:
    return WindowPreprocess(
        length=reference.LENGTH, hop=reference.LENGTH, rate_hz=float(reference.RATE),
        channels=("sound",), mean=mean, std=(2.0,) * len(mean), log_mel=log_mel,
    )  # fmt: skip


SMALL = LogMel(n_fft=256, hop=128, n_mels=8)
FRAMES = 9


@pytest.mark.parametrize(
    ("shape", "order", "layout"),
    [
        ((1, FRAMES, 8), "time", "ntc"),
        ((1, FRAMES, 8, 1), "time", "nhwc"),
        ((1, 1, FRAMES, 8), "time", "nchw"),
        ((1, 1, 8, FRAMES), "mel", "nchw"),
        ((1, FRAMES * 8), "time", "nc"),
    ],
)
def test_features_are_laid_into_the_input(shape: Any, order: Any, layout: Any) -> None:
    config = msgspec.structs.replace(SMALL, order=order)
    prepare = WindowPreprocessor(
        window(config, mean=tuple(map(float, range(8)))),
        TensorSpec(name="x", shape=shape, layout=layout),
    )
    tensor, _ = prepare(reference.sound()[:, None])
    plain = features(n_fft=256, hop=128, n_mels=8)(reference.sound())
    wanted = (plain - np.arange(8)) / 2
    found: Array = tensor.reshape((8, FRAMES) if order == "mel" else (FRAMES, 8))
    np.testing.assert_allclose(found.T if order == "mel" else found, wanted, atol=1e-5)
    again, _ = prepare(np.zeros((reference.LENGTH, 1), np.float32))
    assert not np.shares_memory(tensor, again)


@pytest.mark.parametrize(
    ("shape", "mean"), [((1, 8, FRAMES), (0.0,)), ((1, FRAMES, 8), (0.0, 0.0)), ((1, 72), (0.0,))]
)
def test_an_input_that_does_not_fit_is_said(shape: Any, mean: Any) -> None:
    with pytest.raises(BundleError):
        WindowPreprocessor(window(SMALL, mean), TensorSpec(name="x", shape=shape))


def test_sound_that_is_not_finite_is_a_bad_frame() -> None:
    prepare = WindowPreprocessor(window(SMALL), TensorSpec(name="x", shape=(1, FRAMES, 8)))
    sound = reference.sound()[:, None].copy()
    sound[3] = np.inf
    with pytest.raises(FrameError, match="not finite"):
        prepare(sound)
    tensor, _ = prepare(np.full_like(sound, 3e38))
    assert np.isfinite(tensor).all(), "however loud"


def test_an_older_reader_refuses_it() -> None:
    """A manifest with log_mel must say so in `requires`, which is what older readers look at."""
    document = {
        "format": FORMAT, "name": "m", "version": "1", "task": "classify", "labels": ["a", "b"],
        "preprocess": msgspec.to_builtins(window(SMALL)), "decoder": {"name": "softmax"},
        "variants": [{"name": "v", "format": "onnx", "precision": "fp32", "file": "v.onnx",
                      "inputs": [], "outputs": []}],
        "files": {"v.onnx": {"size": 0, "sha256": ""}},
    }  # fmt: skip
    with pytest.raises(msgspec.ValidationError, match="`requires` must name log_mel"):
        msgspec.convert(document, Manifest)
    read = msgspec.convert({**document, "requires": ["log_mel"]}, Manifest)
    assert isinstance(read.preprocess, WindowPreprocess) and read.preprocess.log_mel == SMALL


def test_the_written_format_names_every_field() -> None:
    text = (ROOT / "edge/BUNDLE.md").read_text(encoding="utf-8")
    assert [name for name in LogMel.__struct_fields__ if f"`{name}`" not in text] == []
