"""PyTorch: a module with its weights, in evaluation mode.

Invariant: the module answers the same input with the same output and keeps no state between runs;
one that does not is refused, since nothing could be held against it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from convert.errors import ConversionError, reason
from convert.importers import ModelSource, kind_of
from convert.original import Exported, ExportOptions, Format
from convert.probe import noise
from edge.types import Array, TensorSpec


class TorchModel:
    """The original, as a torch module; what Keras and .pt2 programs become, too.

    `where` names the file in messages. `outputs` are the names in the order in which the module
    gives them; empty takes them from the module. `called` is what is run and exported where that
    is not the module itself.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        input: TensorSpec,
        outputs: tuple[str, ...],
        where: str,
        called: torch.nn.Module | None = None,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self._called = self.module if called is None else called.eval()
        self.input = input
        self.notes: tuple[str, ...] = ()
        self._where = where
        self._names = outputs
        self._check_weights()
        self.outputs = self._check_steady()

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor in the layout and dtype of `input` -> raw outputs by name."""
        with torch.inference_mode():
            try:
                found = self._called(torch.from_numpy(tensor))
            except Exception as error:
                raise ConversionError(
                    f"{self._where}: the model does not take {self.input}: {reason(error)}"
                ) from error
        try:
            named = name_outputs(found, self._names)
        except ConversionError as error:
            raise ConversionError(f"{self._where}: {error}") from error
        return {name: value.numpy() for name, value in named.items()}

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """By torch's own ONNX exporter, or by litert-torch."""
        if format == "onnx":
            from convert.exporters import onnx

            return onnx.export(self._called, self.input, self.outputs, options)
        from convert.exporters import tflite

        return tflite.export(self._called, self.input, self.outputs, options)

    def _check_weights(self) -> None:
        """Nothing is not a number; no parameter is infinite (a buffer, such as a mask, may be)."""
        parameters = {name for name, _ in self.module.named_parameters()}
        for name, value in self.module.state_dict().items():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            if value.isnan().any() or (name in parameters and value.isinf().any()):
                raise ConversionError(
                    f"{self._where}: {name} holds values that are not finite; train it again"
                )

    def _check_steady(self) -> tuple[TensorSpec, ...]:
        """Run twice on noise; the outputs' specs."""
        for name, module in self.module.named_modules():
            if module.training:
                raise ConversionError(
                    f"{self._where}: {name or type(module).__name__} stays in training mode after"
                    " eval(); what it says then depends on chance or on the batch"
                )
        tensor = noise(self.input)
        before = {name: value.clone() for name, value in self.module.named_buffers()}
        first, second = self.run(tensor), self.run(tensor)
        for name, value in first.items():
            if not np.array_equal(value, second[name], equal_nan=True):
                raise ConversionError(
                    f"{self._where}: two runs on the same input differ in {name}: something in the"
                    " model stays in training mode (dropout?) or draws random numbers"
                )
        for name, value in self.module.named_buffers():
            if name in before and not torch.equal(value, before[name]):
                raise ConversionError(
                    f"{self._where}: running the model changes {name}: a layer stays in training"
                    " mode, or the model keeps a state between runs"
                )
        return tuple(
            TensorSpec(name=name, shape=value.shape, dtype=value.dtype.name)
            for name, value in first.items()
        )


class NamedOutputs(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """The same model with its outputs in a dict, by their names."""

    def __init__(self, module: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.outputs = outputs

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs by name, handed on by position."""
        return name_outputs(self.module(*inputs.values()), self.outputs)


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> TorchModel:
    """What the factory makes, with its weights. ConversionError when they do not fit."""
    path = source.path
    if source.factory is None:
        kind_of(path)  # a TorchScript archive has a way out of its own
        raise ConversionError(
            f"{path}: weights alone; name the code that makes their module (FILE.py:FACTORY)"
        )
    if input is None:
        raise ConversionError(f"{path}: weights do not say what they take; state the input")
    module = source.factory()
    if not isinstance(module, torch.nn.Module):
        raise ConversionError(
            f"{path}: the factory gave {type(module).__name__}, not a torch.nn.Module"
        )
    try:
        module.load_state_dict(_state(source))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"{path}: does not fit the model that the factory makes: {reason(error)};"
            " train it again, or name the right file"
        ) from error
    return TorchModel(module, input=input, outputs=outputs, where=str(path))


def name_outputs(
    found: torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor],
    names: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """What a module returned (a tensor, several, or a dict) by name.

    Without names those of the dict, or output, or output_0, output_1 …
    """
    if isinstance(found, torch.Tensor):
        found = (found,)
    if not isinstance(found, Mapping | tuple | list):
        raise ConversionError(f"the model gives {type(found).__name__}, not tensors")
    if not names:
        if isinstance(found, Mapping):
            names = tuple(found)
        else:
            names = tuple(f"output_{index}" for index in range(len(found)))
            names = ("output",) if len(found) == 1 else names
    if not isinstance(found, Mapping):
        if len(found) != len(names):
            raise ConversionError(
                f"the model gives {len(found)} outputs, {len(names)} are stated: {', '.join(names)}"
            )
        return dict(zip(names, found, strict=True))
    if set(found) != set(names):
        raise ConversionError(f"the model gives {', '.join(found)}, stated are {', '.join(names)}")
    return {name: found[name] for name in names}


def _state(source: ModelSource) -> dict[str, torch.Tensor]:
    """The weights by name; nothing but tensors is unpickled."""
    path = source.path
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        kind = kind_of(path)
        if kind != "torch":
            raise ConversionError(f"{path}: a whole program, which needs no factory")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path}: holds more than a state dict, or is broken. A pickled module can run any"
            " code, so it is not opened; where it was made, save module.state_dict() as"
            " .safetensors"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise ConversionError(f"{path}: cannot be read: {reason(error)}") from error
