"""Two small recipes whose weights need no training, and the rule for tests that need torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from needs import missing

from convert import installed
from convert.cli import convert
from edge.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"


def need_converters() -> None:
    """The `convert` extra; see `needs.missing`."""
    try:
        installed.check()
    except ConfigError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def converters() -> None:
    """For tests that need the `convert` extra."""
    need_converters()


@pytest.fixture
def copy_recipe(tmp_path: Path) -> Callable[[str], Path]:
    """A recipe's folder under tmp_path, with weights that are no more than there."""

    def copy(name: str, target: str = "") -> Path:
        folder = tmp_path / (target or name)
        shutil.copytree(RECIPES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "weights.safetensors").touch()
        return folder

    return copy


@pytest.fixture
def trained_recipe(converters: None, copy_recipe: Callable[..., Path]) -> Callable[..., Path]:
    """A recipe's folder under tmp_path, with its weights."""

    def make(name: str, target: str = "") -> Path:
        from safetensors.torch import save_file

        from convert import recipe_reader
        from convert.recipe_code import RecipeCode

        folder = copy_recipe(name, target)
        module = RecipeCode(recipe_reader.load(folder)).build()
        save_file(module.state_dict(), folder / "weights.safetensors")
        return folder

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that another test made is found again."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGE_CACHE_DIR", str(place))
    return place


@pytest.fixture
def run_convert() -> Iterator[Callable[..., Result]]:
    """`edge convert` in this process, on few samples."""

    def run(folder: Path, *arguments: str) -> Result:
        few = ("--samples", "60", "--calibration", "24")
        return CliRunner().invoke(convert, [str(folder), *few, *arguments])

    yield run
