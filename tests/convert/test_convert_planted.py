"""The ways in which converted models go wrong in the field, each planted and each refused with the
right diagnosis by the command that a user types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import halves
import numpy as np
import pytest
from click.testing import CliRunner, Result
from needs import missing

from convert import cli
from convert.compare_cli import compare
from edge.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("converters")]

ONNX = tuple(f"onnx-{precision}" for precision in ("fp32", "fp16", "int8-dynamic", "int8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, converters: None) -> Path:
    """A folder with model.onnx, names.txt, pictures/ and noise/."""
    folder = tmp_path_factory.mktemp("halves")
    (folder / "model.onnx").write_bytes(halves.model())
    (folder / "names.txt").write_text("\n".join(halves.LABELS))
    halves.pictures(folder / "pictures")
    halves.noise(folder / "noise")
    return folder


@pytest.fixture
def convert(data: Path, tmp_path: Path) -> Callable[..., Result]:
    """`edge convert model.onnx` on the labelled pictures, ONNX alone; flags given here go first."""

    def run(*flags: str, only: tuple[str, ...] = ONNX) -> Result:
        usual = {
            "--task": "classify",
            "--labels": str(data / "names.txt"),
            "--calibrate": str(data / "pictures"),
            "--evaluate": str(data / "pictures"),
            "--truth": "folder",
            "-o": str(tmp_path / "bundle"),
        }
        given = [part for flag in usual if flag not in flags for part in (flag, usual[flag])]
        given += [part for name in only for part in ("--only", name)]
        return CliRunner().invoke(cli.convert, [str(data / "model.onnx"), *given, *flags])

    return run


@pytest.fixture
def against(data: Path, tmp_path: Path) -> Callable[..., Result]:
    """`edge compare` of model.onnx, or of another file, with a candidate, on the pictures."""

    def run(candidate: bytes, *flags: str, reference: bytes | None = None) -> Result:
        suffix = "onnx" if reference is None else "tflite"
        if reference is None:
            one = data / "model.onnx"
        else:
            one = tmp_path / "reference.tflite"
            one.write_bytes(reference)
        (tmp_path / f"candidate.{suffix}").write_bytes(candidate)
        files = [str(one), str(tmp_path / f"candidate.{suffix}")]
        given = ["--data", str(data / "pictures"), "--classes", ",".join(halves.LABELS), *flags]
        return CliRunner().invoke(compare, [*files, *given])

    return run


def test_the_model_itself_ships_in_every_precision(
    convert: Callable[..., Result], tmp_path: Path
) -> None:
    done = convert()
    assert done.exit_code == 0, done.output
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert {variant.name for variant in manifest.variants} == set(ONNX)
    assert {variant.accuracy["accuracy"] for variant in manifest.variants} == {1.0}


# ---- what the way into the model got wrong


def test_bgr_for_rgb_is_refused_because_the_labels_know_better(
    convert: Callable[..., Result], tmp_path: Path
) -> None:
    done = convert("--color", "bgr")
    assert done.exit_code == 3, done.output
    assert "onnx-fp32 refused: the original gives the labels' answer to 0% only, but color = 'rgb'"
    assert "color = 'rgb' in place of 'bgr' gives 100% agreement" in done.stderr
    assert "mend [preprocess]" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_labels_in_another_order_are_refused_with_what_is_taken_for_what(
    convert: Callable[..., Result], tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped.txt"
    swapped.write_text("\n".join(halves.LABELS[index] for index in (0, 2, 1, 3)))
    done = convert("--labels", str(swapped))
    assert done.exit_code == 3, done.output
    assert "because classes are swapped: 'left-blue' is answered as 'top-red'" in done.stderr
    assert "mend the order of `labels`" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_candidate_with_swapped_classes_is_refused(against: Callable[..., Result]) -> None:
    done = against(halves.model((0, 3, 2, 1)))
    assert done.exit_code == 3, done.output
    assert "labels are swapped: 'top-red' is answered as 'top-blue'" in done.stderr


def test_a_candidate_that_expects_bgr_is_refused(against: Callable[..., Result]) -> None:
    from onnx import helper, numpy_helper

    order = numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order")
    flip = helper.make_node("Gather", ["image", "order"], ["seen"], "flip", axis=1)
    done = against(halves.model(before=[flip], constants=[order]))
    assert done.exit_code == 3, done.output
    assert "with its colours in the other order: the graph expects BGR for RGB" in done.stderr


def test_a_transposed_input_is_refused(against: Callable[..., Result]) -> None:
    from onnx import helper

    turn = helper.make_node("Transpose", ["image"], ["seen"], "turn", perm=[0, 1, 3, 2])
    done = against(halves.model(before=[turn]))
    assert done.exit_code == 3, done.output
    assert "with its height and width exchanged: the input was transposed on the way" in done.stderr


# ---- training mode


def test_a_candidate_in_training_mode_is_refused(against: Callable[..., Result]) -> None:
    from onnx import helper, numpy_helper

    constants = [
        numpy_helper.from_array(np.array(0.3, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    drop = helper.make_node("Dropout", ["image", "ratio", "training"], ["seen"], "drop")
    done = against(halves.model(before=[drop], constants=constants))
    assert done.exit_code == 3, done.output
    assert "exported in training mode; call eval() before the export" in done.stderr


ALWAYS_TRAINING = """
import torch
from torch import nn

