"""Arrays that a caller keeps for an engine's outputs, so that a run allocates nothing.

Invariant: what is written in place is an output of fixed shape, into an array of its very shape
and dtype. An output whose size is open is a fresh array each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge.errors import EngineError
from edge.types import Array, TensorSpec


def arrays_for(outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays for the outputs of fixed shape."""
    kept = {}
    for spec in outputs:
        if min(spec.shape, default=0) >= 0:
            try:
                kept[spec.name] = np.empty(spec.shape, spec.dtype)
            except TypeError:  # a dtype that numpy does not have
                continue
    return kept


def check(outputs: Sequence[TensorSpec], into: Mapping[str, Array], *, engine: str) -> None:
    """EngineError for an array in which no output can be written."""
    specs = {spec.name: spec for spec in outputs}
    for name, array in into.items():
        spec = specs.get(name)
        if spec is None:
            raise EngineError(
                f"{engine}: inference failed: there is no output {name} to be written in place;"
                f" there are {', '.join(specs)}"
            )
        if array.shape != spec.shape or array.dtype != spec.dtype or not array.flags.writeable:
            raise EngineError(
                f"{engine}: inference failed: output {spec} cannot be written into"
                f" {array.dtype}{list(array.shape)}"
            )
