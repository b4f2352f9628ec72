"""The recipes of other kinds: scikit-learn's pipeline and trees, and a Keras model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import Result
from needs import ROOT, missing, need_module

from edge.bundle import Bundle

pytestmark = pytest.mark.usefixtures("converters")

FASHION = Path("/usr/share/datasets/fashion-mnist")
# recipe -> packages, the original's share of right answers on its evaluation samples, at least
RECIPES = {
    "shuttle_anomaly": (("river", "skops", "skl2onnx"), 0.98),
    "shuttle_trees": (("river", "skops", "skl2onnx"), 0.99),
    "fashion_cnn": (("keras",), 0.86),
}


def _code(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_row_that_is_judged_on_was_trained_on() -> None:
    need_module("river")
    code = _code(ROOT / "models/shuttle_anomaly/model.py")
    readings, _ = code.rows()
    training, test = code.split()
    assert sorted([*training, *test]) == list(range(len(readings)))
    known = {row.tobytes() for row in readings[training]}
    assert not known & {row.tobytes() for row in readings[test]}
    judged = [raw for raw, _ in code.evaluation(200, 0)]
    assert {raw.shape for raw in judged} == {(1, 9)}
    assert not known & {raw.tobytes() for raw in judged}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_converts_and_what_ships_is_as_good_as_the_original(
    name: str, run_convert: Callable[..., Result], tmp_path: Path
) -> None:
    packages, least = RECIPES[name]
    for package in packages:
        need_module(package)
    if name == "fashion_cnn" and not FASHION.is_dir():
        missing("dataset-fashion-mnist is not installed")
    few = ("--samples", "200", "--keep-dominated", "--json")
    done = run_convert(ROOT / "models" / name, "-o", str(tmp_path / "bundle"), *few)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["reference"]["accuracy"] >= least
    shipped = {variant.name for variant in Bundle.open(report["bundle"]).manifest.variants}
    assert shipped >= {"onnx-fp32", "tflite-fp32"}
