"""What a model is calibrated with, judged on and shown with: the user's data, or functions of the
recipe."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convert.recipe import Recipe
from convert.recipe_code import RecipeCode
from convert.samples import Samples, Truth, open_samples
from edge.errors import ConfigError
from edge.manifest import WindowPreprocess
from edge.types import Array, TensorSpec


class Inputs:
    """Raw inputs by use. Data that [data] names goes before a function of the code."""

    def __init__(self, recipe: Recipe, code: RecipeCode) -> None:
        self._recipe = recipe
        self._code = code
        self._opened = open_data(recipe)
        self._calibration = self._opened.get("calibration")
        self._evaluation = self._opened.get("evaluation")
        self._golden = self._opened.get("golden")
        if self._evaluation is None and not code.has("evaluation") and self._calibration:
            # The variants are then held against the original on what calibrates them.
            self._evaluation = _samples(recipe, recipe.data.calibration, recipe.data.truth)
            self._opened["evaluation"] = self._evaluation
        if self._evaluation is None and not code.has("evaluation"):
            raise ConfigError(
                f"{recipe.folder}: nothing to judge the variants on; name a folder of pictures or"
                " an .npz as `[data] evaluation` (--evaluate), or write evaluation() in the code"
            )

    @property
    def can_calibrate(self) -> bool:
        """Whether there is anything to calibrate with."""
        return self._calibration is not None or self._code.has("calibration")

    @property
    def notes(self) -> list[str]:
        """What of the data could not be used."""
        told = []
        for use, samples in self._opened.items():
            told += [f"{use}: {count} × {why}" for why, count in samples.skipped.items()]
            if samples.unlabelled:
                told.append(f"{use}: {sum(samples.unlabelled.values())} without a label")
        return told

    def calibration(self, count: int, seed: int) -> Iterator[Array]:
        """Raw inputs to calibrate quantisation with."""
        if self._calibration is None:
            return self._code.calibration(count, seed)
        return (raw for raw, _ in self._calibration.take(count, seed))

    def evaluation(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """Raw inputs to judge on, each with its truth where it is known."""
        if self._evaluation is None:
            return self._code.evaluation(count, seed)
        return self._evaluation.take(count, seed)

    def golden(self, count: int, spec: TensorSpec) -> Iterator[Array]:
        """Raw inputs that ship with the bundle: free to redistribute.

        Where nobody named any they are drawn, for the user's data may not be given away.
        """
        if self._golden is not None:
            return (raw for raw, _ in self._golden.take(count, 0))
        if self._code.has("golden"):
            return self._code.golden(count)
        return (_drawn(self._recipe, spec, seed) for seed in range(count))

    def digests(self) -> dict[str, str]:
        """SHA-256 of the data on disk, by use."""
        return {use: samples.digest() for use, samples in self._opened.items()}


def open_data(recipe: Recipe) -> dict[str, Samples]:
    """The data that [data] names, by use. ConfigError when it cannot be used."""
    data = recipe.data
    named = {
        "calibration": (data.calibration, ""),
        "evaluation": (data.evaluation, data.truth),
        "golden": (data.golden, ""),
    }
    return {use: _samples(recipe, name, truth) for use, (name, truth) in named.items() if name}


def _samples(recipe: Recipe, name: str, truth: str) -> Samples:
    if truth.endswith((".csv", ".json")):
        truth = str(recipe.folder / truth)
    return open_samples(recipe.folder / name, truth=truth, labels=recipe.labels)


def _drawn(recipe: Recipe, spec: TensorSpec, seed: int) -> Array:
    """A smooth picture, or a window of noise at the scale of the model's normalisation."""
    rng = np.random.default_rng(seed)
    config = recipe.preprocess
    if isinstance(config, WindowPreprocess):
        noise = rng.standard_normal((config.length, len(config.channels)))
        if config.log_mel is not None:  # it is the features that are normalised
            return (0.1 * noise).astype(np.float32)
        window: Array = np.asarray(config.mean) + noise * np.asarray(config.std)
        return window.astype(np.float32)
    import cv2

    height, width = spec.shape[2:] if spec.layout == "nchw" else spec.shape[1:3]
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    size = (int(width), int(height))
    smooth: Array = np.empty((size[1], size[0], 3), np.uint8)
    cv2.resize(coarse, size, dst=smooth, interpolation=cv2.INTER_LINEAR_EXACT)
    return smooth
