"""Other runtimes that devices have: a variant is held against the original on those too.

tflite-runtime needs numpy 1, which the converters do not live with; it runs in an environment of
its own (`edge convert-env tflite-runtime`), as a process that is given files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert import gate, isolated, on_tflite_runtime
from convert.errors import CannotConvert, ConversionError
from convert.parity import Tally
from convert.recipe import Bounds
from convert.report import Measured
from edge.types import Array

TFLITE_RUNTIME = "tflite-runtime"
DEADLINE_S = 600.0


def parity_there(
    model: bytes, tensors: Sequence[Array], wanted: Sequence[Mapping[str, Array]]
) -> Measured:
    """A .tflite on tflite-runtime against the original's outputs for the same inputs.

    `tensors` are as the variant takes them, `wanted` what the original gives for each. ConfigError
    when the environment is not there, CannotConvert when the model does not run in it.
    """
    found = _run(model, tensors)
    tallies: dict[str, Tally] = {}
    for number, outputs in enumerate(wanted):
        for name, value in outputs.items():
            key = f"{number}/{name}"
            if key not in found:
                raise CannotConvert(f"{TFLITE_RUNTIME}: the model gives no output {name!r}")
            try:
                tallies.setdefault(name, Tally()).add(value, found[key])
            except ValueError as error:
                raise CannotConvert(f"{TFLITE_RUNTIME}: output {name} {error}") from error
    return Measured(parity={name: tally.parity() for name, tally in tallies.items()})


def refusals(
    model: bytes,
    tensors: Sequence[Array],
    wanted: Sequence[Mapping[str, Array]],
    bounds: Bounds,
) -> list[str]:
    """Why a variant that is right on ai-edge-litert must not go to tflite-runtime.

    ConfigError when the environment is not there.
    """
    try:
        measured = parity_there(model, tensors, wanted)
    except CannotConvert as error:
        return [str(error)]
    reasons = gate.refusals(measured, bounds, reference={})
    if reasons and (count := per_channel_dense(model)):
        reasons.append(
            f"{count} FULLY_CONNECTED with a scale per channel, which this runtime computes"
            " wrongly: quantise them per tensor, or take it out of `runtimes`"
        )
    return [f"on {TFLITE_RUNTIME}: {reason}" for reason in reasons]


def per_channel_dense(model: bytes) -> int:
    """How many FULLY_CONNECTED have int8 weights with more than one scale."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=model)
    scales = {
        detail["index"]: len(detail["quantization_parameters"]["scales"])
        for detail in interpreter.get_tensor_details()
    }
    dense = [o for o in interpreter._get_ops_details() if o["op_name"] == "FULLY_CONNECTED"]
    return sum(scales.get(int(operation["inputs"][1]), 0) > 1 for operation in dense)


def _run(model: bytes, tensors: Sequence[Array]) -> dict[str, Array]:
    """Outputs by "number/name"."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(model)
        named: dict[str, Any] = {str(number): tensor for number, tensor in enumerate(tensors)}
        np.savez(folder / "inputs.npz", **named)
        # -I: what lies beside the script must not stand in for the runtime's own packages.
        arguments = ["-I", str(Path(on_tflite_runtime.__file__).resolve())]
        arguments += ["model.tflite", "inputs.npz", "outputs.npz"]
        try:
            isolated.run(TFLITE_RUNTIME, arguments, folder=folder, deadline_s=DEADLINE_S)
        except ConversionError as error:
            raise CannotConvert(f"does not run on {TFLITE_RUNTIME}: {error}") from error
        with np.load(folder / "outputs.npz", allow_pickle=False) as found:
            return dict(found)
