"""recipe.toml: what is read, and that every mistake in it is found at once. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert import recipe, recipe_reader
from convert.original import PRECISIONS
from convert.recipe import Bounds, Gate
from edge.errors import ConfigError
from edge.manifest import ImagePreprocess, LogMel, Thresholds, WindowPreprocess


def _change(folder: Path, *changes: tuple[str, str]) -> Path:
    file = folder / "recipe.toml"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return folder


def test_a_recipe_is_read_with_defaults_for_what_it_leaves_out(
    copy_recipe: Callable[[str], Path],
) -> None:
    read = recipe_reader.load(copy_recipe("lamps"))
    assert read.input.shape == (1, 3, 32, 48)
    assert read.outputs == ("ltrb", "scores")
    assert (read.decoder.name, read.decoder.params) == ("ltrb_grid", {"stride": 8})
    assert read.rules == ({"type": "filter", "min_score": 0.6},)
    assert read.model.weights == "weights.safetensors"
    assert read.gate == Gate(lower_is_better=("lamps_missed",))


def test_one_bound_of_the_gate_can_be_changed(copy_recipe: Callable[[str], Path]) -> None:
    folder = _change(copy_recipe("lamps"), ("[gate]", "[gate.int8]\nagreement = 0.9\n[gate]"))
    default = Gate().int8
    assert recipe_reader.load(folder).gate.int8 == Bounds(
        max_error=default.max_error,
        p99_error=default.p99_error,
        agreement=0.9,
        mean_iou=default.mean_iou,
        accuracy_drop=default.accuracy_drop,
    )


def test_all_mistakes_are_reported_together_with_file_and_key(
    copy_recipe: Callable[[str], Path],
) -> None:
    folder = _change(
        copy_recipe("lamps"),
        ('task = "detect"', 'task = "detekt"\nlable = 1'),
        ('["red", "blue"]', '["red", "red"]'),
        ('layout = "nchw"', "layout = 3"),
        ('resize = "letterbox"', 'resize = "squeeze"'),
        ("[decoder]", '[decoder]\nname = "ltrb_grid"\nscores = "logits"'),
        ('type = "filter"', 'type = "filtre"'),
        ('licence = "Apache-2.0"', 'license = "Apache-2.0"'),
        ("[gate]", "[gate]\nbf16 = {}\nint8 = { agrement = 1 }"),
    )
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ConfigError) as caught:
        recipe_reader.load(folder)
    found = caught.value.problems
    assert all(problem.startswith(f"{folder}/recipe.toml: ") for problem in found)
    text = "\n".join(found)
    for key in (
        *("task", "lable", "labels", "model.weights", "input[0].layout", "preprocess.resize"),
        *("decoder.scores", "data.source[0].licence", "data.source[0].license", "gate.bf16"),
        *("rule[0]", "gate.int8.agrement"),
    ):
        assert f"recipe.toml: {key}: " in text, key
    assert "did you mean labels?" in text
    assert "train the model first" in text


def test_an_input_that_does_not_fit_its_preprocessing(copy_recipe: Callable[[str], Path]) -> None:
    folder = _change(copy_recipe("beeps"), ("shape = [1, 32, 3]", "shape = [1, 32, 4]"))
    with pytest.raises(ConfigError, match=r"input\[0\]: does not fit \[preprocess\]"):
        recipe_reader.load(folder)


def test_weights_that_would_have_to_be_unpickled(copy_recipe: Callable[[str], Path]) -> None:
    folder = copy_recipe("beeps")
    (folder / "weights.pkl").touch()
    _change(folder, ("[decoder]", '[model]\nweights = "weights.pkl"\n[decoder]'))
    with pytest.raises(ConfigError, match=r"model\.weights: must be \.safetensors, .* unpickled"):
        recipe_reader.load(folder)


def test_a_folder_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        recipe_reader.load(tmp_path)


def test_the_written_format_names_every_key_and_the_default_bounds() -> None:
    text = (Path(recipe.__file__).parent / "RECIPE.md").read_text()
    structs = (
        *(recipe.ModelSection, recipe.InputSection, recipe.OutputSection, recipe.DataSource),
        *(recipe.CalibrationSection, recipe.EvaluationSection, recipe.DataSection),
        *(ImagePreprocess, WindowPreprocess, Thresholds),
    )
    keys = {key for struct in structs for key in struct.__struct_fields__} - {"source"}
    keys |= {"variants", "runtimes", "dynamic_batch"}
    assert [key for key in sorted(keys) if f"`{key}" not in text] == []
    for key in Bounds.__struct_fields__:
        cells = (f"{getattr(Gate().bounds(precision), key):g}" for precision in PRECISIONS)
        assert f"| `{key}` | {' | '.join(cells)} |" in text


def test_a_whole_model_needs_no_code_and_no_tensors(copy_recipe: Callable[[str], Path]) -> None:
    folder = copy_recipe("beeps")
    (folder / "model.py").unlink()
    (folder / "beeps.onnx").touch()
    (folder / "recipe.toml").write_text(
        """
        name = "beeps"
        version = "1"
        task = "classify"
        labels = "names.txt"
        variants = ["tflite-int8", "onnx-fp32"]
        runtimes = ["tflite-runtime"]
        dynamic_batch = true
        model = { file = "beeps.onnx" }
        calibration = { method = "entropy", samples = 9 }
        data = { calibration = "windows.npz" }
        licence = { weights = "mine" }
        [preprocess]
        kind = "window"
        length = 32
        hop = 16
        rate_hz = 10.0
        channels = ["a", "b"]
        mean = [0.0, 0.0]
        std = [1.0, 1.0]
        """
    )
    (folder / "names.txt").write_text("first\n\nsecond\n")
    (folder / "windows.npz").touch()
    read = recipe_reader.load(folder)
    assert (read.code, read.input, read.outputs) == (None, None, ())
    assert read.labels == ("first", "second")
    assert read.variants == ("onnx-fp32", "tflite-int8")  # the safest first
    assert (read.calibration.method, read.calibration.samples) == ("entropy", 9)
    assert set(read.digests()) == {"recipe.toml", "beeps.onnx"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('variants = ["onnx-int4"]', "variants: 'onnx-int4' is not one of onnx-fp32"),
        ("calibration = { percentile = 40.0 }", "calibration: .* percentile above 50"),
        ("calibration = { method = 'ema' }", "calibration.method: "),
        ('data = { calibration = "nowhere" }', "data.calibration: nowhere: no such folder"),
        ('model = { file = "model.py", weights = "x.pt" }', "model: name a whole model in `file`"),
        ('model = { file = "nowhere.onnx" }', "model.file: nowhere.onnx: no such file"),
    ],
)
def test_what_the_new_keys_refuse(
    change: str, words: str, copy_recipe: Callable[[str], Path]
) -> None:
    folder = _change(copy_recipe("beeps"), ('version = "1.0"', f'version = "1.0"\n{change}'))
    with pytest.raises(ConfigError, match=words):
        recipe_reader.load(folder)


SOUND = """
[preprocess]
kind = "window"
length = 1280
hop = 640
rate_hz = 16000.0
channels = ["sound"]
mean = [0.0]
std = [1.0]
[preprocess.log_mel]
n_fft = 256
hop = 128
n_mels = 8
"""


def test_sound_goes_in_as_log_mel_features(copy_recipe: Callable[[str], Path]) -> None:
    folder = copy_recipe("beeps")
    text = (folder / "recipe.toml").read_text().replace("[1, 32, 3]", "[1, 9, 8]")
    before, _, rest = text.partition("[preprocess]")
    sound = before + SOUND + rest[rest.index("[decoder]") :]
    (folder / "recipe.toml").write_text(sound)
    read = recipe_reader.load(folder)
    assert isinstance(read.preprocess, WindowPreprocess)
    assert read.preprocess.log_mel == LogMel(n_fft=256, hop=128, n_mels=8)
    assert read.preprocessor(read.input)(np.zeros((1280, 1), np.float32))[0].shape == (1, 9, 8)
    (folder / "recipe.toml").write_text(sound.replace("n_mels = 8", "n_mel = 8"))
    with pytest.raises(ConfigError, match=r"preprocess.log_mel.n_mel: unknown key; did you mean"):
        recipe_reader.load(folder)
    (folder / "recipe.toml").write_text(sound.replace("n_mels = 8", "n_mels = 9"))
    with pytest.raises(ConfigError, match="does not fit"):
        recipe_reader.load(folder)


def test_what_the_code_reads_counts_as_the_recipe(copy_recipe: Callable[[str], Path]) -> None:
    folder = copy_recipe("beeps")
    (folder / "rows.csv").write_text("1")
    _change(folder, ("[decoder]", '[data]\nfiles = ["*.csv"]\n[decoder]'))
    before = recipe_reader.load(folder).digests()
    (folder / "rows.csv").write_text("2")
    after = recipe_reader.load(folder).digests()
    assert [name for name in after if before[name] != after[name]] == ["rows.csv"]
