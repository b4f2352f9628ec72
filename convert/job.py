"""One conversion: what all of its steps share, and what each of them depends on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import msgspec

from convert import importers
from convert.cache import Cache
from convert.errors import ConversionError
from convert.importers import ModelSource
from convert.inputs import Inputs
from convert.original import Original
from convert.recipe import Recipe
from convert.recipe_code import RecipeCode
from convert.report import Options
from convert.screen import Screen
from edge.errors import BundleError
from edge.manifest import ImagePreprocess


@dataclass(frozen=True, kw_only=True)
class Job:
    """The recipe, how it was asked for, and the original, loaded when something needs it.

    `assumed` is what nobody said of a model file.
    """

    recipe: Recipe
    options: Options
    screen: Screen
    cache: Cache
    assumed: tuple[str, ...] = ()

    @functools.cached_property
    def code(self) -> RecipeCode:
        """The recipe's functions."""
        return RecipeCode(self.recipe)

    @functools.cached_property
    def inputs(self) -> Inputs:
        """What the model is fed with."""
        return Inputs(self.recipe, self.code)

    @functools.cached_property
    def original(self) -> Original:
        """The trained model. ConversionError when it does not fit the recipe."""
        recipe, model = self.recipe, self.recipe.model
        path = recipe.folder / model.trained
        with self.screen.step("loading the model"):
            original = importers.load(
                ModelSource(
                    kind=importers.kind_of(path),
                    path=path,
                    factory=self.code.build if model.weights else None,
                    unsafe_joblib=self.options.unsafe_joblib,
                ),
                input=recipe.input,
                outputs=recipe.outputs,
            )
        try:
            recipe.preprocessor(original.input)
        except BundleError as error:
            raise ConversionError(f"{path}: does not fit [preprocess]: {error}") from error
        return original

    @property
    def fold(self) -> ImagePreprocess | None:
        """The normalisation that goes into the graph, where it is not there already."""
        preprocess = self.recipe.preprocess
        if not isinstance(preprocess, ImagePreprocess) or not preprocess.folded:
            return None
        return None if self.original.input.dtype == "uint8" else preprocess

    @functools.cached_property
    def code_digests(self) -> dict[str, str]:
        """Of what was trained, the code and what it reads; not of recipe.toml, whose keys count
        one by one."""
        digests = self.recipe.digests()
        digests.pop(self.recipe.file.name, None)
        return digests

    @property
    def trained(self) -> Any:
        """What the original depends on."""
        return [self.code_digests, msgspec.to_builtins(self.recipe.input), self.recipe.outputs]

    @property
    def fed(self) -> Any:
        """What the input tensors depend on."""
        preprocess = msgspec.to_builtins(self.recipe.preprocess)
        return [self.code_digests, self.inputs.digests(), preprocess, self.options.seed]
