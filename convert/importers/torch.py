"""PyTorch: the recipe's architecture with its safetensors weights, in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from convert.errors import ConversionError
from convert.recipe import Recipe
from convert.recipe_code import RecipeCode
from edge.types import Array


class TorchModel:
    """The original: what every exported variant is held against."""

    def __init__(self, recipe: Recipe, module: torch.nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)
        self.input = recipe.input.spec
        self.outputs = recipe.outputs
        tried = self.run(np.zeros(recipe.input.shape, np.float32))
        self.output_shapes = {name: value.shape for name, value in tried.items()}

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor float32 in the recipe's layout -> raw outputs by name."""
        with torch.inference_mode():
            try:
                found = self.module(torch.from_numpy(tensor))
            except Exception as error:
                raise ConversionError(f"the model does not take {self.input}: {error}") from error
        return {name: value.numpy() for name, value in name_outputs(found, self.outputs).items()}


class NamedOutputs(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """The same model with its outputs in a dict, by the names of the recipe."""

    def __init__(self, module: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.outputs = outputs

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs by name, handed on by position."""
        return name_outputs(self.module(*inputs.values()), self.outputs)


def load(recipe: Recipe, code: RecipeCode) -> TorchModel:
    """The recipe's model with its weights. ConversionError when they do not fit."""
    path = recipe.folder / recipe.model.weights
    module = code.build()
    if not isinstance(module, torch.nn.Module):
        raise ConversionError(
            f"{recipe.folder / recipe.model.code}: build() gave {type(module).__name__}, not a"
            " torch.nn.Module"
        )
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConversionError(
            f"{path}: does not fit the model that build() makes: {reason}; train it again"
        ) from error
    return TorchModel(recipe, module)


def name_outputs(
    found: torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor],
    names: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """What a module returned (a tensor, several, or a dict) by the names of the recipe."""
    if isinstance(found, torch.Tensor):
        found = (found,)
    if not isinstance(found, Mapping):
        if len(found) != len(names):
            raise ConversionError(
                f"the model gives {len(found)} outputs, recipe.toml lists {len(names)} [[output]]"
            )
        return dict(zip(names, found, strict=True))
    if set(found) != set(names):
        raise ConversionError(
            f"the model gives {', '.join(found)}, recipe.toml lists {', '.join(names)}"
        )
    return {name: found[name] for name in names}
