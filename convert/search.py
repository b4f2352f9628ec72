"""Which layers must stay in float so that a quantised model passes: as few as the budget finds.

Twice as many of the worst layers are kept at each try until a candidate passes; then the number is
halved towards the last one that did not, and what is kept in vain is given back layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convert.errors import CannotConvert
from convert.layers import LayerError
from convert.original import Exported


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """`exported` is None when nothing passed; `kept` are the layers in float, `tried` the tries."""

    exported: Exported | None
    kept: tuple[str, ...]
    tried: int


def search(
    make: Callable[[frozenset[str]], Exported],
    judge: Callable[[Exported], list[str]],
    blamed: Sequence[LayerError],
    *,
    budget: int,
    advance: Callable[[], None] = lambda: None,
) -> SearchResult:
    """Make and judge at most `budget` candidates; the one with the fewest layers in float.

    `make` quantises with these layers in float, `judge` says what is against a candidate (nothing:
    it passes), `blamed` are the layers, worst first. `advance` is called after each try. A set of
    layers that cannot be made counts as one that does not pass.
    """
    order = list(dict.fromkeys(layer.layer for layer in blamed if layer.added > 0))
    tried = 0
    passed: tuple[list[str], Exported] | None = None

    def passes(kept: list[str]) -> bool:
        nonlocal tried, passed
        tried += 1
        try:
            candidate = make(frozenset(kept))
            good = not judge(candidate)
        except CannotConvert:
            good = False
        else:
            if good:
                passed = (kept, candidate)
        advance()
        return good

    failed, count = 0, 1
    while passed is None and order and tried < budget:
        count = min(count, len(order))
        if not passes(order[:count]):
            if count == len(order):
                break
            failed, count = count, count * 2
    while passed is not None and len(passed[0]) - failed > 1 and tried < budget:
        middle = (failed + len(passed[0])) // 2
        if not passes(order[:middle]):
            failed = middle
    # The worst layer of all made the difference between passing and not: it stays.
    for name in order[: max(0, failed)]:
        if passed is None or tried >= budget:
            break
        passes([other for other in passed[0] if other != name])
    if passed is None:
        return SearchResult(exported=None, kept=(), tried=tried)
    return SearchResult(exported=passed[1], kept=tuple(passed[0]), tried=tried)