class Sleepless(nn.Module):
    def __init__(self):
        super().__init__()
        self.say = nn.Linear(3, 4)

    def forward(self, image):
        return self.say(nn.functional.dropout(image.mean((2, 3)), training=True))

def build():
    return Sleepless()
"""


def test_a_torch_module_that_never_leaves_training_mode_is_not_converted(
    data: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "net.py").write_text(ALWAYS_TRAINING)
    save_file(torch.nn.Linear(3, 4).state_dict(prefix="say."), tmp_path / "net.safetensors")
    done = CliRunner().invoke(
        cli.convert,
        [
            *(str(tmp_path / "net.safetensors"), "--factory", f"{tmp_path}/net.py:build"),
            *("--input", "image:1,3,32,32:nchw", "--outputs", "logits", "--task", "classify"),
            *("--labels", str(data / "names.txt"), "--calibrate", str(data / "pictures")),
            *("-o", str(tmp_path / "bundle")),
        ],
    )
    assert done.exit_code == 8, done.output
    assert "stays in training mode" in done.stderr
    assert not (tmp_path / "bundle").exists()


# ---- quantisation


def test_int8_calibrated_on_noise_is_refused_and_the_others_ship(
    data: Path, convert: Callable[..., Result], tmp_path: Path
) -> None:
    done = convert("--calibrate", str(data / "noise"), "--evaluate", str(data / "pictures"))
    assert done.exit_code == 0, done.output
    assert "onnx-int8 refused: logits: 99th percentile of the error" in done.stderr
    assert "onnx-int8: try: calibrated on data unlike the evaluation's: logits lies in" in (
        done.stderr
    )
    assert "calibrate with real inputs" in done.stderr
    names = {variant.name for variant in Bundle.open(tmp_path / "bundle").manifest.variants}
    assert names == set(ONNX) - {"onnx-int8"}


@pytest.fixture(scope="module")
def tflite(converters: None) -> bytes:
    """The classifier as TFLite at fp32."""
    import torch

    from convert.exporters import tflite as exporter
    from convert.original import ExportOptions
    from edge.types import TensorSpec

    look = torch.nn.Conv2d(3, 6, 16, 16, bias=False)
    look.weight.data = torch.zeros(6, 3, 16, 16)
    for channel in range(6):
        look.weight.data[channel, channel % 3] = 1 / 256
    decide = torch.nn.Linear(24, 4, bias=False)
    wanted = halves.classes().reshape(4, 3, 4)
    decide.weight.data = torch.from_numpy(np.concatenate([wanted] * 2, axis=1).reshape(4, 24)) / 2
    module = torch.nn.Sequential(look, torch.nn.ReLU(), torch.nn.Flatten(), decide).eval()
    spec = TensorSpec(name="image", shape=(1, 3, 32, 32), layout="nchw")
    outputs = (TensorSpec(name="logits", shape=(1, 4)),)
    return exporter.export(module, spec, outputs, ExportOptions()).model


def _dim_then_bright() -> list[np.ndarray]:
    """Calibration inputs [1, 32, 32, 3] RGB in 0..1: those of the night come first."""
    rng = np.random.default_rng(3)
    made = []
    for index in range(24):
        picture = halves.picture(index % 4, rng, (32, 32))[..., ::-1].astype(np.float32) / 255
        made.append(np.ascontiguousarray(picture[None] * (0.25 if index < 12 else 1.0)))
    return made


def _by_the_default_calibrator(model: bytes) -> bytes:
    """Static int8 as litert-quantizer's own examples make it."""
    from litert_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from litert_quantizer.algorithm_manager import AlgorithmName

    operations = qtyping.TFLOperationName
    rules = recipe_manager.RecipeManager()
    rules.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
    for end in (operations.INPUT, operations.OUTPUT):
        rules.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    found = calibrator.Calibrator(model)
    fed = {"serving_default": [{"image": tensor} for tensor in _dim_then_bright()]}
    found.calibrate(fed, rules)
    made = quantizer.Quantizer(model, rules.get_quantization_recipe())
    return bytes(made.quantize(found.get_model_qsvs()).quantized_model)


