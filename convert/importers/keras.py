"""Keras 3, with torch under it and without TensorFlow: a Keras model is then a torch module."""

from __future__ import annotations

import os
from typing import Any

import torch

from convert.errors import ConversionError, reason
from convert.importers import ModelSource, need
from convert.importers.torch import TorchModel
from convert.layouts import check_input, guess_layout
from edge.errors import ConfigError
from edge.types import TensorSpec

_EXTRA = "convert-keras"


class _Inference(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """The model as it is called on a device: Keras has a mode of its own beside torch's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tensor: torch.Tensor) -> Any:
        """What the model says, its dropout and batch statistics off."""
        return self.model(tensor, training=False)


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> TorchModel:
    """The model of a .keras file. Code in it (Lambda layers, own classes) is refused."""
    path = source.path
    # Keras reads it when it is imported, and would else look for TensorFlow.
    os.environ["KERAS_BACKEND"] = "torch"
    keras = need("keras", _EXTRA)
    if keras.backend.backend() != "torch":
        raise ConfigError("keras was imported with another backend; set KERAS_BACKEND=torch")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a broken archive fails in many ways
        raise ConversionError(
            f"{path}: not a Keras 3 model that can be opened without running code in it"
            f" ({reason(error)}); build it of Keras' own layers and save it as .keras again"
        ) from error
    spec = check_input(_input(model, input, str(path)), input, str(path))
    if not outputs and len(getattr(model, "outputs", None) or ()) > 1:
        outputs = tuple(model.output_names)
    return TorchModel(model, input=spec, outputs=outputs, where=str(path), called=_Inference(model))


def _input(model: Any, stated: TensorSpec | None, where: str) -> TensorSpec:
    """The one tensor that the model takes, under the stated name: Keras' own says nothing."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        if stated is None:
            raise ConversionError(f"{where}: does not say what it takes; state the input")
        return stated
    if len(inputs) != 1:
        names = ", ".join(found.name for found in inputs)
        raise ConversionError(f"{where}: takes {len(inputs)} inputs ({names}); it must be one")
    (found,) = inputs
    shape = tuple(-1 if size is None else int(size) for size in found.shape)
    return TensorSpec(
        name=found.name if stated is None else stated.name,
        shape=shape,
        dtype=str(found.dtype),
        layout=guess_layout(shape),
    )
