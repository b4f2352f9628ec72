"""A recipe: what is to be converted, how it is fed, and what it must keep. RECIPE.md is its format.

`convert.recipe_reader` reads it from a recipe.toml, or from flags.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from convert.original import FORMATS, PRECISIONS
from edge.manifest import (
    Decoder,
    Precision,
    Preprocess,
    Task,
    Thresholds,
    WindowPreprocess,
)
from edge.preprocess import ImagePreprocessor, Preprocessor, WindowPreprocessor
from edge.types import Layout, TensorSpec

RECIPE = "recipe.toml"
VARIANTS = tuple(f"{format}-{precision}" for precision in PRECISIONS for format in FORMATS)
"""In the order in which a device tries them when nobody measured there: the safest first."""
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


class ModelSection(msgspec.Struct, frozen=True, kw_only=True):
    """[model]: what was trained.

    Either a whole model in `file`, or `weights` for the torch module that `factory` of `code`
    makes. `code` also holds the recipe's other functions.
    """

    code: str = ""
    factory: str = "build"
    weights: str = ""
    file: str = ""

    @property
    def trained(self) -> str:
        """The file that training wrote."""
        return self.file or self.weights


class InputSection(msgspec.Struct, frozen=True, kw_only=True):
    """[[input]]: what the trained model takes, float32."""

    name: str
    shape: tuple[int, ...]
    layout: Layout

    @property
    def spec(self) -> TensorSpec:
        """The same as a manifest writes it."""
        return TensorSpec(name=self.name, shape=self.shape, layout=self.layout)


class OutputSection(msgspec.Struct, frozen=True, kw_only=True):
    """[[output]]: the name of one output, in the order in which the model gives them."""

    name: str


class DataSource(msgspec.Struct, frozen=True, kw_only=True):
    """[[data.source]]: what the model was trained or judged on."""

    name: str
    licence: str
    note: str = ""


class DataSection(msgspec.Struct, frozen=True, kw_only=True):
    """[data]: folders of pictures or .npz files that take the place of functions of the code.

    `truth` says what is to be seen in `evaluation`; `files` are patterns of what the code reads,
    so that a change of those counts as a change of the recipe.
    """

    source: tuple[DataSource, ...] = ()
    calibration: str = ""
    evaluation: str = ""
    truth: str = ""
    golden: str = ""
    files: tuple[str, ...] = ()


class CalibrationSection(msgspec.Struct, frozen=True, kw_only=True):
    """[calibration]: how the ranges of activations are found, on how many inputs.

    `percentile` is the share (in %) of the values that a range keeps, for that method alone.
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.99
    samples: int = 128

    def __post_init__(self) -> None:
        if self.samples < 1 or not 50 < self.percentile <= 100:
            raise ValueError("samples must be 1 or more, percentile above 50 and at most 100")


class EvaluationSection(msgspec.Struct, frozen=True, kw_only=True):
    """[evaluation]: on how many inputs the variants are judged."""

    samples: int = 400

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be 1 or more")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant must keep to be shipped.

    `max_error` and `p99_error` bound the parity of every output, relative to its range.
    `agreement` is the smallest share of the original's answers that the variant gives too (and
    1 - `agreement` the largest share of extra boxes), `mean_iou` the smallest mean overlap of those
    boxes, `accuracy_drop` the largest loss on any measured metric.
    """

    max_error: float
    p99_error: float
    agreement: float
    mean_iou: float
    accuracy_drop: float


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """[gate]: bounds by precision, and the metrics of which less is better."""

    fp32: Bounds = Bounds(
        max_error=1e-3, p99_error=1e-3, agreement=0.99, mean_iou=0.95, accuracy_drop=0.005
    )
    fp16: Bounds = Bounds(
        max_error=0.25, p99_error=0.01, agreement=0.98, mean_iou=0.95, accuracy_drop=0.01
    )
    int8_dynamic: Bounds = msgspec.field(
        name="int8-dynamic",
        default=Bounds(
            max_error=float("inf"),
            p99_error=0.05,
            agreement=0.97,
            mean_iou=0.9,
            accuracy_drop=0.015,
        ),
    )
    int8: Bounds = Bounds(
        max_error=float("inf"), p99_error=0.1, agreement=0.95, mean_iou=0.85, accuracy_drop=0.02
    )
    lower_is_better: tuple[str, ...] = ()

    def bounds(self, precision: Precision) -> Bounds:
        """The bounds for one precision."""
        return cast(Bounds, getattr(self, precision.replace("-", "_")))


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A whole recipe.toml, read from `file`; its paths start in that file's folder.

    `input` may be left out where the model's file knows it, `outputs` always. `variants` are those
    that were asked for by name; empty: all, and those that another one dominates are left out.
    """

    file: Path
    name: str
    version: str
    summary: str
    task: Task
    labels: tuple[str, ...]
    model: ModelSection
    input: TensorSpec | None
    outputs: tuple[str, ...]
    preprocess: Preprocess
    decoder: Decoder
    thresholds: Thresholds
    rules: tuple[dict[str, Any], ...]
    calibration: CalibrationSection
    evaluation: EvaluationSection
    data: DataSection
    licences: dict[str, str]
    gate: Gate
    variants: tuple[str, ...]
    runtimes: tuple[str, ...]
    dynamic_batch: bool

    def preprocessor(self, spec: TensorSpec) -> Preprocessor:
        """Edge's own preprocessing into a tensor of this spec."""
        return prepare(self.preprocess, spec)

    @property
    def folder(self) -> Path:
        """Where the recipe lies."""
        return self.file.parent

    @property
    def code(self) -> Path | None:
        """The file of the recipe's functions."""
        return self.folder / self.model.code if self.model.code else None

    def digests(self) -> dict[str, str]:
        """SHA-256 of what the model is made from: recipe.toml, what was trained, all code beside
        it, and what the code reads."""
        paths = [self.file, self.folder / self.model.trained]
        if self.code:
            paths += [self.code, *self.code.parent.glob("*.py")]
        paths += [path for pattern in self.data.files for path in self.folder.glob(pattern)]
        return {
            os.path.relpath(path, self.folder): file_digest(path)
            for path in sorted(set(paths))
            if path.is_file()
        }


def prepare(preprocess: Preprocess, spec: TensorSpec) -> Preprocessor:
    """Edge's preprocessing into a tensor of `spec`, whether or not a variant folds it away.

    Of a spec of uint8 the model normalises by itself, of any other one it does not. BundleError
    when edge could not make this input from frames.
    """
    if isinstance(preprocess, WindowPreprocess):
        return WindowPreprocessor(preprocess, spec)
    folded = spec.dtype == "uint8"
    return ImagePreprocessor(msgspec.structs.replace(preprocess, folded=folded), spec)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
