"""recipe.toml: what is read, and that every mistake in it is found at once. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convert import recipe
from convert.recipe import Bounds, Gate
from edge.errors import ConfigError
from edge.manifest import ImagePreprocess, Thresholds, WindowPreprocess


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
    read = recipe.load(copy_recipe("lamps"))
    assert read.input.shape == (1, 3, 32, 48)
    assert read.outputs == ("ltrb", "scores")
    assert (read.decoder.name, read.decoder.params) == ("ltrb_grid", {"stride": 8})
    assert read.rules == ({"type": "filter", "min_score": 0.6},)
    assert read.model.weights == "weights.safetensors"
    assert read.gate == Gate(lower_is_better=("lamps_missed",))


def test_one_bound_of_the_gate_can_be_changed(copy_recipe: Callable[[str], Path]) -> None:
    folder = _change(copy_recipe("lamps"), ("[gate]", "[gate.int8]\nagreement = 0.9\n[gate]"))
    default = Gate().int8
    assert recipe.load(folder).gate.int8 == Bounds(
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
        recipe.load(folder)
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
        recipe.load(folder)


def test_weights_that_would_have_to_be_unpickled(copy_recipe: Callable[[str], Path]) -> None:
    folder = copy_recipe("beeps")
    (folder / "weights.pt").touch()
    _change(folder, ("[decoder]", '[model]\nweights = "weights.pt"\n[decoder]'))
    with pytest.raises(ConfigError, match=r"model\.weights: must be a \.safetensors file"):
        recipe.load(folder)


def test_a_folder_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        recipe.load(tmp_path)


def test_the_written_format_names_every_key_and_the_default_bounds() -> None:
    text = (Path(recipe.__file__).parent / "RECIPE.md").read_text()
    structs = (
        *(recipe.ModelSection, recipe.InputSection, recipe.OutputSection, recipe.DataSource),
        *(ImagePreprocess, WindowPreprocess, Thresholds),
    )
    keys = {key for struct in structs for key in struct.__struct_fields__} - {"folded"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
    for key in Bounds.__struct_fields__:
        fp32, int8 = (getattr(bounds, key) for bounds in (Gate().fp32, Gate().int8))
        assert f"| `{key}` | {fp32:g} | {int8:g} |" in text