def test_int8_calibrated_by_a_moving_average_is_refused(
    tflite: bytes, against: Callable[..., Result]
) -> None:
    done = against(_by_the_default_calibrator(tflite), reference=tflite)
    assert done.exit_code == 3, done.output
    assert "logits: cut short, to " in done.stderr
    assert "calibrate by minmax (not a moving average or a percentile)" in done.stderr


def test_the_same_inputs_by_minmax_pass(tflite: bytes, against: Callable[..., Result]) -> None:
    from convert.original import Exported
    from convert.quantize import quantize
    from edge.types import TensorSpec

    exported = Exported(
        format="tflite",
        precision="fp32",
        model=tflite,
        input=TensorSpec(name="image", shape=(1, 32, 32, 3), layout="nhwc"),
        outputs=(TensorSpec(name="logits", shape=(1, 4)),),
    )
    quantized = quantize(exported, "int8", tensors=_dim_then_bright())
    done = against(quantized.model, reference=tflite)
    assert done.exit_code == 0, done.output


@pytest.fixture
def fused(trained_recipe: Callable[..., Path]) -> Path:
    """The recipe of a detector that joins boxes, in pixels, and scores before it takes them apart."""
    folder = trained_recipe("lamps")
    file = folder / "model.py"
    text = file.read_text()
    old = "        return tuple(found.flatten(2).transpose(1, 2) for found in maps)\n"
    assert old in text
    new = (
        "        boxes, scores = (found.flatten(2).transpose(1, 2) for found in maps)\n"
        "        return torch.cat([boxes * 500, scores], 2)\n"
    )
    file.write_text(text.replace(old, new))
    return folder


def test_boxes_and_scores_in_one_int8_tensor_are_refused_when_nobody_keeps_them_apart(
    fused: Path, run_convert: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert import graph

    monkeypatch.setattr(graph, "joined_heads", lambda *_, **__: frozenset())
    done = run_convert(fused, "--only", "onnx-int8")
    assert done.exit_code == 3, done.output
    assert "columns are lost in the scale of the others (boxes and scores in one tensor)" in (
        done.stderr
    )


def test_boxes_and_scores_in_one_tensor_ship_when_they_are_kept_apart(
    fused: Path, run_convert: Callable[..., Result]
) -> None:
    done = run_convert(fused, "--only", "onnx-int8", "--json")
    assert done.exit_code == 0, done.output
    (variant,) = json.loads(done.stdout)["variants"]
    assert variant["verdict"] == "ships"
