"""ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge.errors import EngineError
from edge.types import Array, TensorSpec

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
    """One session on the CPU execution provider. `threads` 0 leaves the number to `host`."""

    def __init__(self, model: bytes, *, accelerator: str = "cpu", threads: int = 1) -> None:
        if accelerator != "cpu":
            raise EngineError(f"onnx: accelerator {accelerator!r} is not supported; use cpu")
        # An edge package does not phone home; the runtime reads this when it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                "onnx: onnxruntime is not installed; pip install 'edgewright[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads halve the throughput when a core is busy elsewhere (bench/frame.py).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                model, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own making
            raise EngineError(f"onnx: the model cannot be loaded: {_one_line(error)}") from error
        self.name = "onnx:cpu"
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named tensors in, named tensors out. EngineError when the runtime fails."""
        try:
            values = self._session.run(self._output_names, dict(inputs))
        except Exception as error:
            raise EngineError(f"onnx: inference failed: {_one_line(error)}") from error
        return dict(zip(self._output_names, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def version() -> str:
    """The runtime's name and version; ImportError without it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=_DTYPES.get(node.type, node.type))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
