"""Where the error starts: named on nets with one planted fault, and on a file from the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from needs import ROOT, missing, need_module

for package in ("torch", "onnx", "onnxruntime", "litert_torch", "litert_quantizer"):
    need_module(package)

from small_models import Outlier, exported, samples

from convert import onnx_graph
from convert.errors import CannotConvert
from convert.layers import blame
from convert.original import Exported, Format
from convert.quantize import quantize
from edge.types import TensorSpec

pytestmark = pytest.mark.slow
PICTURE = (1, 3, 64, 64)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_the_layer_behind_the_outlier_channel_is_named_first(format: Format) -> None:
    model = exported(Outlier, PICTURE, format)
    tensors = samples(model, 4)
    made = quantize(model, "int8", tensors=tensors)
    worst, *others = blame(model, made, tensors)
    assert worst.op.lower().replace("_", "") in ("conv", "conv2d")
    assert worst.added > 0.2
    assert all(layer.added < 0.1 for layer in others)
    kept = quantize(model, "int8", tensors=tensors, keep_float=frozenset({worst.layer}))
    assert all(layer.added < 0.1 for layer in blame(model, kept, tensors))


def test_a_model_has_nothing_against_itself() -> None:
    model = exported(Outlier, PICTURE, "onnx")
    assert {layer.error for layer in blame(model, model, samples(model, 2))} == {0.0}


def test_a_damaged_weight_is_found_though_all_names_differ() -> None:
    model = exported(Outlier, PICTURE, "onnx")
    proto = onnx_graph.load(model.model)
    weight = next(entry for entry in proto.graph.initializer if len(entry.dims) == 2)
    damaged = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(damaged, weight.name))
    outer = {entry.name for entry in (*proto.graph.input, *proto.graph.output)}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in outer:
                    names[place] = f"other/{name}"
    for entry in (*proto.graph.initializer, *proto.graph.value_info):
        entry.name = f"other/{entry.name}"
    other = replace(model, model=proto.SerializeToString())
    worst, *rest = blame(model, other, samples(model, 2))
    assert worst.op == "Gemm" and worst.added > 0.1
    assert all(layer.error == 0 for layer in rest)
    assert len(rest) > 4


def test_models_of_different_formats_have_no_layers_in_common() -> None:
    model = exported(Outlier, PICTURE, "onnx")
    other = exported(Outlier, PICTURE, "tflite")
    assert blame(model, other, samples(model, 1)) == []


def test_a_damaged_file_is_refused() -> None:
    for format in ("onnx", "tflite"):
        model = exported(Outlier, PICTURE, format)
        damaged = replace(model, model=model.model[: len(model.model) // 3])
        with pytest.raises(CannotConvert):
            blame(model, damaged, samples(model, 1))


def test_the_meter_project_s_quantised_classifier_breaks_at_its_first_normalisation() -> None:
    """99.9 % of the plain digits in float, 90.0 % quantised: the file that devices run."""
    assets = ROOT.parent / "shared/assets"
    if not assets.is_dir():
        pytest.skip("others' models are not part of this project")
    cv2 = pytest.importorskip("cv2")
    spec = TensorSpec(name="x", shape=(1, 32, 20, 3), layout="nhwc")
    models = [
        Exported(
            format="tflite",
            precision=precision,
            model=(assets / f"models/peer_dig-class11_2000_{name}.tflite").read_bytes(),
            input=spec,
            outputs=(),
        )
        for name, precision in (("s2", "fp32"), ("s2_q", "int8"))
    ]
    pictures = sorted(assets.glob("meter_digits/**/*.jpg"))[::60]
    tensors = [
        cv2.resize(cv2.imread(str(path))[..., ::-1], (20, 32)).astype(np.float32)[None]
        for path in pictures
    ]
    if not tensors:
        missing("no photographs of digits")
    worst, *_ = blame(models[0], models[1], tensors)
    assert worst.layer == "functional_1/batch_normalization_1/batchnorm/add_1"
    assert worst.added > 0.2
