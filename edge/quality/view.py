"""What a camera shows when all is well: its structure and its sharpness, learned slowly. Pure.

The structure is compared block by block and without regard to brightness and contrast, so that
light, fog and noise change little of it, and something large in the picture only a part.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edge.types import Array

GRID = (6, 8)
"""Rows and columns of blocks in which a structure is compared."""
_LEAST_BLOCKS = 6
_TEXTURE = 4.0
"""Grey levels by which the structure of a block must vary to be compared."""
_ALIKE = 0.5
_ADAPT_STRUCTURE_S = 600.0
_ADAPT_SHARPNESS_S = 3600.0
_LEAST_LOOKS = 10


@dataclasses.dataclass(slots=True)
class View:
    """Learned over `learn_s` seconds and at least ten looks; after that it follows slowly."""

    learn_s: float
    structure: Array | None = None
    sharpness: float | None = None
    looks: int = 0
    seconds: float = 0.0
    seen_ns: int = 0

    @property
    def learned(self) -> bool:
        """Whether others may be held against it."""
        return self.looks >= _LEAST_LOOKS and self.seconds >= self.learn_s

    def learn(self, structure: Array, sharpness: float | None, mono_ns: int) -> None:
        """One more look at what is normal. `structure` [blocks, cells]; no `sharpness` where a
        picture shows no edges."""
        passed_s = min((mono_ns - self.seen_ns) / 1e9, 10.0) if self.looks else 0.0
        self.looks, self.seen_ns = self.looks + 1, mono_ns
        self.seconds += passed_s
        least = 1 / self.looks if not self.learned else 0.0
        if self.structure is None:
            self.structure = structure.copy()
        share = max(least, min(1.0, passed_s / _ADAPT_STRUCTURE_S))
        self.structure += (structure - self.structure) * np.float32(share)
        if sharpness is not None:
            share = max(least, min(1.0, passed_s / _ADAPT_SHARPNESS_S))
            before = sharpness if self.sharpness is None else self.sharpness
            self.sharpness = before + (sharpness - before) * share

    def alike(self, structure: Array) -> float | None:
        """The share of blocks that look as they did, 0..1: those whose correlation with the learned
        structure is above one half. None when too little of the view has any structure."""
        if self.structure is None:
            return None
        known = self.structure - self.structure.mean(1, keepdims=True)
        seen = structure - structure.mean(1, keepdims=True)
        spread = np.sqrt(np.einsum("bc,bc->b", known, known))
        textured = spread > _TEXTURE * np.sqrt(structure.shape[1])
        if np.count_nonzero(textured) < _LEAST_BLOCKS:
            return None
        both = spread * np.sqrt(np.einsum("bc,bc->b", seen, seen))
        alike = np.einsum("bc,bc->b", known, seen) > _ALIKE * both
        return float(alike[textured].mean())
