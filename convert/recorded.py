"""Samples as they pass by, counted and digested for the provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Recorded(Generic[T]):
    """Passes raw inputs on, or pairs of a raw input and its truth."""

    def __init__(self, samples: Iterable[T]) -> None:
        self._samples = samples
        self._digest = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> Iterator[T]:
        for sample in self._samples:
            raw = np.ascontiguousarray(sample[0] if isinstance(sample, tuple) else sample)
            self._digest.update(f"{raw.dtype.str}{raw.shape}".encode() + raw.tobytes())
            self.count += 1
            yield sample

    def provenance(self, use: str, seed: int) -> dict[str, Any]:
        """How many there were, from which seed, and the SHA-256 over the raw arrays."""
        digest = self._digest.hexdigest()
        return {"use": use, "samples": self.count, "seed": seed, "sha256": digest}
