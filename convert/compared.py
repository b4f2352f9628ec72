"""One of the two files of a comparison: how it is fed, and what its outputs mean."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from convert.layouts import to_layout
from convert.model_file import ModelFile
from convert.recipe import prepare
from edge import seams
from edge.errors import ConfigError, FrameError
from edge.manifest import ImagePreprocess, Variant
from edge.types import Array, Classification, Geometry, Prediction, TensorSpec

Task = Literal["classify", "detect", "tensors"]
MIN_SCORE = 0.5
PREPROCESS = ImagePreprocess(resize="stretch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How the two files are to be compared.

    `output` names the scores of a classifier; where it is empty the only output [1, C] is taken.
    `labels` name its classes in their order; by default they are numbers from 0.
    `decoder` and `params` are one of edge's decoders, for detect.
    """

    task: Task = "classify"
    preprocess: ImagePreprocess = PREPROCESS
    output: str = ""
    labels: tuple[str, ...] = ()
    decoder: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    keep: int = 4


def classes(file: ModelFile, question: Question) -> tuple[str, ...]:
    """The labels that a classifier's outputs have without others: numbers from 0."""
    if question.task != "classify":
        return ()
    output = _scores(file, question)
    return tuple(str(index) for index in range(output.shape[-1]))


class Side:
    """A model file with what it answered."""

    def __init__(self, file: ModelFile, question: Question) -> None:
        self.file = file
        self._preprocess = question.preprocess
        self._prepare: Callable[[Array], Any] | None = None
        self.decode = _decoder(file, question)
        self.predictions: list[Prediction] = []
        self.seconds: list[float] = []

    def tensor(self, raw: Array, source: TensorSpec) -> tuple[Array, Geometry | None]:
        """A picture as this file takes it; an array (in the layout of `source`) as it is."""
        if raw.dtype == np.uint8 and raw.ndim == 3 and self.file.input.layout != "other":
            if self._prepare is None:
                self._prepare = _preparation(self._preprocess, self.file.input)
            tensor, geometry = self._prepare(raw)
            return tensor, geometry
        spec = self.file.input
        array = raw if raw.ndim == len(spec.shape) else raw[None]
        array = to_layout(array, source, spec) if array.ndim == 4 else array
        if array.shape != spec.shape:
            raise FrameError(f"an array here is {list(spec.shape[1:])}, not {list(raw.shape)}")
        return array.astype(spec.dtype, copy=False), None

    def run(self, tensor: Array) -> dict[str, Array]:
        """The outputs by name; how long it took is kept."""
        started = time.perf_counter()
        outputs = self.file.run(tensor)
        self.seconds.append(time.perf_counter() - started)
        return outputs

    def about(self) -> dict[str, Any]:
        """What a report says of the file."""
        file = self.file
        return {
            "file": file.path.name,
            "format": file.format,
            "precision": file.precision,
            "engine": file.engine,
            "size": len(file.model),
            "input": str(file.input),
            "latency_s": statistics.median(self.seconds),
        }


def _preparation(preprocess: ImagePreprocess, spec: TensorSpec) -> Callable[[Array], Any]:
    """Edge's preprocessing for a file's input; a quantised one takes the pixels as they are."""
    if spec.dtype not in ("float32", "uint8", "int8"):
        raise ConfigError(f"input {spec}: pictures can be given as float32, uint8 or int8 only")
    stored = msgspec.structs.replace(spec, dtype="uint8") if spec.dtype == "int8" else spec
    channels = spec.shape[3] if spec.layout == "nhwc" else spec.shape[1]
    if channels == 1:
        preprocess = msgspec.structs.replace(
            preprocess, color="gray", mean=preprocess.mean[:1], std=preprocess.std[:1]
        )
    maker = prepare(preprocess, stored)
    if spec.dtype != "int8":
        return maker

    def shifted(raw: Array) -> Any:
        tensor, geometry = maker(raw)
        return (tensor.astype(np.int16) - 128).astype(np.int8), geometry

    return shifted


def _decoder(
    file: ModelFile, question: Question
) -> Callable[[dict[str, Array], Geometry | None], Prediction] | None:
    if question.task == "tensors":
        return None
    if question.task == "detect":
        return _of_detector(file, question)
    output = _scores(file, question)
    name, labels = output.name, _labels(file, question, output.shape[-1])

    def decode(outputs: dict[str, Array], geometry: Geometry | None) -> Prediction:
        scores = outputs[name].reshape(-1).astype(np.float32)
        if not np.isfinite(scores).all():
            raise FrameError("the model's output is not finite")
        return Classification(scores, labels)

    return decode


def _scores(file: ModelFile, question: Question) -> TensorSpec:
    """The output of a classifier that holds its scores."""
    outputs: dict[str, TensorSpec] = {spec.name: spec for spec in file.outputs}
    flat = [name for name, spec in outputs.items() if len(spec.shape) == 2]
    name = question.output if question.output in outputs else (flat[0] if len(flat) == 1 else "")
    if not name:
        raise ConfigError(
            f"{file.path}: which output holds the scores? --output takes one of"
            f" {', '.join(outputs)}; --task tensors compares them all"
        )
    return outputs[name]


def _of_detector(
    file: ModelFile, question: Question
) -> Callable[[dict[str, Array], Geometry | None], Prediction]:
    if not question.decoder:
        known = ", ".join(seams.names("decoders"))
        raise ConfigError(f"--task detect needs --decoder, one of {known}; or --task tensors")
    adapter = seams.find("decoders", question.decoder)
    try:
        params = msgspec.convert(dict(question.params), adapter.Params, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--decoder {question.decoder}: {error}") from error
    scores = [s for s in file.outputs if s.name == getattr(params, "scores", "")]
    classes = (scores or list(file.outputs))[0].shape[-1]
    variant = Variant(
        name=file.path.name,
        format=file.format,
        precision=file.precision,
        file=file.path.name,
        inputs=(file.input,),
        outputs=file.outputs,
    )
    labels = _labels(file, question, classes)
    decode: Callable[[dict[str, Array], Geometry | None], Prediction] = adapter(
        params, variant, labels=labels, min_score=MIN_SCORE
    )
    return decode


def _labels(file: ModelFile, question: Question, classes: int) -> tuple[str, ...]:
    labels = question.labels or tuple(str(index) for index in range(classes))
    if len(labels) != classes:
        raise ConfigError(f"{file.path}: has {classes} classes, --classes names {len(labels)}")
    return labels
