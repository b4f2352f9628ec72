"""A recurrent model by others: voice activity by Silero, its state carried along."""

from __future__ import annotations

import importlib.util
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from needs import missing, need_assets, need_module

from edge import Pipeline
from edge.bundle import Bundle, write
from edge.engines.onnx import OnnxEngine
from edge.manifest import FORMAT, Manifest
from edge.model import Model
from edge.state import find_state
from edge.types import Array, Classification

RATE, WINDOW, CONTEXT = 16000, 512, 64


def model_file() -> bytes:
    """The file that its package carries; the package itself would want torch."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        missing("silero-vad is not installed; pip install --no-deps silero-vad")
        raise AssertionError  # not reached
    return Path(found.submodule_search_locations[0], "data/silero_vad.onnx").read_bytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    need_module("onnxruntime")
    data = model_file()
    engine = OnnxEngine(data)
    state = find_state(engine.inputs, engine.outputs)
    engine.close()
    made: dict[str, Any] = {
        "format": FORMAT,
        "requires": ["state"],
        "name": "voice",
        "version": "6.2",
        "task": "classify",
        "labels": ["speech"],
        "preprocess": {
            "kind": "window", "length": CONTEXT + WINDOW, "hop": WINDOW, "rate_hz": RATE,
            "channels": ["audio"], "mean": [0], "std": [1],
        },
        "decoder": {"name": "scores", "params": {"output": "output"}},
        "variants": [{
            "name": "onnx-fp32", "format": "onnx", "precision": "fp32", "file": "vad.onnx",
            "inputs": [
                {"name": "input", "shape": [1, CONTEXT + WINDOW], "layout": "nc"},
                {"name": "state", "shape": [2, 1, 128]},
                {"name": "sr", "shape": [], "dtype": "int64"},
            ],
            "outputs": [
                {"name": "output", "shape": [1, 1]}, {"name": "stateN", "shape": [2, 1, 128]},
            ],
            "state": msgspec.to_builtins(state),
            "constants": {"sr": RATE},
        }],
        "files": {"vad.onnx": {"size": 0, "sha256": ""}},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("voice")
    return write(folder / "bundle", msgspec.convert(made, Manifest), {"vad.onnx": data})


def samples(name: str) -> Array:
    """A recording, with the silence before its beginning that the first window looks back on."""
    folder = need_assets() / "audio"
    with wave.open(str(folder / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    return np.concatenate([np.zeros(CONTEXT, np.float32), audio.astype(np.float32)])


def windows(audio: Array) -> list[Array]:
    starts = range(0, len(audio) - CONTEXT - WINDOW + 1, WINDOW)
    return [audio[start : start + CONTEXT + WINDOW] for start in starts]


def plain_loop(audio: Array) -> list[float]:
    """What everybody writes with onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model_file(), providers=["CPUExecutionProvider"])
    state, said = np.zeros((2, 1, 128), np.float32), []
    for window in windows(audio):
        feed = {"input": window[None], "state": state, "sr": np.array(RATE, np.int64)}
        out, state = session.run(["output", "stateN"], feed)
        said.append(float(out[0, 0]))
    return said


def through_edge(model: Model, audio: Array) -> list[float]:
    model.state.reset()
    said = []
    for window in windows(audio):
        prediction = model.predict(window[:, None])
        assert isinstance(prediction, Classification)
        said.append(prediction.score)
    return said


@pytest.mark.parametrize(("name", "speaks"), [("yes", True), ("no", True), ("silence", False),
                                              ("noise", False)])  # fmt: skip
def test_speech_is_heard_exactly_as_by_the_plain_loop(
    bundle: Bundle, name: str, speaks: bool
) -> None:
    audio = samples(name)
    with Model(bundle) as model:
        said = through_edge(model, audio)
        assert said == plain_loop(audio) and len(said) == 31
        assert (max(said) > 0.9) is speaks and (sum(score > 0.5 for score in said) >= 5) is speaks
        assert through_edge(model, audio) == said, "a reset starts from nothing"


def test_without_its_state_it_hears_something_else(bundle: Bundle) -> None:
    audio = samples("yes")
    with Model(bundle) as model:
        forgetful = []
        for window in windows(audio):
            model.state.reset()
            prediction = model.predict(window[:, None])
            assert isinstance(prediction, Classification)
            forgetful.append(prediction.score)
    assert np.abs(np.array(forgetful) - plain_loop(audio)).max() > 0.1


def test_a_pipeline_carries_it_and_starts_anew_after_a_hole(bundle: Bundle, tmp_path: Path) -> None:
    audio = samples("yes")[: CONTEXT + WINDOW * 18]
    lines = ["audio", *map(repr, audio.tolist())]
    (tmp_path / "whole.csv").write_text("\n".join(lines))
    hole = 1 + CONTEXT + WINDOW * 12
    (tmp_path / "hole.csv").write_text("\n".join([*lines[:hole], "crackle", *lines[hole:]]))
    said, resets = {}, {}
    for name in ("whole", "hole"):
        source = {"type": "csv", "path": str(tmp_path / f"{name}.csv")}
        with Pipeline("ear", bundle=bundle, source=source, rules=[]) as pipeline:
            steps = list(pipeline)
            said[name] = [getattr(step.prediction, "score", None) for step in steps]
            resets[name] = pipeline.telemetry.state_resets
    assert said["whole"] == pytest.approx(plain_loop(audio), abs=1e-6)
    assert said["hole"][:12] == said["whole"][:12]
    assert (resets["whole"], resets["hole"]) == (0, 1)
    rest = audio[WINDOW * 12 + CONTEXT :]
    assert said["hole"][12:] == pytest.approx(plain_loop(rest), abs=1e-6)


@pytest.mark.parametrize(("name", "speaks"), [("no", True), ("silence", False)])
def test_the_file_itself_can_be_the_source(bundle: Bundle, name: str, speaks: bool) -> None:
    need_module("soundfile")
    source = {"type": "wav", "path": str(need_assets() / "audio" / f"{name}.wav")}
    with Pipeline("ear", bundle=bundle, source=source, rules=[]) as pipeline:
        said = [getattr(step.prediction, "score", 0.0) for step in pipeline]
        counts = pipeline.telemetry.source
    assert said == pytest.approx(plain_loop(samples(name)[CONTEXT:]), abs=1e-6)
    assert (max(said) > 0.9) is speaks
    assert counts["used"] == counts["samples"] == 16_000
