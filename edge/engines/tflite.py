"""LiteRT (ai-edge-litert), or tflite-runtime in its place where that is what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.errors import EngineError
from edge.types import Array, Quantization, TensorSpec


class TfliteEngine:
    """One interpreter on the CPU (XNNPACK where the runtime has it)."""

    def __init__(self, model: bytes, *, accelerator: str = "cpu", threads: int = 1) -> None:
        if accelerator != "cpu":
            raise EngineError(f"tflite: accelerator {accelerator!r} is not supported; use cpu")
        interpreter_class, runtime = _runtime()
        try:
            self._interpreter = interpreter_class(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
            self._inputs, self._outputs = _tensors(self._interpreter)
        except (ValueError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"{runtime}: the model cannot be loaded: {reason}") from error
        self._runtime = runtime
        self.name = f"{runtime}:cpu"
        self.inputs = tuple(_spec(name, detail) for name, detail in self._inputs.items())
        self.outputs = tuple(
            _spec(name, detail, output=True) for name, detail in self._outputs.items()
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named tensors in, named tensors out. EngineError when the runtime fails."""
        interpreter = self._interpreter
        if interpreter is None or inputs.keys() != self._inputs.keys():
            # The interpreter would silently run on what it was given the last time.
            raise EngineError(
                f"{self._runtime}: inference failed: closed, or the inputs are not"
                f" {', '.join(self._inputs)}"
            )
        try:
            for name, value in inputs.items():
                interpreter.set_tensor(self._inputs[name]["index"], value)
            interpreter.invoke()
            return {
                name: interpreter.get_tensor(detail["index"])
                for name, detail in self._outputs.items()
            }
        except (ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"{self._runtime}: inference failed: {reason}") from error

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None


def _runtime() -> tuple[Any, str]:
    """The Interpreter class and the runtime's name: litert first, then tflite-runtime."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "litert"
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError as error:
        raise EngineError(
            "tflite: no runtime is installed; pip install 'edgewright[tflite]'"
        ) from error
    if int(np.__version__.partition(".")[0]) >= 2:
        raise EngineError(
            "tflite: tflite-runtime needs numpy<2; pip install 'numpy<2' in an environment of"
            " its own, or 'edgewright[tflite]' for its successor"
        )
    return Interpreter, "tflite-runtime"


def version() -> str:
    """The runtime's name and version; ImportError without one."""
    for module, distribution in (
        ("ai_edge_litert", "ai-edge-litert"),
        ("tflite_runtime", "tflite-runtime"),
    ):
        if importlib.util.find_spec(module):
            return f"{distribution} {importlib.metadata.version(distribution)}"
    raise ImportError("neither ai-edge-litert nor tflite-runtime is installed")


def _tensors(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Details by name: the names of the signature where there is one, else of the tensors."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return dict(runner.get_input_details()), dict(runner.get_output_details())
    return (
        {detail["name"]: detail for detail in interpreter.get_input_details()},
        {detail["name"]: detail for detail in interpreter.get_output_details()},
    )


def _spec(name: str, detail: Mapping[str, Any], *, output: bool = False) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    if output:
        # The shape of an output that is open before a run is a lie of ones; its signature is not.
        signature = detail.get("shape_signature", shape)
        shape = tuple(
            -1 if int(size) < 0 else side for size, side in zip(signature, shape, strict=True)
        )
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=name,
        shape=shape,
        dtype=np.dtype(detail["dtype"]).name,
        quantization=Quantization(scale=scale, zero_point=zero_point) if scale else None,
    )
