"""Golden cases: known inputs with the answers that a device is held against.

`reference`: an input tensor and the original's outputs. `variant`: the same tensor and the
variant's own outputs on this machine, tight. `raw`: a raw input and the original's prediction,
loose, since resizing differs a little between processors.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from convert.errors import ConversionError
from convert.original import Original
from convert.recipe import Recipe
from edge import golden as device_golden
from edge.manifest import GoldenCase, Task
from edge.model import Model
from edge.types import Array, Prediction

RAW_CASES = 2
RAW_TOLERANCE: dict[Task, dict[str, float]] = {
    "detect": {"iou": 0.8, "score": 0.15},
    "instance": {"iou": 0.8, "score": 0.15},
    "keypoints": {"iou": 0.8, "score": 0.15, "distance": 8.0},
    "oriented": {"iou": 0.8, "score": 0.15, "distance": 8.0},
    "classify": {"score": 0.15},
    "segment": {"share": 0.05},
    "anomaly": {"error": 0.1},
    "depth": {"error": 0.1},
    "regress": {"error": 0.1},
    "embed": {"error": 0.1},
}
# On meter_reader, other kernels differed by 9e-7 (fp32) and 0.021 (int8, whose roundings to steps
# of 1/255 add up): ONNX Runtime unoptimised, LiteRT without XNNPACK, tflite-runtime.
VARIANT_TOLERANCE = {"fp32": 1e-4, "fp16": 0.01, "int8-dynamic": 0.05, "int8": 0.05}
REFERENCE_FLOOR = 1e-3


def make(
    models: Mapping[str, Model],
    original: Original,
    recipe: Recipe,
    answered: Iterable[tuple[Array, Prediction]],
) -> tuple[list[GoldenCase], dict[str, bytes]]:
    """The cases of these models, and the files that they name.

    `answered` are raw inputs with the original's prediction; the first also gives the tensors.
    """
    cases: list[GoldenCase] = []
    files: dict[str, bytes] = {}
    pairs = list(answered)
    if not pairs:
        raise ConversionError(f"{recipe.code or recipe.file}: golden() gave no inputs")
    for index, (raw, prediction) in enumerate(pairs):
        path = f"golden/raw-{index}" + (".png" if raw.dtype == np.uint8 else ".npy")
        files[path] = encode(raw)
        cases.append(
            GoldenCase(
                name=f"raw-{index}",
                kind="raw",
                input=path,
                expected=device_golden.expected_of(prediction),
                tolerance=RAW_TOLERANCE[recipe.task],
            )
        )
    prepare = recipe.preprocessor(original.input)
    wanted = original.run(prepare(pairs[0][0])[0].copy())
    for name, model in models.items():
        tensor = model.preprocess(pairs[0][0])[0].copy()
        spec = model.variant.inputs[0]
        tail = "" if spec.dtype == "float32" else f"-{spec.dtype}"
        path = f"golden/input-{spec.layout}{tail}.npy"
        files[path] = encode(tensor)
        found = model.infer(tensor)
        worst = max(device_golden.range_error(found[output], wanted[output]) for output in wanted)
        kinds: tuple[tuple[Literal["reference", "variant"], dict[str, Array], str, float], ...] = (
            ("reference", wanted, "reference", max(REFERENCE_FLOOR, 2 * worst)),
            ("variant", found, name, VARIANT_TOLERANCE[model.variant.precision]),
        )
        for kind, outputs, owner, tolerance in kinds:
            paths = {output: f"golden/{owner}-{output}.npy" for output in outputs}
            files |= {paths[output]: encode(value) for output, value in outputs.items()}
            cases.append(
                GoldenCase(
                    name=f"{kind}-{name}",
                    kind=kind,
                    input=path,
                    outputs=paths,
                    variant=name,
                    tolerance={"error": float(f"{tolerance:.2g}")},
                )
            )
    return cases, files


def failures(model: Model) -> list[str]:
    """The golden cases that a model of a written bundle misses, with the numbers."""
    return [
        f"golden case {result.case}: "
        + ", ".join(f"{name} {value:.4g}" for name, value in result.measured.items())
        for result in device_golden.check(model)
        if not result.passed
    ]


def encode(array: Array) -> bytes:
    """A picture (uint8 [H, W, 3] BGR) as PNG, anything else as .npy."""
    if array.dtype == np.uint8 and array.ndim == 3:
        import cv2

        return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
