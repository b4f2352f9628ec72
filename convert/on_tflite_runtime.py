"""Run by the interpreter of another environment, which has numpy and tflite-runtime alone.

`python -I on_tflite_runtime.py MODEL INPUTS OUTPUTS`: MODEL is a .tflite with one input, INPUTS an
.npz of tensors "0", "1", …; OUTPUTS becomes an .npz of "0/NAME" and so on. Prints the version.
"""

import importlib.metadata
import sys
from typing import Any

import numpy as np


def main(model: str, inputs: str, outputs: str) -> None:
    """Every input through the model, one after the other."""
    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    names = _names(interpreter)
    (given,) = interpreter.get_input_details()
    found = {}
    with np.load(inputs, allow_pickle=False) as tensors:
        for number in tensors.files:
            interpreter.set_tensor(given["index"], tensors[number])
            interpreter.invoke()
            for name, index in names.items():
                found[f"{number}/{name}"] = interpreter.get_tensor(index)
    np.savez(outputs, **found)
    print(importlib.metadata.version("tflite-runtime"))


def _names(interpreter: Any) -> dict[str, int]:
    """Indices of the outputs by the names of the signature, where there is one, as
    edge.engines.tflite takes them. Apart, since a runner that is held keeps the model from running.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return {name: detail["index"] for name, detail in runner.get_output_details().items()}
    return {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}


if __name__ == "__main__":
    main(*sys.argv[1:])
