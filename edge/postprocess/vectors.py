"""One vector: class values -> scores, numbers by name, or an embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from edge.errors import BundleError, FrameError
from edge.manifest import Variant
from edge.postprocess import candidates
from edge.postprocess.candidates import Output
from edge.types import Array, Classification, Geometry
from edge.types import Embedding as Vector
from edge.types import Regression as Numbers


class _Vector:
    """One output that holds a value a label: [1, C], or with more axes of size 1."""

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`output` names it where the model gives other outputs beside it."""

        output: str = ""

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._output = Output(variant, params.output)
        shape = self._output.shape
        if math.prod(shape) not in (len(labels), -len(labels)) or max(shape, default=0) > len(
            labels
        ):
            raise BundleError(
                f"{variant.name}: output {self._output.spec} for {len(labels)} labels"
            )
        self._labels = labels

    def _values(self, raw: Mapping[str, Array]) -> Array:
        values = self._output(raw).reshape(-1)
        if len(values) != len(self._labels):
            raise FrameError(f"the model gave {len(values)} values for {len(self._labels)} labels")
        return candidates.finite(values)


class Softmax(_Vector):
    """Logits [1, C] -> softmax scores: exp(x - max) / sum(exp(x - max))."""

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Classification:
        """Logits of one frame -> its scores. FrameError when they are not finite."""
        return Classification(candidates.softmax(self._values(raw)), self._labels)


class Sigmoid(_Vector):
    """Logits [1, C] of a multi-label model -> scores 1 / (1 + exp(-x)), each for itself."""

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Classification:
        """Logits of one frame -> its scores. FrameError when they are not finite."""
        return Classification(candidates.sigmoid(self._values(raw)), self._labels)


class Scores(_Vector):
    """Scores [1, C] in 0..1 that the model itself has made: a classifier with its own softmax."""

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Classification:
        """Scores of one frame. FrameError when they are not finite."""
        return Classification(self._values(raw).copy(), self._labels)


class Regression(_Vector):
    """Numbers [1, K] as the model gives them -> the same, under the labels as names."""

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Numbers:
        """The numbers of one frame. FrameError when they are not finite."""
        return Numbers(self._values(raw).copy(), self._labels)


class Embedding:
    """A vector [1, D] -> the same at length 1, so that the dot product of two is their cosine."""

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`output` names the vector; with `unit` false its length stays as it is."""

        output: str = ""
        unit: bool = True

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        self._output = Output(variant, params.output)
        self._unit = params.unit

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Vector:
        """The vector of one frame. FrameError when it is not finite, or nothing but zeros."""
        vector = candidates.finite(self._output(raw).reshape(-1)).copy()
        if self._unit:
            length = float(np.linalg.norm(vector.astype(np.float64)))
            if not length:
                raise FrameError("the embedding holds nothing but zeros")
            vector /= length
        return Vector(vector)
