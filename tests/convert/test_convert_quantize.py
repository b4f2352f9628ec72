"""quantize(): every precision on both formats, what is refused, and the traps it avoids."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import ROOT, missing, need_module

for package in ("torch", "onnx", "onnxruntime", "litert_torch", "litert_quantizer"):
    need_module(package)

import onnx
from small_models import Detector, Outlier, convolutions, dense, error, exported, run, samples

from convert import graph, onnx_graph
from convert.errors import CannotConvert
from convert.original import Exported, Format
from convert.quantize import Calibration, quantize
from convert.quantize.calibration import Histogram
from edge.manifest import ImagePreprocess, Precision
from edge.types import TensorSpec

pytestmark = pytest.mark.slow

FORMATS: tuple[Format, ...] = ("onnx", "tflite")
ROWS, PICTURE = (1, 64), (1, 3, 64, 64)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("precision", "size", "worst"),
    [("fp16", 0.65, 0.001), ("int8-dynamic", 0.45, 0.02), ("int8", 0.5, 0.02)],
)
def test_a_dense_net_shrinks_and_stays_right(
    format: Format, precision: Precision, size: float, worst: float
) -> None:
    model = exported(dense, ROWS, format)
    told: list[int] = []
    made = quantize(
        model,
        precision,
        tensors=samples(model, 16) if precision == "int8" else [],
        advance=lambda: told.append(1),
    )
    assert made.name == f"{format}-{precision}"
    assert len(told) == (16 if precision == "int8" else 0)
    assert len(made.model) < size * len(model.model)
    assert 0 < error(model, made, samples(model, 16)) < worst
    assert run(made, samples(model, 1)[0]).dtype == np.float32


@pytest.mark.parametrize("format", FORMATS)
def test_a_detector_s_boxes_and_scores_stay_apart(
    format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported(Detector, PICTURE, format)
    tensors = samples(model, 8)

    def lost() -> float:
        made = quantize(model, "int8", tensors=tensors, task="detect")
        scores = [(run(model, t)[..., 4:], run(made, t)[..., 4:]) for t in tensors]
        expected, found = (np.stack(values) for values in zip(*scores, strict=True))
        return float(np.abs(expected - found).max() / np.ptp(expected))

    apart = lost()
    monkeypatch.setattr(graph, "joined_heads", lambda *_, **__: frozenset())
    joined = lost()
    assert apart < 0.05
    assert joined > 0.3


@pytest.mark.parametrize("format", FORMATS)
def test_a_layer_that_is_kept_in_float_is_float(format: Format) -> None:
    model = exported(Outlier, PICTURE, format)
    tensors = samples(model, 8)
    read = graph.read(format, model.model)
    (_, outlier, *_) = (op.name for op in read.ops if op.type.lower().startswith("conv"))
    plain = quantize(model, "int8", tensors=tensors)
    kept = quantize(model, "int8", tensors=tensors, keep_float=frozenset({outlier}))
    assert error(model, plain, tensors) > 0.1
    assert error(model, kept, tensors) < 0.02
    assert len(plain.model) < len(kept.model)


def test_a_moving_average_of_the_extremes_would_cut_the_bright_samples_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The calibration that the TFLite library has by default; FACTS: logits short by 40 %."""
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.qtyping import TFLOperationName

    model = exported(dense, ROWS, "tflite")
    bright = samples(model, 4)
    tensors = [bright[-1], *(tensor * np.float32(0.1) for tensor in bright * 8)]
    good = quantize(model, "int8", tensors=tensors)
    rules = recipe_manager.RecipeManager()
    rules.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 8, 8)
    theirs = calibrator.Calibrator(model.model)
    theirs.calibrate({"serving_default": [{"args_0": t} for t in tensors]}, rules)
    averaged = {
        name: (float(found["min"].min()), float(found["max"].max()))
        for name, found in theirs.get_model_qsvs().items()
    }
    monkeypatch.setattr("convert.quantize.tflite.observe", lambda *_: averaged)
    short = quantize(model, "int8", tensors=tensors)
    assert error(model, good, bright) < 0.02
    assert error(model, short, bright) > 0.2


