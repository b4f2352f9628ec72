from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.accelerators import EngineRequest
from edge.bundle import Bundle, write
from edge.engines.host import Hosts
from edge.errors import BundleError, EngineError, FrameError
from edge.model import Model, load
from edge.types import Classification, TensorSpec

WINDOW = np.zeros((100, 6), np.float32)


def test_a_bundle_predicts_in_one_line(wrist_bundle: Path) -> None:
    prediction = load(wrist_bundle).predict(WINDOW)
    assert isinstance(prediction, Classification)
    assert prediction.label in prediction.labels


def test_every_variant_says_nearly_the_same(wrist_bundle: Path) -> None:
    opened = Bundle.open(wrist_bundle)
    scores = []
    for variant in opened.manifest.variants:
        with Model(opened, variant=variant.name) as model:
            prediction = model.predict(WINDOW)
            assert isinstance(prediction, Classification)
            scores.append(prediction.scores)
            assert model.ref.variant == variant.name and model.ref.bundle == opened.identity
            assert variant.name in repr(model) and model.engine in repr(model)
    assert np.ptp(np.stack(scores), axis=0).max() < 0.2


def test_auto_takes_the_first_variant_that_runs_here(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with load(wrist_bundle) as model:
        assert model.engine == "litert:cpu"
    with pytest.raises(EngineError, match=r"onnxruntime is not installed; pip install"):
        load(wrist_bundle, variant="onnx-fp32")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    with pytest.raises(EngineError) as caught:
        load(wrist_bundle)
    assert "no variant runs here" in str(caught.value)
    assert "edgewright[onnx]" in str(caught.value) and "edgewright[tflite]" in str(caught.value)


def test_a_variant_that_is_not_there_is_said(wrist_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no variant 'gpu'; there are onnx-fp32"):
        load(wrist_bundle, variant="gpu")
    with pytest.raises(EngineError, match="accelerator 'npu' is not supported"):
        Model(Bundle.open(wrist_bundle), variant="onnx-fp32", accelerator="npu")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TensorSpec(name="samples", shape=(1, 100, 6), layout="ntc"), "none of that name"),
        (TensorSpec(name="window", shape=(1, 6, 100), layout="ntc"), r"\[1, 100, 6\]"),
        (TensorSpec(name="window", shape=(1, 100, 6), dtype="int8"), "int8"),
    ],
)
@pytest.mark.parametrize("variant", ["onnx-fp32", "tflite-fp32"])
def test_a_model_that_does_not_fit_its_manifest_is_refused(
    wrist_bundle: Path, tmp_path: Path, variant: str, spec: TensorSpec, words: str
) -> None:
    opened = Bundle.open(wrist_bundle)
    lying = msgspec.structs.replace(opened.manifest.variant(variant), inputs=(spec,))
    files = {name: opened.read(name) for name in opened.manifest.files}
    changed = msgspec.structs.replace(opened.manifest, variants=(lying,), golden=())
    bundle = write(tmp_path / "b", changed, files)
    with pytest.raises(BundleError, match=f"does not fit its manifest.*{words}"):
        Model(bundle)


def test_data_that_cannot_be_used_is_a_bad_frame(wrist_bundle: Path) -> None:
    with load(wrist_bundle) as model:
        with pytest.raises(FrameError, match=r"a window here is \[100, 6\], this is \[50, 6\]"):
            model.predict(WINDOW[:50])
        with pytest.raises(FrameError, match="a window holds numbers"):
            model.predict(WINDOW.astype(str))


@pytest.mark.parametrize("variant", ["onnx-fp32", "tflite-fp32"])
def test_outputs_are_there_until_the_call_after_next(wrist_bundle: Path, variant: str) -> None:
    windows = np.random.default_rng(0).normal(0, 5, (4, 1, 100, 6)).astype(np.float32)
    with Model(Bundle.open(wrist_bundle), variant=variant) as model:
        first = model.infer(windows[0])["logits"]
        wanted = first.copy()
        second = model.infer(windows[1])["logits"]
        np.testing.assert_array_equal(first, wanted)
        third = model.infer(windows[2])["logits"]
        assert third is first and third is not second, "and nothing is allocated for them"
        with Model(Bundle.open(wrist_bundle), variant=variant) as other:
            np.testing.assert_array_equal(other.infer(windows[2])["logits"], third)


def test_models_share_the_engine_of_their_hosts(wrist_bundle: Path) -> None:
    hosts, opened = Hosts(), Bundle.open(wrist_bundle)
    one, same, other = (
        hosts.get(opened, opened.manifest.variant(name), engine="onnx", request=EngineRequest())
        for name in ("onnx-fp32", "onnx-fp32", "onnx-int8")
    )
    assert one is same and one is not other
    with Model(opened, hosts=hosts, variant="onnx-fp32") as model:
        model.predict(WINDOW)
    one.infer({"window": WINDOW[None]})
    hosts.close()
    with pytest.raises(EngineError):
        one.infer({"window": WINDOW[None]})
