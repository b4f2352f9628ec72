"""Classification: one vector of class values -> scores."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from edge.errors import BundleError, FrameError
from edge.manifest import Variant
from edge.types import Array, Classification, Geometry


class Softmax:
    """Logits [1, C] -> softmax scores: exp(x - max) / sum(exp(x - max))."""

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Nothing to choose."""

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        if len(variant.outputs) != 1:
            raise BundleError(
                f"{variant.name}: softmax takes one output, not {len(variant.outputs)}"
            )
        (output,) = variant.outputs
        if output.shape != (1, len(labels)):
            raise BundleError(f"{variant.name}: output {output} for {len(labels)} labels")
        self._output = output.name
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Classification:
        """Logits of one frame -> its scores. FrameError when they are not finite."""
        logits = raw[self._output][0].astype(np.float32)
        if not np.isfinite(logits).all():
            raise FrameError("the model's output is not finite")
        scores = np.exp(logits - logits.max())
        return Classification(scores / scores.sum(), self._labels)


class Scores:
    """Scores [1, C] in 0..1 that the model itself has made: a classifier with its own softmax."""

    class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`output` names the scores where the model gives other outputs beside them."""

        output: str = ""

    def __init__(
        self, params: Params, variant: Variant, *, labels: tuple[str, ...], min_score: float
    ) -> None:
        shapes = {output.name: output.shape for output in variant.outputs}
        name = params.output or (next(iter(shapes)) if len(shapes) == 1 else "")
        if shapes.get(name) != (1, len(labels)):
            raise BundleError(
                f"{variant.name}: scores needs an output [1, {len(labels)}], `output` names"
                f" {name!r}; there are {shapes}"
            )
        self._output = name
        self._labels = labels

    def __call__(self, raw: Mapping[str, Array], geometry: Geometry | None) -> Classification:
        """Scores of one frame. FrameError when they are not finite."""
        scores = raw[self._output][0].astype(np.float32)
        if not np.isfinite(scores).all():
            raise FrameError("the model's output is not finite")
        return Classification(scores, self._labels)
