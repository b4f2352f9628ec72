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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("converters"),
]

Recipes = Callable[..., Path]
Convert = Callable[..., Result]
ONNX = tuple(f"onnx-{precision}" for precision in ("fp32", "fp16", "int8-dynamic", "int8"))


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


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
def convert(data: Path, tmp_path: Path) -> Convert:
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
def against(data: Path, tmp_path: Path) -> Convert:
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


def test_the_model_itself_ships_in_every_precision(convert: Convert, tmp_path: Path) -> None:
    done = convert()
    assert done.exit_code == 0, done.output
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert {variant.name for variant in manifest.variants} == set(ONNX)
    assert {variant.accuracy["accuracy"] for variant in manifest.variants} == {1.0}


# ---- what the way into the model got wrong


def test_bgr_for_rgb_is_refused_because_the_labels_know_better(
    convert: Convert, tmp_path: Path
) -> None:
    done = convert("--color", "bgr")
    assert done.exit_code == 3, done.output
    assert "onnx-fp32 refused: the original gives the labels' answer to 0% only, but color = 'rgb'"
    assert "color = 'rgb' in place of 'bgr' gives 100% agreement" in done.stderr
    assert "mend [preprocess]" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_labels_in_another_order_are_refused_with_what_is_taken_for_what(
    convert: Convert, tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped.txt"
    swapped.write_text("\n".join(halves.LABELS[index] for index in (0, 2, 1, 3)))
    done = convert("--labels", str(swapped))
    assert done.exit_code == 3, done.output
    assert "because classes are swapped: 'left-blue' is answered as 'top-red'" in done.stderr
    assert "mend the order of `labels`" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_candidate_with_swapped_classes_is_refused(against: Convert) -> None:
    done = against(halves.model((0, 3, 2, 1)))
    assert done.exit_code == 3, done.output
    assert "labels are swapped: 'top-red' is answered as 'top-blue'" in done.stderr


def test_a_candidate_that_expects_bgr_is_refused(against: Convert) -> None:
    from onnx import helper, numpy_helper

    order = numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order")
    flip = helper.make_node("Gather", ["image", "order"], ["seen"], "flip", axis=1)
    done = against(halves.model(before=[flip], constants=[order]))
    assert done.exit_code == 3, done.output
    assert "with its colours in the other order: the graph expects BGR for RGB" in done.stderr


def test_a_transposed_input_is_refused(against: Convert) -> None:
    from onnx import helper

    turn = helper.make_node("Transpose", ["image"], ["seen"], "turn", perm=[0, 1, 3, 2])
    done = against(halves.model(before=[turn]))
    assert done.exit_code == 3, done.output
    assert "with its height and width exchanged: the input was transposed on the way" in done.stderr


# ---- training mode


def test_a_candidate_in_training_mode_is_refused(against: Convert) -> None:
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
    data: Path, convert: Convert, tmp_path: Path
) -> None:
    done = convert("--calibrate", str(data / "noise"), "--evaluate", str(data / "pictures"))
    assert done.exit_code == 0, done.output
    assert "onnx-int8 refused: logits: 99th percentile of the error" in done.stderr
    assert "onnx-int8: calibrated on data unlike the evaluation's: logits lies in" in (done.stderr)
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


def test_int8_calibrated_by_a_moving_average_is_refused(tflite: bytes, against: Convert) -> None:
    done = against(_by_the_default_calibrator(tflite), reference=tflite)
    assert done.exit_code == 3, done.output
    assert "logits: cut short, to " in done.stderr
    assert "calibrate by minmax (not a moving average or a percentile)" in done.stderr


def test_the_same_inputs_by_minmax_pass(tflite: bytes, against: Convert) -> None:
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


FUSED = (
    "        boxes, scores = (found.flatten(2).transpose(1, 2) for found in maps)\n"
    "        fused = torch.cat([boxes * 5000, scores], 2)\n"
)
ONE_OUTPUT = FUSED + "        return fused\n"
TAKEN_APART = FUSED + "        return fused[:, :, :4] / 5000, fused[:, :, 4:]\n"


def _fuse(file: Path, end: str) -> None:
    """Join boxes, in large units, and scores at the end of the recipe `lamps`."""
    _change(file, "        return tuple(found.flatten(2).transpose(1, 2) for found in maps)\n", end)


def _keep_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from convert import graph

    monkeypatch.setattr(graph, "joined_heads", lambda *_, **__: frozenset())


