"""The samples on which a variant is furthest from the original, kept for a person to look at."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.types import Array, Prediction

KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSample:
    """One sample: the raw input, both answers, and how far they are apart.

    `closeness` is the agreement of the two predictions (1: the same), `error` the largest error of
    any output relative to its range. `truth` is empty where there are no labels; the predictions
    are None where tensors alone were compared.
    """

    index: int
    closeness: float
    error: float
    raw: Array
    reference: Prediction | None
    found: Prediction | None
    truth: Mapping[str, Any] = field(default_factory=dict)


class WorstSamples:
    """Keeps the worst of all samples that pass by: first by the answers, then by the tensors."""

    def __init__(self, keep: int = KEPT) -> None:
        self._keep = keep
        self._heap: list[tuple[float, float, int, WorstSample]] = []

    def add(self, sample: WorstSample) -> None:
        """Keep it if it is among the worst so far."""
        if sample.error == 0 and sample.closeness >= 1:
            return
        entry = (-sample.closeness, sample.error, -sample.index, sample)
        if len(self._heap) < self._keep:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def worst_first(self) -> list[WorstSample]:
        """At most `keep` samples; those without any difference are never among them."""
        return [entry[3] for entry in sorted(self._heap, key=lambda entry: entry[:3], reverse=True)]
