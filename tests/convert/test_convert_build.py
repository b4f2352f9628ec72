"""From a recipe to a bundle, with the real converters and both engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from convert.recipe import VARIANTS
from edge import bundle, golden
from edge.bundle import Bundle
from edge.engines.onnx import OnnxEngine
from edge.model import Model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("converters")]

NO_WAY = {"beeps": {"onnx-fp16"}, "lamps": {"onnx-int8-dynamic"}}
"""Too few weights for fp16 to save anything, and nothing that dynamic int8 would speed up."""
Recipes = Callable[..., Path]
Convert = Callable[..., Result]


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["beeps", "lamps"])
def test_what_ships_gives_its_golden_answers(
    name: str, trained_recipe: Recipes, run_convert: Convert
) -> None:
    done = run_convert(trained_recipe(name), "--json", "--keep-dominated")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    absent = {v["name"] for v in report["variants"] if v["absent"]}
    assert absent == NO_WAY[name]
    assert {v["name"] for v in report["variants"] if v["ships"]} == set(VARIANTS) - absent
    made = Bundle.open(report["bundle"])
    assert json.loads(made.read("report.json"))["samples"] == 60
    assert made.identity == report["identity"]
    assert made.manifest.provenance.preprocessing == "verified"
    for variant in made.manifest.variants:
        assert set(variant.accuracy) == set(made.manifest.provenance.reference)
        with Model(made, variant=variant.name) as model:
            results = golden.check(model)
        assert [result.kind for result in results] == ["raw", "raw", "reference", "variant"]
        assert all(result.passed for result in results)


def test_pictures_become_channels_last_for_tflite_alone(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("lamps")
    assert run_convert(folder, "--only", "onnx-fp32", "--only", "tflite-fp32").exit_code == 0
    inputs = {v.name: v.inputs[0] for v in Bundle.open(folder / "bundle").manifest.variants}
    assert (inputs["onnx-fp32"].layout, inputs["onnx-fp32"].shape) == ("nchw", (1, 3, 32, 48))
    assert (inputs["tflite-fp32"].layout, inputs["tflite-fp32"].shape) == ("nhwc", (1, 32, 48, 3))


def test_folded_variants_take_the_picture_s_bytes_and_onnx_leaves_its_batch_open(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("lamps")
    names = ("onnx-fp32", "tflite-int8")
    flags = (word for name in names for word in ("--only", name))
    done = run_convert(folder, "--fold", "--dynamic-batch", *flags)
    assert done.exit_code == 0, done.output
    assert "TFLite has a batch of 1" in done.stderr
    made = Bundle.open(folder / "bundle")
    assert getattr(made.manifest.preprocess, "folded", False)
    for variant in made.manifest.variants:
        (spec,) = variant.inputs
        assert (spec.dtype, spec.layout, spec.shape) == ("uint8", "nhwc", (1, 32, 48, 3))
        with Model(made, variant=variant.name) as model:
            assert all(result.passed for result in golden.check(model))
    engine = OnnxEngine(made.read("variants/onnx-fp32.onnx"))
    assert engine.run({"image": np.zeros((5, 32, 48, 3), np.uint8)})["ltrb"].shape[0] == 5


def test_the_same_recipe_gives_the_same_bundle_wherever_it_lies(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folders = [trained_recipe("lamps", place) for place in ("here", "over-there")]
    made = []
    for folder in folders:
        assert run_convert(folder, "--keep-dominated").exit_code == 0
        made.append(Bundle.open(folder / "bundle"))
    assert made[0].identity == made[1].identity
    for name in made[0].manifest.files:
        data = made[0].read(name)
        assert str(folders[0].parent).encode() not in data, name
        if name.startswith("variants/"):
            assert b"site-packages" not in data and b".py" not in data, name


def test_a_swapped_colour_order_is_refused_in_every_variant_with_the_numbers(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("lamps")
    _change(folder / "model.py", "small[:, :, ::-1].copy()", "small")
    done = run_convert(folder, *("--only", "onnx-fp32", "--only", "tflite-int8"))
    assert done.exit_code == 3
    assert "onnx-fp32 refused: agreement with the original (recall) 0, at least" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("edge: no bundle was written: the gate refused")
    assert "verdict" in done.stdout
    assert not (folder / "bundle").exists()


@pytest.fixture
def badly_calibrated(trained_recipe: Recipes) -> Path:
    """A recipe that calibrates with windows in which next to nothing happens."""
    folder = trained_recipe("beeps")
    _change(
        folder / "model.py", "        yield _window(rng, index % 3)\n\n\ndef evaluation",
        "        yield MEAN + 0.01 * (_window(rng, index % 3) - MEAN)\n\n\ndef evaluation",
    )  # fmt: skip
    return folder


def test_broken_calibration_is_refused_and_the_rest_ships(
    badly_calibrated: Path, run_convert: Convert
) -> None:
    four = ("onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8")
    done = run_convert(badly_calibrated, *(word for name in four for word in ("--only", name)))
    assert done.exit_code == 0
    assert "warning: onnx-int8 refused: logits: 99th percentile of the error" in done.stderr
    assert "warning: tflite-int8 refused: " in done.stderr
    manifest = Bundle.open(badly_calibrated / "bundle").manifest
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32", "tflite-fp32"]
    assert {case.variant for case in manifest.golden} == {"", "onnx-fp32", "tflite-fp32"}
    assert not [name for name in manifest.files if "int8" in name]


def test_strict_writes_nothing_when_one_variant_is_refused(
    badly_calibrated: Path, run_convert: Convert
) -> None:
    done = run_convert(
        badly_calibrated, *("--only", "onnx-fp32", "--only", "onnx-int8", "--strict")
    )
    assert done.exit_code == 3
    assert not (badly_calibrated / "bundle").exists()


def test_without_a_reference_the_preprocessing_is_marked_unverified(
    trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("beeps")
    _change(folder / "model.py", "def predict(", "def _predict(")
    assert run_convert(folder, "--only", "onnx-fp32").exit_code == 0
    manifest = Bundle.open(folder / "bundle").manifest
    assert manifest.provenance.preprocessing == "unverified"


def test_a_model_that_cannot_be_exported_refuses_that_format_alone(
    trained_recipe: Recipes, run_convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litert_torch

    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError("no lowering for this operation")

    monkeypatch.setattr(litert_torch, "convert", fail)
    folder = trained_recipe("beeps")
    done = run_convert(folder)
    assert done.exit_code == 0
    (line,) = [line for line in done.stderr.splitlines() if "tflite-int8 not made" in line]
    assert "no lowering for this operation" in line
    names = {variant.name for variant in Bundle.open(folder / "bundle").manifest.variants}
    assert "onnx-fp32" in names and not [name for name in names if name.startswith("tflite")]


@pytest.fixture
def older(trained_recipe: Recipes, run_convert: Convert) -> Bundle:
    """A bundle that was built before."""
    folder = trained_recipe("beeps")
    assert run_convert(folder, "--only", "onnx-fp32").exit_code == 0
    return Bundle.open(folder / "bundle")


@pytest.mark.parametrize(
    ("mishap", "code", "message"),
    [
        ("__import__('os').kill(__import__('os').getpid(), 2)", 130, "interrupted"),
        ("raise FileNotFoundError('no data here')", 8, "evaluation(): FileNotFoundError: no data"),
    ],
)
def test_an_older_bundle_stays_when_a_build_does_not_finish(
    mishap: str, code: int, message: str, older: Bundle, run_convert: Convert
) -> None:
    folder = older.path.parent
    _change(folder / "model.py", "def evaluation(count, seed):\n",
            f"def evaluation(count, seed):\n    {mishap}\n")  # fmt: skip
    done = run_convert(folder, "--only", "onnx-fp32")
    assert done.exit_code == code
    (line,) = done.stderr.splitlines()
    assert message in line
    assert Bundle.open(older.path).identity == older.identity
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *("bundle", "bundle-report", "model.py", "recipe.toml", "weights.safetensors"),
    }


def test_an_older_bundle_comes_back_when_the_exchange_is_interrupted(
    older: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: older.read(name) for name in older.manifest.files}
    renames: list[Path] = []
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        renames.append(self)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle.write(older.path, older.manifest, files)
    assert Bundle.open(older.path).identity == older.identity
    assert not [path for path in older.path.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"class": index % 3}', '{"klass": 0}', "evaluation() gave a truth without class"),
        ("size=(32, 3)", "size=(31, 3)", "a raw input that edge cannot take: a window here is"),
        ('return {"scores": ', 'return {"score": ', "predict() gave no 'scores'"),
        ("super().__init__()", "raise OSError('no disk')", "build(): OSError: no disk"),
    ],
)
def test_mistakes_in_the_code_of_a_recipe_are_said_in_one_line(
    old: str, new: str, message: str, trained_recipe: Recipes, run_convert: Convert
) -> None:
    folder = trained_recipe("beeps")
    _change(folder / "model.py", old, new)
    done = run_convert(folder, "--only", "onnx-fp32")
    assert done.exit_code == 8
    (line,) = done.stderr.splitlines()
    assert message in line


def test_weights_of_another_model(trained_recipe: Recipes, run_convert: Convert) -> None:
    import shutil

    folder = trained_recipe("beeps")
    shutil.copy(trained_recipe("lamps") / "weights.safetensors", folder)
    done = run_convert(folder)
    assert done.exit_code == 8
    assert "weights.safetensors: does not fit the model that the factory makes" in done.stderr
