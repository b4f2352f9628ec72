"""How long one inference takes, of several models side by side.

Invariant: the models take turns within every round, in one process, so that whatever else the
machine does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from edge.model import Model
from edge.types import Array

ROUNDS = 40
WARM_UP = 3
SECONDS = 20.0
LEAST_ROUNDS = 5


def interleaved(
    models: Mapping[str, Model],
    tensor_of: Callable[[Model], Array],
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The median seconds of one inference by model; open the models with threads=1.

    `seconds` ends the rounds early, after LEAST_ROUNDS at least.
    """
    tensors = {name: tensor_of(model).copy() for name, model in models.items()}
    for name, model in models.items():
        for _ in range(WARM_UP):
            model.infer(tensors[name])
    taken: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    ends = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() > ends:
            break
        for name in order:
            started = time.perf_counter()
            models[name].infer(tensors[name])
            taken[name].append(time.perf_counter() - started)
        # Nobody always runs after the same neighbour has filled the caches.
        order.append(order.pop(0))
        advance()
    return {name: statistics.median(times) for name, times in taken.items()}