def test_boxes_and_scores_in_one_int8_tensor_are_refused_when_nobody_keeps_them_apart(
    trained_recipe: Recipes, run_convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained_recipe("lamps")
    _fuse(folder / "model.py", TAKEN_APART)
    _keep_nothing_apart(monkeypatch)
    done = run_convert(folder, "--only", "onnx-int8")
    assert done.exit_code == 3, done.output
    assert "onnx-int8 refused: agreement with the original (recall) 0" in done.stderr
    assert "onnx-int8: scores: became a constant" in done.stderr
    assert "onnx-int8: the error starts in node_cat (Concat" in done.stderr


def test_boxes_and_scores_in_one_tensor_ship_when_they_are_kept_apart(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("lamps")
    _fuse(folder / "model.py", TAKEN_APART)
    done = run_convert(folder, "--only", "onnx-int8", "--json")
    assert done.exit_code == 0, done.output
    (variant,) = json.loads(done.stdout)["variants"]
    assert variant["verdict"] == "ships"


def test_somebody_elses_int8_detector_with_one_output_is_refused_and_told_why(
    trained_recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    from convert import recipe_reader
    from convert.exporters import onnx as exporter
    from convert.original import ExportOptions
    from convert.quantize import quantize
    from convert.recipe_code import RecipeCode
    from edge.types import TensorSpec

    folder = trained_recipe("lamps")
    _fuse(folder / "model.py", ONE_OUTPUT)
    recipe = recipe_reader.load(folder)
    code = RecipeCode(recipe)
    assert recipe.input is not None
    outputs = (TensorSpec(name="found", shape=(1, 24, 6)),)
    exported = exporter.export(code.build().eval(), recipe.input, outputs, ExportOptions())
    prepare = recipe.preprocessor(recipe.input)
    tensors = []
    (tmp_path / "data").mkdir()
    for index, raw in enumerate(code.calibration(16, 0)):
        cv2.imwrite(str(tmp_path / "data" / f"{index}.png"), raw)
        tensors.append(prepare(raw)[0].copy())
    _keep_nothing_apart(monkeypatch)
    (tmp_path / "theirs.onnx").write_bytes(quantize(exported, "int8", tensors=tensors).model)
    (tmp_path / "float.onnx").write_bytes(exported.model)
    files = [str(tmp_path / name) for name in ("float.onnx", "theirs.onnx")]
    done = CliRunner().invoke(
        compare, [*files, "--data", str(tmp_path / "data"), "--task", "tensors"]
    )
    assert done.exit_code == 3, done.output
    assert (
        "refused: found: 2 of 6 columns are wrong by more than 30% of what they span" in done.stderr
    )
    assert "found: 2 of 6 columns are lost in the scale of the others (boxes and scores in one" in (
        done.stderr
    )


# ---- other runtimes, other batches, other converters


def test_a_scale_per_channel_is_refused_on_tflite_runtime_alone(
    tflite_mlp: Path, run_convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litert_quantizer import qtyping, recipe_manager

    from convert import isolated
    from convert.quantize import tflite as route
    from edge.errors import ConfigError

    try:
        isolated.find("tflite-runtime")
    except ConfigError as error:
        missing(str(error))

    def per_channel(model: bytes, keep_float: frozenset[str]) -> bytes:
        rules = recipe_manager.RecipeManager()
        rules.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8)
        return route._apply(model, rules, None, "int8-dynamic")

    only = ("--only", "tflite-int8-dynamic")
    assert run_convert(tflite_mlp, *only).exit_code == 0, "as it is made here it is right there"
    monkeypatch.setattr(route, "int8_dynamic", per_channel)
    done = run_convert(tflite_mlp, *only, "--no-cache")
    assert done.exit_code == 3, done.output
    assert "tflite-int8-dynamic refused: on tflite-runtime: " in done.stderr
    assert "FULLY_CONNECTED with a scale per channel, which this runtime computes" in done.stderr
    _change(tflite_mlp / "recipe.toml", 'runtimes = ["ai-edge-litert", "tflite-runtime"]\n', "")
    assert run_convert(tflite_mlp, *only, "--no-cache").exit_code == 0, "LiteRT has it right"


@pytest.fixture
def tflite_mlp(trained_recipe: Recipes) -> Path:
    """The recipe `beeps` with a fully connected layer that is wide enough, for old boards too."""
    folder = trained_recipe("beeps")
    _change(folder / "recipe.toml", 'task = "classify"\n',
            'task = "classify"\nruntimes = ["ai-edge-litert", "tflite-runtime"]\n')  # fmt: skip
    return folder


def test_a_tflite_keeps_its_batch_of_one_and_says_so(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("beeps")
    only = ("--only", "onnx-fp32", "--only", "tflite-fp32", "--dynamic-batch")
    done = run_convert(folder, *only)
    assert done.exit_code == 0, done.output
    assert "edge: note: TFLite has a batch of 1: a dynamic batch is not safe there" in done.stderr
    variants = Bundle.open(folder / "bundle").manifest.variants
    batches = {variant.name: variant.inputs[0].shape[0] for variant in variants}
    assert batches == {"onnx-fp32": -1, "tflite-fp32": 1}


def test_what_onnx2tf_made_and_nobody_can_load_is_not_made_and_the_onnx_ships(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert import isolated

    def run(name: str, arguments: Any, *, folder: Path, deadline_s: float) -> str:
        """onnx2tf ends well, and leaves a file."""
        (folder / "out").mkdir()
        (folder / "out" / "model_float32.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 64)
        return ""

    monkeypatch.setattr(isolated, "run", run)
    done = convert(only=("onnx-fp32", "tflite-fp32"))
    assert done.exit_code == 0, done.output
    assert "tflite-fp32 not made: onnx2tf made a file that does not run" in done.stderr
    names = [variant.name for variant in Bundle.open(tmp_path / "bundle").manifest.variants]
    assert names == ["onnx-fp32"]
