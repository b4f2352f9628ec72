"""The trained model as it came, and what becomes of it: the seam between importers and the rest.

An importer is one class in one file of `convert.importers`. It runs the model, which makes it the
reference of every variant, and exports it at fp32. Everything after that works on the exported
bytes and does not know from which framework they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from edge.manifest import ImagePreprocess, Precision
from edge.types import Array, TensorSpec

Format = Literal["onnx", "tflite"]
FORMATS: tuple[Format, ...] = ("onnx", "tflite")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model file in memory, with the tensors by which it is run.

    `precision` is fp32 for what an exporter made; a .tflite that was quantised before it came
    keeps its own. A batch of -1 is dynamic. `notes` are what a user should know of the file and
    did not ask for, one line each.
    """

    format: Format
    precision: Precision
    model: bytes
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The variant's name, e.g. onnx-int8."""
        return f"{self.format}-{self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """`fold` puts this normalisation into the graph, which then takes uint8 [1, H, W, C] in the
    order of colours of the camera's preprocessing; `dynamic_batch` leaves the batch open."""

    fold: ImagePreprocess | None = None
    dynamic_batch: bool = False


class Original(Protocol):
    """A trained model. `input` and `outputs` are those of `run`, with a batch of 1.

    `module` is what a recipe's own `predict(module, raw)` is given; `notes` are what was found in
    the file or done to it on the way in, one line each.
    """

    module: Any
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]

    def run(self, tensor: Array) -> dict[str, Array]:
        """Input tensor in the layout and dtype of `input` -> raw outputs by name."""

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """The model in this format at fp32. CannotConvert with the reason when there is no way."""
