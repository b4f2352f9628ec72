"""Whether the packages of the `convert` extra are there. Imports none of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from edge.errors import ConfigError

_MODULES = (
    *("torch", "safetensors", "onnx", "onnxscript", "onnxslim", "onnxruntime", "litert_torch"),
    *("litert_quantizer", "ai_edge_litert", "sklearn", "pycocotools", "cv2"),
)
_TOOLS = (
    *("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "litert-torch"),
    *("litert-converter", "keras", "scikit-learn", "skl2onnx", "onnxmltools", "xgboost-cpu"),
    "lightgbm",
    *("litert-quantizer", "ai-edge-litert", "numpy", "opencv-python-headless"),
)


def check() -> None:
    """ConfigError that names what is missing and the extra that brings it."""
    missing = [name for name in _MODULES if not _is_there(name)]
    if missing:
        raise ConfigError(
            f"convert needs {', '.join(missing)}, not installed here;"
            " pip install 'edgewright[convert]'"
        )


def tool_versions() -> dict[str, str]:
    """The versions of the tools that shape a bundle, for its provenance."""
    found: dict[str, str] = {}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
