"""Accelerators by name: the options of each, and what it is called in every runtime.

Invariant: this is the one table of them. Nothing here imports a runtime: whether an accelerator is
at hand is for the engine to find out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

AUTO = "auto"
CPU = "cpu"
Policy = Literal["require", "prefer", "any"]


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every accelerator takes: `extra` goes to the runtime under its own names, unchecked."""

    extra: dict[str, str] = {}


class OpenVinoOptions(Options, frozen=True, kw_only=True):
    """`device` as OpenVINO names it (CPU, GPU, NPU); compiled models are kept in `cache_dir`."""

    device: str = "CPU"
    cache_dir: str = ""


class CardOptions(Options, frozen=True, kw_only=True):
    """The number of the card."""

    device_id: int = 0


class GpuOptions(CardOptions, frozen=True, kw_only=True):
    """Also the most memory that may be taken of it (0: the runtime's choice)."""

    memory_mb: int = 0


class TensorRtOptions(CardOptions, frozen=True, kw_only=True):
    """Engines, which take minutes to build, are kept in `cache_dir`."""

    cache_dir: str = ""


class QnnOptions(Options, frozen=True, kw_only=True):
    """The backend's library, and how it trades speed against power."""

    backend: str = "libQnnHtp.so"
    performance: Literal["default", "burst", "balanced", "power_saver"] = "default"


class CoreMlOptions(Options, frozen=True, kw_only=True):
    """The units that may be used."""

    units: Literal["ALL", "CPUAndNeuralEngine", "CPUAndGPU", "CPUOnly"] = "ALL"


class AclOptions(Options, frozen=True, kw_only=True):
    """Whether the Arm Compute Library may trade precision for speed."""

    fast_math: bool = False


class PluginOptions(Options, frozen=True, kw_only=True):
    """An execution provider that comes as a `library`, and the name under which it registers."""

    library: str
    provider: str


class DelegateOptions(Options, frozen=True, kw_only=True):
    """A TFLite delegate that comes as a `library`; `extra` are its options."""

    library: str


class GpuDelegateOptions(DelegateOptions, frozen=True, kw_only=True):
    """TFLite's GPU delegate, built as an external one."""

    library: str = "libtensorflowlite_gpu_delegate.so"


class EdgeTpuOptions(DelegateOptions, frozen=True, kw_only=True):
    """Coral's runtime; `device` as it names them (usb:0, pci:1), else the first."""

    library: str = "libedgetpu.so.1"
    device: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One row of the table: `engines` know it, the preferred one first."""

    options: type[Options]
    engines: tuple[str, ...]
    provider: str = ""
    """What ONNX Runtime calls it."""


TABLE: Mapping[str, Accelerator] = {
    "tensorrt": Accelerator(
        options=TensorRtOptions, engines=("onnx",), provider="TensorrtExecutionProvider"
    ),
    "cuda": Accelerator(options=GpuOptions, engines=("onnx",), provider="CUDAExecutionProvider"),
    "migraphx": Accelerator(
        options=CardOptions, engines=("onnx",), provider="MIGraphXExecutionProvider"
    ),
    "qnn": Accelerator(options=QnnOptions, engines=("onnx",), provider="QNNExecutionProvider"),
    "cann": Accelerator(options=CardOptions, engines=("onnx",), provider="CANNExecutionProvider"),
    "coreml": Accelerator(
        options=CoreMlOptions, engines=("onnx",), provider="CoreMLExecutionProvider"
    ),
    "openvino": Accelerator(
        options=OpenVinoOptions,
        engines=("openvino", "onnx"),
        provider="OpenVINOExecutionProvider",
    ),
    "webgpu": Accelerator(options=Options, engines=("onnx",), provider="WebGpuExecutionProvider"),
    "acl": Accelerator(options=AclOptions, engines=("onnx",), provider="ACLExecutionProvider"),
    "edgetpu": Accelerator(options=EdgeTpuOptions, engines=("tflite",)),
    "gpu": Accelerator(options=GpuDelegateOptions, engines=("tflite",)),
    "xnnpack": Accelerator(
        options=Options, engines=("tflite", "onnx"), provider="XnnpackExecutionProvider"
    ),
    "plugin": Accelerator(options=PluginOptions, engines=("onnx",)),
    "delegate": Accelerator(options=DelegateOptions, engines=("tflite",)),
    CPU: Accelerator(options=Options, engines=("onnx", "tflite"), provider="CPUExecutionProvider"),
}
"""In the order in which "auto" tries them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a runtime is set up, beyond where it runs; `edge tune` finds the fastest.

    `threads` 0: as many as there are cores, at most 4. `spinning`: ONNX Runtime's threads wait
    busily, which is faster alone and halves the throughput when a core is busy elsewhere. `layout`
    says whether ONNX Runtime reorders pictures and weights in blocks (its last level of
    optimisation), `arena` whether it keeps the memory that it once took. `xnnpack`: LiteRT's
    faster kernels. An engine ignores what its runtime does not have.
    """

    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    spinning: bool = False
    layout: Literal["blocked", "plain"] = "blocked"
    arena: bool = True
    xnnpack: bool = True

    def __str__(self) -> str:
        words = [f"{self.threads or 'default'} threads" if self.threads != 1 else "1 thread"]
        words += [name for name in ("spinning",) if self.spinning]
        words += ["plain layout"] if self.layout == "plain" else []
        words += [f"no {name}" for name in ("arena", "xnnpack") if not getattr(self, name)]
        return ", ".join(words)


DEFAULT = Settings()
ONE_THREAD = Settings(threads=1)
"""What an engine is built with unless somebody says otherwise."""

_ON_CORES = (CPU, "xnnpack", "acl")

SHAPE_OPS = frozenset({"Shape", "Size", "Constant", "ConstantOfShape", "Range"})
"""Operators that `require` lets run on the CPU: they reckon with shapes, of which the CPU knows."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Which engine somebody asks for. `options` None: the accelerator's defaults.

    `max_latency_ms` is what one inference may take, 0 for no bound; `slots` how many may be under
    way at once at most, 0 for as many as there are cores for.
    """

    engine: str = AUTO
    accelerator: str = CPU
    options: Options | None = None
    policy: Policy = "prefer"
    settings: Settings = DEFAULT
    slots: int = 0
    max_latency_ms: float = 0.0

    @property
    def on_cores(self) -> bool:
        """Whether it is the cores of this machine that run the model."""
        if isinstance(self.options, OpenVinoOptions):
            return self.options.device == "CPU"
        return self.accelerator in _ON_CORES


def names() -> list[str]:
    """What `accelerator` may be."""
    return [AUTO, *sorted(TABLE)]


def canonical(options: Options | None) -> str:
    """The options as one text that is the same for the same options."""
    return "{}" if options is None else msgspec.json.encode(options, order="sorted").decode()


def decode(accelerator: str, options: str) -> Options:
    """The inverse of `canonical`."""
    kind: Any = TABLE[accelerator].options if accelerator in TABLE else Options
    decoded: Options = msgspec.json.decode(options, type=kind)
    return decoded
