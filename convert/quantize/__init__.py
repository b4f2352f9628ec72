"""An exported model at fp32 -> the same at fp16, dynamic int8 or static int8.

Invariant: inputs and outputs stay as they are (float32, or uint8 where preprocessing is folded),
whatever happens inside; a model that a precision gains nothing from is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from convert.errors import CannotConvert
from convert.original import Exported
from convert.quantize import onnx, tflite
from convert.quantize.calibration import Calibration
from edge.manifest import Precision
from edge.types import Array

__all__ = ["Calibration", "quantize"]

# From how many times different ranges on the parts of a concatenated output stay in float. A part
# that is 4 times smaller keeps 64 of the 256 levels; a detector's scores deserve more.
_APART, _APART_DETECT = 4.0, 2.0
_MINMAX = Calibration()


def quantize(
    exported: Exported,
    precision: Precision,
    *,
    tensors: Sequence[Array],
    calibration: Calibration = _MINMAX,
    keep_float: frozenset[str] = frozenset(),
    task: str = "",
    advance: Callable[[], None] = lambda: None,
) -> Exported:
    """The model at this precision.

    `tensors` are calibration inputs in the layout and dtype of `exported.input`, needed for int8
    alone; `advance` is called after each. `keep_float` names layers that stay in float, as
    `layers.blame` gives them. CannotConvert with the reason when there is no way.
    """
    if exported.precision != "fp32":
        raise CannotConvert(
            f"the model is already {exported.precision}; quantise the one it was made from"
        )
    if precision == "fp32":
        return exported
    route = onnx if exported.format == "onnx" else tflite
    model = exported.model
    match precision:
        case "fp16":
            model = route.fp16(model, keep_float)
        case "int8-dynamic":
            model = route.int8_dynamic(model, keep_float)
        case "int8":
            if not tensors:
                raise CannotConvert("int8 needs calibration inputs, there are none")
            apart = _APART_DETECT if task == "detect" else _APART
            model = route.int8(model, tensors, calibration, keep_float, apart, advance)
    return replace(exported, precision=precision, model=model)
