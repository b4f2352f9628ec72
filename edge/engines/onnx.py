"""ONNX Runtime, on any of its execution providers."""

from __future__ import annotations

import collections
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from edge import accelerators
from edge.accelerators import CPU, Options
from edge.engines.kept import Outputs
from edge.errors import EngineError
from edge.types import Array, TensorSpec
from edge.wire import Placement

log = logging.getLogger(__name__)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxEngine:
    """One session. `threads` 0 leaves the number to the runtime.

    ONNX Runtime falls back to the CPU without an error, for a provider as for single nodes: the
    provider is held against what the session says that it has, and `placement` is what the session
    recorded while it gave the nodes away.
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
        provider = _provider(accelerator, options)
        onnxruntime = _runtime()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        # Spinning threads halve the throughput when a core is busy elsewhere (bench/frame.py).
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = provider_options(accelerator, options, precision=precision, threads=threads)
        given: dict[str, Any] = {}
        if accelerator == "plugin":
            _register(onnxruntime, settings, options, chosen)
        else:
            _need_provider(onnxruntime, accelerator, provider)
            given["providers"] = [(provider, chosen)]
            if provider == "TensorrtExecutionProvider":
                # What TensorRT leaves should at least stay on the card.
                given["providers"].append(("CUDAExecutionProvider", {}))
            if accelerator != CPU:
                given["providers"].append("CPUExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(
                model, sess_options=settings, enable_fallback=0, **given
            )
        except Exception as error:  # onnxruntime raises classes of its own making
            raise EngineError(f"onnx: the model cannot be loaded: {_one_line(error)}") from error
        found = self._session.get_providers()
        if provider not in found:
            raise EngineError(
                f"onnx: asked for {provider}, ONNX Runtime silently gave {', '.join(found)};"
                " its log says why"
            )
        # From here on a failing provider is an error, not a reason to go on on the CPU.
        self._session.disable_fallback()
        self.version = version()
        self.placement = _placement(self._session, accelerator, provider)
        if self.placement.nodes and accelerator not in self.placement.nodes:
            raise EngineError(f"onnx: {provider} takes no node of this model; all are on the CPU")
        self.name = f"onnx:{_where(accelerator, self.placement)}"
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._kept = Outputs(self.outputs, engine="onnx")
        self._input_names = [spec.name for spec in self.inputs]
        self._bindings: dict[Any, Any] = {}
        self._binds = self.name == f"onnx:{CPU}"

    def run(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        """See seams.Engine."""
        try:
            if into and self._run_bound(inputs, into):
                return into
            values = self._session.run(self._output_names, inputs)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"onnx: inference failed: {_one_line(error)}") from error
        outputs = dict(zip(self._output_names, map(np.asarray, values), strict=True))
        for name, array in (into or {}).items():
            if array.shape == outputs[name].shape:  # else it is not what the graph said
                np.copyto(array, outputs[name])
                outputs[name] = array
        return outputs

    def _run_bound(self, inputs: Mapping[str, Array], into: dict[str, Array]) -> bool:
        """Whether the runtime read the inputs, and wrote the outputs, where they lie."""
        key = self._key(inputs, into)
        binding = self._bindings.get(key) or self._bound(key, inputs, into)
        if binding is None:
            return False
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            # It may be an output that is not what the graph said: a plain run tells.
            log.warning("onnx: outputs are no longer bound: %s", _one_line(error))
            self._binds = False
            self._bindings.clear()
            return False
        return True

    def _key(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> tuple[int, ...]:
        """These very arrays, each in its place; () where one is missing or too many."""
        key = []
        try:
            for name in self._input_names:
                key.append(id(inputs[name]))
            for name in self._output_names:
                key.append(id(into[name]))
        except KeyError:
            return ()
        return tuple(key) if len(key) == len(inputs) + len(into) else ()

    def _bound(
        self, key: tuple[int, ...], inputs: Mapping[str, Array], into: Mapping[str, Array]
    ) -> Any:
        """A binding of these very arrays; None where they cannot be bound."""
        self._kept.check(into)
        if not key or not self._can_bind(inputs, into):
            return None
        binding = self._bindings[key] = self._bind(inputs, into)
        for array in (*inputs.values(), *into.values()):
            # Something else may come to lie at its address.
            weakref.finalize(array, self._bindings.pop, key, None).atexit = False
        return binding

    def _can_bind(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> bool:
        return (
            self._binds
            and all(_lies_right(inputs[spec.name], spec) for spec in self.inputs)
            and all(array.flags.c_contiguous for array in into.values())
        )

    def _bind(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> Any:
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, into)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding

    def close(self) -> None:
        """Free the session."""
        self._bindings.clear()
        self._session = None


def version() -> str:
    """The runtime's name and version; ImportError without it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def available() -> list[str]:
    """The accelerators that this build of the runtime has; ImportError without it."""
    version()
    import onnxruntime

    built_in = onnxruntime.get_available_providers()
    return [name for name, row in accelerators.TABLE.items() if row.provider in built_in]


def provider_options(
    accelerator: str, options: Options | None, *, precision: str, threads: int
) -> dict[str, str]:
    """What the execution provider is given, under its own names. Precision is the variant's."""
    chosen = _OPTIONS[accelerator](options, precision, threads) if accelerator in _OPTIONS else {}
    return {**chosen, **(options.extra if options else {})}