def test_dynamic_int8_is_right_on_tflite_runtime_where_a_scale_a_channel_is_not(
    tmp_path: Path,
) -> None:
    python = os.environ.get(
        "EDGE_TFLITE_RUNTIME_PYTHON", str(ROOT / ".venv-tflite-runtime/bin/python")
    )
    if not Path(python).exists():
        missing("no environment with tflite-runtime; make test-tflite-runtime makes one")
    from litert_quantizer import quantizer, recipe_manager
    from litert_quantizer.qtyping import TFLOperationName

    model = exported(dense, ROWS, "tflite")
    (tensor,) = samples(model, 1)
    rules = recipe_manager.RecipeManager()
    rules.add_dynamic_config(".*", TFLOperationName.ALL_SUPPORTED, 8)
    by_channel = quantizer.Quantizer(model.model, rules.get_quantization_recipe()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    expected = run(model, tensor)
    np.save(tmp_path / "x.npy", tensor)
    script = (
        "import numpy, sys; from tflite_runtime.interpreter import Interpreter\n"
        "i = Interpreter(sys.argv[1]); i.allocate_tensors()\n"
        "i.set_tensor(i.get_input_details()[0]['index'], numpy.load('x.npy')); i.invoke()\n"
        "numpy.save('y.npy', i.get_tensor(i.get_output_details()[0]['index']))\n"
    )

    def lost(content: bytes) -> float:
        (tmp_path / "model.tflite").write_bytes(content)
        command = [python, "-c", script, "model.tflite"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        return float(np.abs(np.load(tmp_path / "y.npy") - expected).max() / np.ptp(expected))

    assert lost(quantize(model, "int8-dynamic", tensors=[]).model) < 0.05
    assert lost(bytes(by_channel.quantized_model)) > 0.2


def test_folded_preprocessing_is_quantised_too() -> None:
    plain = exported(convolutions, PICTURE, "onnx")
    preprocess = ImagePreprocess(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    content, spec = onnx_graph.fold(plain.model, preprocess, plain.input)
    model = replace(plain, model=content, input=spec)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, spec.shape, np.uint8) for _ in range(8)]
    for precision in ("fp16", "int8"):
        made = quantize(model, precision, tensors=pictures)
        assert 0 < error(model, made, pictures) < 0.03


def test_batch_normalisation_is_merged_before_it_could_be_quantised() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[1, 2, 8, 8] x) => (float[1, 2, 8, 8] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, weight)
        y = BatchNormalization(c, scale, shift, mean, variance)
    }
    """
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    values = {"weight": random.standard_normal((2, 2, 3, 3))}
    values |= {"scale": [1.0, 900.0], "shift": [0.0, 1.0]}
    values |= {"mean": [0.0, 0.0], "variance": [1.0, 1e6]}
    for name, value in values.items():
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        )
    spec = TensorSpec(name="x", shape=(1, 2, 8, 8), layout="nchw")
    model = Exported(
        format="onnx",
        precision="fp32",
        model=proto.SerializeToString(),
        input=spec,
        outputs=(),
    )
    tensors = samples(model, 8)
    made = quantize(model, "int8", tensors=tensors)
    ops = [node.op_type for node in onnx.load_from_string(made.model).graph.node]
    assert "BatchNormalization" not in ops and ops.count("Conv") == 1
    assert error(model, made, tensors) < 0.02
    kept = quantize_refusal(model, "int8", keep_float=frozenset({"BatchNormalization:y"}))
    assert kept == "int8: nothing is left to quantise, all layers are kept in float"


def quantize_refusal(model: Exported, precision: Precision, **options: frozenset[str]) -> str:
    with pytest.raises(CannotConvert) as refused:
        quantize(model, precision, tensors=samples(model, 4), **options)
    return str(refused.value)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_quantised_already_is_refused(format: Format) -> None:
    model = exported(convolutions, PICTURE, format)
    made = quantize(model, "int8", tensors=samples(model, 4))
    assert "already int8" in quantize_refusal(made, "fp16")
    for precision in ("fp16", "int8-dynamic", "int8"):
        unknown = replace(made, precision="fp32")  # a file by others, which does not say so
        assert "already quantised" in quantize_refusal(unknown, precision)


def test_what_gains_nothing_is_refused_with_the_reason() -> None:
    model = exported(convolutions, PICTURE, "onnx")
    assert "convolutions would only become slower" in quantize_refusal(model, "int8-dynamic")
    with pytest.raises(CannotConvert, match="needs calibration inputs"):
        quantize(model, "int8", tensors=[])
    text = '<ir_version: 9, opset_import: ["" : 17]> n (float[1, 4] x) => (float[1, 4] y)'
    bare = onnx.parser.parse_model(text + "{ y = Relu(x) }").SerializeToString()
    bare = replace(model, model=bare, input=TensorSpec(name="x", shape=(1, 4)))
    assert "no weights" in quantize_refusal(bare, "fp16")
    assert "no Conv, MatMul" in quantize_refusal(bare, "int8")
    tree = onnx.helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    forest = onnx.load_from_string(bare.model)
    forest.graph.node[0].CopyFrom(tree)
    trees = replace(bare, model=forest.SerializeToString())
    for precision in ("fp16", "int8-dynamic", "int8"):
        assert "a tree ensemble has no weights" in quantize_refusal(trees, precision)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_wild_sample_widens_minmax_alone(format: Format, method: str) -> None:
    model = exported(convolutions, PICTURE, format)
    tensors = samples(model, 12)
    wild = tensors[-1].copy()
    wild.flat[7] = 40.0
    made = {
        way: quantize(model, "int8", tensors=[*tensors, wild], calibration=Calibration(method=way))
        for way in ("minmax", method)
    }
    lost = {
        way: np.mean([np.abs(run(model, t) - run(variant, t)).mean() for t in tensors])
        for way, variant in made.items()
    }
    assert lost[method] < lost["minmax"] / 3


def _range(parts: list[np.ndarray], **how: Any) -> tuple[float, float]:
    histogram = Histogram(Calibration(**how))
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram.range()


def test_ranges_by_the_three_methods() -> None:
    random = np.random.default_rng(0)
    parts = [random.standard_normal(5000) for _ in range(20)]  # grows in both directions
    parts += [np.array([80.0, -np.inf, np.nan])]
    low, high = _range(parts)
    assert -6 < low < -3.5 and high == 80.0
    around = _range(parts, method="percentile", percentile=99.9)
    assert around == pytest.approx((-3.29, 3.29), abs=0.15)
    low, high = _range(parts, method="entropy")
    assert 2 < high < 12


def test_of_a_large_tensor_the_extremes_are_exact_and_the_shape_is_sampled() -> None:
    large = np.linspace(0, 1, 1_000_000)
    large[123_456] = 9.0
    assert _range([large])[1] == 9.0
    assert _range([large], method="percentile", percentile=99)[1] == pytest.approx(0.995, abs=0.01)


def test_a_flat_distribution_keeps_its_whole_range_by_entropy() -> None:
    assert _range([np.linspace(0, 1, 60_000)] * 2, method="entropy")[1] > 0.97
    assert _range([np.array([0.0, 0.1, 0.1, 5.0])], method="entropy") == (0.0, 5.0)
    assert _range([np.full(10, -3.0)]) == (-3.0, 0.0)
