"""A small classifier and a small detector in numpy, and variants of them with something wrong.

They stand where trained models stand, so that every cause can be planted alone and in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convert.recipe import (
    CalibrationSection,
    DataSection,
    EvaluationSection,
    Gate,
    ModelSection,
    Recipe,
)
from edge import postprocess, preprocess
from edge.manifest import Decoder, FileEntry, ImagePreprocess, Manifest, Thresholds, Variant
from edge.types import Array, TensorSpec

LABELS = ("reddish", "bluish", "top", "left")
SPEC = TensorSpec(name="image", shape=(1, 3, 8, 8), layout="nchw")
Forward = Callable[[Array], dict[str, Array]]


def classify(tensor: Array) -> dict[str, Array]:
    """RGB in 0..1 [1, 3, 8, 8] -> logits [1, 4]: more red, more blue, lighter above, or left."""
    red, _, blue = tensor[0].mean(axis=(1, 2))
    light = tensor[0].mean(axis=0)
    top, left = light[:4].mean() - light[4:].mean(), light[:, :4].mean() - light[:, 4:].mean()
    # What is bright or dark as a whole counts too, so that values in another scale do harm.
    much = 40 * max(light.mean() - 0.6, 0) + 40 * max(0.2 - light.mean(), 0)
    return {"logits": 20 * np.array([[red - blue + much, blue - red, top, left]], np.float32)}


def picture(kind: int, rng: np.random.Generator) -> Array:
    """uint8 [8, 8, 3] BGR of one class."""
    shade = np.full((8, 8, 3), 90.0)
    match kind:
        case 0:
            shade[:, :, 2] += 60
        case 1:
            shade[:, :, 0] += 60
        case 2:
            shade[:4] += 60
        case _:
            shade[:, :4] += 60
    return (shade + rng.normal(scale=6, size=shade.shape)).clip(0, 255).astype(np.uint8)


def samples(count: int = 48, *, labelled: bool = True) -> Iterator[tuple[Array, dict[str, Any]]]:
    rng = np.random.default_rng(5)
    for index in range(count):
        yield picture(index % 4, rng), {"class": index % 4} if labelled else {}


def recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {
        "file": Path("planted/recipe.toml"),
        "name": "planted",
        "version": "1",
        "summary": "",
        "task": "classify",
        "labels": LABELS,
        "model": ModelSection(),
        "input": SPEC,
        "outputs": ("logits",),
        "preprocess": ImagePreprocess(resize="stretch"),
        "decoder": Decoder(name="softmax"),
        "thresholds": Thresholds(),
        "rules": (),
        "calibration": CalibrationSection(),
        "evaluation": EvaluationSection(),
        "data": DataSection(),
        "licences": {},
        "gate": Gate(),
        "variants": (),
        "runtimes": (),
        "dynamic_batch": False,
    }
    return Recipe(**{**given, **changes})


class Original:
    """The trained model."""

    module = None

    def __init__(self, forward: Forward = classify, spec: TensorSpec = SPEC) -> None:
        self.run = forward
        self.input = spec


class Code:
    """The recipe's own predict, which shares nothing with edge; without one where None is given."""

    def __init__(self, predict: Callable[[Array], Array] | None = None) -> None:
        self._predict = predict

    def has(self, function: str) -> bool:
        return function == "predict" and self._predict is not None

    def predict(self, module: Any, raw: Array) -> dict[str, Array]:
        assert self._predict is not None
        return {"scores": self._predict(raw)}

    def metrics(self, predictions: Any, truths: Any) -> dict[str, float]:
        return {}


def own_predict(raw: Array, labels: tuple[int, ...] = (0, 1, 2, 3)) -> Array:
    """Scores as the trainer of the model computes them, from raw pictures of 8 x 8."""
    logits = classify(raw[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)["logits"]
    scores = np.exp(logits[0] - logits.max())
    return (scores / scores.sum())[list(labels)]


class Variant_:  # noqa: N801 - stands in for edge.model.Model
    """One variant with edge's own preprocessing and decoder around `forward`."""

    def __init__(self, wanted: Recipe, forward: Forward, spec: TensorSpec = SPEC) -> None:
        outputs = forward(np.zeros(spec.shape, spec.dtype))
        self.variant = Variant(
            name="planted",
            format="onnx",
            precision="fp32",
            file="m",
            inputs=(spec,),
            outputs=tuple(TensorSpec(name=n, shape=v.shape) for n, v in outputs.items()),
        )
        manifest = Manifest(
            format="",
            name=wanted.name,
            version="1",
            task=wanted.task,
            labels=wanted.labels,
            preprocess=msgspec.structs.replace(wanted.preprocess, folded=spec.dtype == "uint8"),
            decoder=wanted.decoder,
            variants=(self.variant,),
            files={"m": FileEntry(size=0, sha256="")},
        )
        self.preprocess = preprocess.build(manifest, spec)
        self.postprocess = postprocess.build(manifest, self.variant)
        self.infer = forward
