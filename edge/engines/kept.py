"""Arrays that a caller keeps for an engine's outputs, so that a run allocates nothing.

Invariant: what is written in place is an output of fixed shape, into an array of its very shape
and dtype. An output whose size is open is a fresh array each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.errors import EngineError
from edge.types import Array, TensorSpec


def arrays_for(outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays for the outputs of fixed shape."""
    kept = {}
    for spec in outputs:
        dtype = _dtype(spec)
        if min(spec.shape, default=0) >= 0 and dtype is not None and dtype.kind != "O":
            kept[spec.name] = np.empty(spec.shape, dtype)
    return kept


class Outputs:
    """What arrays an engine may be given for its outputs. `engine` is who says so in an error."""

    def __init__(self, specs: Sequence[TensorSpec], *, engine: str) -> None:
        self._specs = {spec.name: (spec, _dtype(spec)) for spec in specs}
        self._engine = engine

    def check(self, into: Mapping[str, Array]) -> None:
        """EngineError for an array in which no output can be written."""
        for name, array in into.items():
            if name not in self._specs:
                raise EngineError(
                    f"{self._engine}: inference failed: there is no output {name} to be written in"
                    f" place; there are {', '.join(self._specs)}"
                )
            spec, dtype = self._specs[name]
            if array.shape != spec.shape or array.dtype != dtype or not array.flags.writeable:
                raise EngineError(
                    f"{self._engine}: inference failed: output {spec} cannot be written into"
                    f" {array.dtype}{list(array.shape)}"
                )


def _dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    try:
        return np.dtype(spec.dtype)
    except TypeError:  # numpy has no such
        return None
