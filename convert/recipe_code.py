"""A recipe's own code: model.py of its folder, where it has one.

Invariant: it is loaded by file location, never through `sys.path`, and what it raises becomes a
ConversionError that names the file and the function.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from convert.errors import ConversionError
from convert.recipe import Recipe
from edge.errors import ConfigError
from edge.types import Array


class RecipeCode:
    """The functions that model.py offers, none of which it must have; RECIPE.md describes them.

    Raw inputs are what edge's sources give: uint8 [H, W, 3] BGR, or float32 [T, C] in physical
    units. A prediction holds `scores` float32 [C] (classify), or `boxes` float32 [N, 4] xyxy in
    source pixels, `scores` float32 [N] and `classes` int64 [N] (detect). A truth holds `class`, or
    `boxes` and `classes`, and whatever the recipe's own metrics need.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._path = recipe.code
        self._module: ModuleType | None = None
        if self._path is not None:
            self._module = _load_module(self._path, f"edgewright_recipe_{recipe.name}")
        if recipe.model.weights and not self.has(recipe.model.factory):
            raise ConfigError(
                f"{self._path}: no function {recipe.model.factory}(), which makes the module that"
                f" {recipe.model.weights} belongs to"
            )
        self._factory = recipe.model.factory

    def has(self, function: str) -> bool:
        """Whether the recipe has this optional function."""
        return callable(getattr(self._module, function, None))

    def build(self) -> Any:
        """The architecture, its weights not loaded."""
        return self._call(self._factory)

    def predict(self, module: Any, raw: Array) -> dict[str, Array]:
        """The reference: raw input -> final prediction in source units."""
        return cast(dict[str, Array], self._call("predict", module, raw))

    def calibration(self, count: int, seed: int) -> Iterator[Array]:
        """Raw inputs to calibrate quantisation with."""
        return self._iterate("calibration", count, seed)

    def evaluation(self, count: int, seed: int) -> Iterator[tuple[Array, dict[str, Any]]]:
        """Raw inputs and their truth."""
        return self._iterate("evaluation", count, seed)

    def golden(self, count: int) -> Iterator[Array]:
        """Raw inputs that are free to redistribute."""
        return self._iterate("golden", count)

    def metrics(
        self, predictions: list[dict[str, Array]], truths: list[dict[str, Any]]
    ) -> dict[str, float]:
        """The recipe's own measures of the task; empty when it has none."""
        if not self.has("metrics"):
            return {}
        found = self._call("metrics", predictions, truths)
        try:
            return {str(name): float(value) for name, value in found.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._failed("metrics", error) from error

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._module, function)(*arguments)
        except Exception as error:
            raise self._failed(function, error) from error

    def _iterate(self, function: str, *arguments: Any) -> Iterator[Any]:
        try:
            yield from getattr(self._module, function)(*arguments)
        except Exception as error:
            raise self._failed(function, error) from error

    def _failed(self, function: str, error: Exception) -> ConversionError:
        return ConversionError(f"{self._path}: {function}(): {type(error).__name__}: {error}")


def _load_module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    # torch.export looks the classes of a model up by the name of their module.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConversionError(f"{path}: {type(error).__name__}: {error}") from error
    return module