def _openvino(options: Any, precision: str, threads: int) -> dict[str, str]:
    # Left to itself OpenVINO takes bf16 where the processor has it, and counts other detections.
    chosen = {
        "device_type": options.device,
        "precision": "FP16" if precision == "fp16" else "FP32",
        "num_of_threads": str(threads),
    }
    return {**chosen, "cache_dir": options.cache_dir} if options.cache_dir else chosen


def _card(options: Any, precision: str, threads: int) -> dict[str, str]:
    return {"device_id": str(options.device_id)}


def _cuda(options: Any, precision: str, threads: int) -> dict[str, str]:
    # TF32 would be a precision that nobody asked for.
    chosen = {"device_id": str(options.device_id), "use_tf32": "0"}
    if options.memory_mb:
        chosen["gpu_mem_limit"] = str(options.memory_mb << 20)
    return chosen


def _tensorrt(options: Any, precision: str, threads: int) -> dict[str, str]:
    chosen = {
        "device_id": str(options.device_id),
        "trt_fp16_enable": "1" if precision == "fp16" else "0",
        "trt_int8_enable": "1" if precision == "int8" else "0",
    }
    if options.cache_dir:
        chosen |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.cache_dir}
    return chosen


def _qnn(options: Any, precision: str, threads: int) -> dict[str, str]:
    return {
        "backend_path": options.backend,
        "htp_performance_mode": options.performance,
        "enable_htp_fp16_precision": "1" if precision == "fp16" else "0",
    }


def _coreml(options: Any, precision: str, threads: int) -> dict[str, str]:
    return {"MLComputeUnits": options.units, "ModelFormat": "MLProgram"}


def _acl(options: Any, precision: str, threads: int) -> dict[str, str]:
    return {"enable_fast_math": "true" if options.fast_math else "false"}


def _xnnpack(options: Any, precision: str, threads: int) -> dict[str, str]:
    return {"intra_op_num_threads": str(threads)}


_OPTIONS: dict[str, Callable[[Any, str, int], dict[str, str]]] = {
    "openvino": _openvino,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
    "migraphx": _card,
    "cann": _card,
    "qnn": _qnn,
    "coreml": _coreml,
    "acl": _acl,
    "xnnpack": _xnnpack,
}


def _runtime() -> Any:
    # An edge package does not phone home; the runtime reads this when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnx: onnxruntime is not installed; pip install 'edgewright[onnx]'"
        ) from error
    return onnxruntime


def _provider(accelerator: str, options: Options | None) -> str:
    row = accelerators.TABLE.get(accelerator)
    provider = options.provider if accelerator == "plugin" else row and row.provider  # type: ignore[union-attr]
    if not provider:
        raise EngineError(f"onnx: accelerator {accelerator!r} is not supported; use cpu")
    return str(provider)


def _need_provider(onnxruntime: Any, accelerator: str, provider: str) -> None:
    found = onnxruntime.get_available_providers()
    if provider not in found:
        raise EngineError(
            f"onnx: accelerator {accelerator}: this build of onnxruntime has no {provider}; it has"
            f" {', '.join(found)}. Install the build that has it, in an environment of its own"
        )


def _register(onnxruntime: Any, settings: Any, options: Any, chosen: dict[str, str]) -> None:
    """Make a provider out of a library, and give it all of its devices."""
    registered = {device.ep_name for device in onnxruntime.get_ep_devices()}
    try:
        if options.provider not in registered:
            onnxruntime.register_execution_provider_library(options.provider, options.library)
        devices = [
            device for device in onnxruntime.get_ep_devices() if device.ep_name == options.provider
        ]
        if not devices:
            raise EngineError(
                f"onnx: {options.library} registers as {options.provider} and finds no device here"
            )
        settings.add_provider_for_devices(devices, chosen)
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"onnx: {options.library} cannot be used: {_one_line(error)}") from error


def _placement(session: Any, accelerator: str, provider: str) -> Placement:
    """What the session says of its nodes; unknown from a runtime older than 1.24."""
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except Exception:  # it has no such method, or was not told to record
        return Placement()
    nodes: collections.Counter[str] = collections.Counter()
    elsewhere: collections.Counter[str] = collections.Counter()
    for subgraph in subgraphs:
        for node in subgraph.get_nodes():
            nodes[accelerator if subgraph.ep_name == provider else _short(subgraph.ep_name)] += 1
            if subgraph.ep_name != provider:
                elsewhere[node.op_type] += 1
    return Placement(nodes=dict(nodes), elsewhere=dict(elsewhere))


def _short(provider: str) -> str:
    """CUDAExecutionProvider -> cuda."""
    for name, row in accelerators.TABLE.items():
        if row.provider == provider:
            return name
    return provider.removesuffix("ExecutionProvider").lower()


def _where(accelerator: str, placement: Placement) -> str:
    return "+".join([accelerator, *(place for place in placement.nodes if place != accelerator)])


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=_DTYPES.get(node.type, node.type))


def _lies_right(array: Array, spec: TensorSpec) -> bool:
    """Whether the runtime can read an array where it lies."""
    return (
        array.flags.c_contiguous
        and array.dtype == spec.dtype
        and len(array.shape) == len(spec.shape)
        and all(wanted in (-1, size) for size, wanted in zip(array.shape, spec.shape, strict=True))
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
