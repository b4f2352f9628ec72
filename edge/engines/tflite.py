"""LiteRT (ai-edge-litert), or tflite-runtime in its place where that is what is installed."""

from __future__ import annotations

import collections
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edge.accelerators import CPU, DelegateOptions, EdgeTpuOptions, Options
from edge.engines.kept import Outputs
from edge.errors import EngineError
from edge.types import Array, Quantization, TensorSpec
from edge.wire import Placement

_XNNPACK = "xnnpack"
_DELEGATES = ("delegate", "gpu", "edgetpu")


class TfliteEngine:
    """One interpreter: on the CPU (XNNPACK where the runtime has it), or with a delegate.

    A delegate takes the nodes that it likes and leaves the others to XNNPACK and the kernels of
    the runtime; `placement` is counted from the partitions that it made.
    """

    formats: ClassVar[tuple[str, ...]] = ("tflite",)

    def __init__(
        self,
        model: bytes,
        *,
        accelerator: str = CPU,
        options: Options | None = None,
        precision: str = "fp32",
        threads: int = 1,
    ) -> None:
        if accelerator not in (CPU, _XNNPACK, *_DELEGATES):
            raise EngineError(f"tflite: accelerator {accelerator!r} is not supported; use cpu")
        interpreter_class, load_delegate, runtime = _runtime()
        delegates = (
            [_delegate(load_delegate, options, runtime)] if accelerator in _DELEGATES else []
        )
        try:
            self._interpreter = interpreter_class(
                model_content=model, num_threads=threads, experimental_delegates=delegates
            )
            # XNNPACK comes with the allocation: what is delegated before, is the delegate's.
            before = _partitions(self._interpreter)
            self._interpreter.allocate_tensors()
            self._inputs, self._outputs = _tensors(self._interpreter)
            self.placement = _placement(self._interpreter, accelerator, before)
        except (ValueError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"{runtime}: the model cannot be loaded: {reason}") from error
        if accelerator != CPU and accelerator not in self.placement.nodes and self.placement.nodes:
            raise EngineError(f"{runtime}: {accelerator} takes no node of this model")
        self._runtime = runtime
        self.version = version()
        others = [] if accelerator == CPU else [*self.placement.nodes]
        self.name = f"{runtime}:{'+'.join(dict.fromkeys([accelerator, *others]))}"
        self.inputs = tuple(_spec(name, detail) for name, detail in self._inputs.items())
        self.outputs = tuple(
            _spec(name, detail, output=True) for name, detail in self._outputs.items()
        )
        self._kept = Outputs(self.outputs, engine=runtime)

    def run(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """See seams.Engine."""
        interpreter = self._interpreter
        if interpreter is None or inputs.keys() != self._inputs.keys():
            # The interpreter would silently run on what it was given the last time.
            raise EngineError(
                f"{self._runtime}: inference failed: closed, or the inputs are not"
                f" {', '.join(self._inputs)}"
            )
        if into:
            self._kept.check(into)
        try:
            for name, value in inputs.items():
                interpreter.set_tensor(self._inputs[name]["index"], value)
            interpreter.invoke()
            outputs = {}
            for name, detail in self._outputs.items():
                array = into.get(name) if into else None
                # The interpreter does not run while somebody holds a view of a tensor.
                given = interpreter.tensor(detail["index"])()
                if array is not None and array.shape == given.shape:
                    array[...] = given
                    outputs[name] = array
                else:  # also where its shape is not what the graph said
                    outputs[name] = given.copy()
                del given
            return outputs
        except (ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"{self._runtime}: inference failed: {reason}") from error

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None


def _runtime() -> tuple[Any, Any, str]:
    """Interpreter, load_delegate and the runtime's name: litert first, then tflite-runtime."""
    try:
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        return Interpreter, load_delegate, "litert"
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    except ImportError as error:
        raise EngineError(
            "tflite: no runtime is installed; pip install 'edgewright[tflite]'"
        ) from error
    if int(np.__version__.partition(".")[0]) >= 2:
        raise EngineError(
            "tflite: tflite-runtime needs numpy<2; pip install 'numpy<2' in an environment of"
            " its own, or 'edgewright[tflite]' for its successor"
        )
    return Interpreter, load_delegate, "tflite-runtime"


def version() -> str:
    """The runtime's name and version; ImportError without one."""
    for module, distribution in (
        ("ai_edge_litert", "ai-edge-litert"),
        ("tflite_runtime", "tflite-runtime"),
    ):
        if importlib.util.find_spec(module):
            return f"{distribution} {importlib.metadata.version(distribution)}"
    raise ImportError("neither ai-edge-litert nor tflite-runtime is installed")


def available() -> list[str]:
    """The accelerators that need no library of their own; ImportError without a runtime."""
    version()
    return [CPU]


def _delegate(load_delegate: Any, options: Options | None, runtime: str) -> Any:
    if not isinstance(options, DelegateOptions):
        raise EngineError(
            f"{runtime}: a delegate needs accelerator_options.library, the file that it is in"
        )
    device = options.device if isinstance(options, EdgeTpuOptions) else ""
    given = {**({"device": device} if device else {}), **options.extra}
    try:
        return load_delegate(options.library, given)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"{runtime}: {options.library} cannot be used: {reason}") from error


def _operators(interpreter: Any) -> list[dict[str, Any]]:
    """Operators of the graph, then one DELEGATE for each partition. [] from a runtime that has
    no such list."""
    try:
        found: list[dict[str, Any]] = interpreter._get_ops_details()
    except AttributeError:
        return []
    return found


def _partitions(interpreter: Any) -> int:
    return sum(operator["op_name"] == "DELEGATE" for operator in _operators(interpreter))


def _placement(interpreter: Any, accelerator: str, first: int) -> Placement:
    """The `first` partitions are the accelerator's, the others XNNPACK's.

    A partition's operators are those from which its outputs are made, back to its inputs.
    """
    operators = _operators(interpreter)
    graph = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    partitions = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    makers = {int(out): operator for operator in graph for out in operator["outputs"]}
    places: dict[int, str] = {}
    for number, partition in enumerate(partitions):
        place = accelerator if number < first else _XNNPACK
        for index in _inside(partition, makers):
            places[index] = place
    nodes: collections.Counter[str] = collections.Counter()
    elsewhere: collections.Counter[str] = collections.Counter()
    for operator in graph:
        place = places.get(operator["index"], CPU)
        nodes[place] += 1
        if place != accelerator and accelerator != CPU:
            elsewhere[operator["op_name"]] += 1
    return Placement(nodes=dict(nodes), elsewhere=dict(elsewhere))


def _inside(partition: Mapping[str, Any], makers: Mapping[int, Mapping[str, Any]]) -> set[int]:
    given = {int(tensor) for tensor in partition["inputs"]}
    wanted: list[int] = [int(tensor) for tensor in partition["outputs"]]
    found: set[int] = set()
    while wanted:
        tensor = wanted.pop()
        maker = makers.get(tensor)
        if tensor in given or maker is None or maker["index"] in found:
            continue
        found.add(maker["index"])
        inputs: Sequence[int] = maker["inputs"]
        wanted += [int(tensor) for tensor in inputs]
    return found


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
