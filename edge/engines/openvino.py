"""OpenVINO, without ONNX Runtime between: often the fastest on x86 boards."""

from __future__ import annotations

import collections
import importlib.metadata
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from edge.accelerators import CPU, OpenVinoOptions, Options
from edge.engines.kept import Outputs
from edge.errors import EngineError
from edge.types import Array, TensorSpec
from edge.wire import Placement

_DTYPES = {"boolean": "bool", "f16": "float16", "f32": "float32", "f64": "float64"}
_SILENT = "bf16"


class OpenVinoEngine:
    """One compiled model and its request. The precision is the variant's: never a silent bf16.

    On one device all nodes run there. What a device that chooses among others (AUTO, HETERO,
    MULTI) does with single nodes is unknown.
    """

    formats: ClassVar[tuple[str, ...]] = ("onnx",)

    def __init__(
        self,
        model: bytes,
        *,
        accelerator: str = CPU,
        options: Options | None = None,
        precision: str = "fp32",
        threads: int = 1,
    ) -> None:
        if accelerator not in (CPU, "openvino"):
            raise EngineError(f"openvino: accelerator {accelerator!r} is not supported; use cpu")
        try:
            import openvino
        except ImportError as error:
            raise EngineError(
                "openvino: it is not installed; pip install 'edgewright[openvino]'"
            ) from error
        chosen = options if isinstance(options, OpenVinoOptions) else OpenVinoOptions()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f16" if precision == "fp16" else "f32",
            **({"INFERENCE_NUM_THREADS": threads} if chosen.device == "CPU" else {}),
            **({"CACHE_DIR": chosen.cache_dir} if chosen.cache_dir else {}),
            **chosen.extra,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model), chosen.device, settings)
            self._request = compiled.create_infer_request()
            self.inputs = tuple(_spec(port) for port in compiled.inputs)
            # A tensor of the graph may have several names: the model's own output is the last one.
            self._outputs = {_output_name(port): port for port in compiled.outputs}
            self.outputs = tuple(_spec(port, name) for name, port in self._outputs.items())
            devices = [str(device) for device in compiled.get_property("EXECUTION_DEVICES")]
            kinds = _kinds(compiled)
        except Exception as error:  # openvino raises RuntimeError and classes of pybind's making
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"openvino: the model cannot be loaded: {reason}") from error
        if kinds[_SILENT] and "INFERENCE_PRECISION_HINT" not in chosen.extra:
            raise EngineError(
                f"openvino: {kinds[_SILENT]} nodes run in bf16, which nobody asked for"
            )
        place = "+".join(device.partition(".")[0].lower() for device in devices)
        self.name = f"openvino:{place or 'unknown'}"
        self.version = version()
        self._kept = Outputs(self.outputs, engine="openvino")
        self.placement = Placement(
            nodes={"openvino": kinds.total()} if len(devices) == 1 and kinds else {}
        )

    def run(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """See seams.Engine."""
        request = self._request
        if request is None or inputs.keys() != {spec.name for spec in self.inputs}:
            raise EngineError(
                "openvino: inference failed: closed, or the inputs are not"
                f" {', '.join(spec.name for spec in self.inputs)}"
            )
        for spec in self.inputs:
            # OpenVINO would convert them without a word.
            value = inputs[spec.name]
            if value.dtype != spec.dtype or not _fits(value.shape, spec.shape):
                raise EngineError(
                    f"openvino: inference failed: {spec} was given {value.dtype}{value.shape}"
                )
        if into:
            self._kept.check(into)
        try:
            request.infer(inputs, share_inputs=True)
            outputs = {}
            for name, port in self._outputs.items():
                given = request.get_tensor(port).data
                if into and name in into:
                    outputs[name] = into[name]
                    np.copyto(outputs[name], given)
                else:
                    outputs[name] = np.array(given)
            return outputs
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"openvino: inference failed: {reason}") from error

    def close(self) -> None:
        """Free the request and the compiled model."""
        self._request = None


def version() -> str:
    """The runtime's name and version; PackageNotFoundError (an ImportError) without it."""
    return f"openvino {importlib.metadata.version('openvino')}"


def available() -> list[str]:
    """The accelerators that it has; ImportError without it."""
    version()
    return ["openvino"]


def _output_name(port: Any) -> str:
    owner = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    names = sorted(port.names)
    return str(owner if owner in names else names[0])


def _kinds(compiled: Any) -> collections.Counter[str]:
    """Executed nodes by the precision in which they run; none where the device doesn't tell."""
    kinds: collections.Counter[str] = collections.Counter()
    try:
        for node in compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "runtimePrecision" in info:
                kinds[str(info["runtimePrecision"].astype(str)).lower()] += 1
    except RuntimeError:  # not every device has a runtime model
        return collections.Counter()
    return kinds


def _spec(port: Any, name: str = "") -> TensorSpec:
    sizes = (-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    dtype = _DTYPES.get(kind, kind.replace("u", "uint", 1) if kind[0] == "u" else kind)
    if kind[0] == "i":
        dtype = kind.replace("i", "int", 1)
    return TensorSpec(name=name or port.get_any_name(), shape=tuple(sizes), dtype=dtype)


def _fits(shape: tuple[int, ...], spec: tuple[int, ...]) -> bool:
    return len(shape) == len(spec) and all(
        wanted in (-1, size) for size, wanted in zip(shape, spec, strict=True)
    )
