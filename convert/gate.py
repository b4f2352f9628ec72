"""The gate: whether what was measured of a variant is good enough to ship it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from convert.recipe import Bounds
from convert.report import Measured

# Slack for the rounding of a difference of two rounded shares, such as 0.98 - 0.96.
_EPSILON = 1e-9


def refusals(
    measured: Measured,
    bounds: Bounds,
    *,
    reference: Mapping[str, float],
    lower_is_better: tuple[str, ...] = (),
) -> list[str]:
    """Why a variant must not be shipped, each reason with its numbers; empty when it may.

    `reference` is the original's accuracy on the same inputs.
    """
    reasons: list[str] = []

    def at_most(what: str, value: float, bound: float) -> None:
        if not value <= bound + _EPSILON:
            reasons.append(f"{what} {value:.4g}, at most {bound:.4g} allowed")

    def at_least(what: str, value: float, bound: float) -> None:
        if not value >= bound - _EPSILON:
            reasons.append(f"{what} {value:.4g}, at least {bound:.4g} needed")

    for output, parity in measured.parity.items():
        at_most(f"{output}: largest error", parity.max_error, bounds.max_error)
        at_most(f"{output}: 99th percentile of the error", parity.p99_error, bounds.p99_error)
    for name, value in measured.agreement.items():
        if name == "mean_iou":
            at_least("mean IoU with the original's boxes", value, bounds.mean_iou)
        elif name == "extra":
            at_most("boxes beyond the original's", value, 1 - bounds.agreement)
        else:
            at_least(f"agreement with the original ({name})", value, bounds.agreement)
    for name, value in measured.accuracy.items():
        original = reference[name]
        lost = value - original if name in lower_is_better else original - value
        at_most(
            f"{name} {value:.4g} against the original's {original:.4g}: loss of",
            lost,
            bounds.accuracy_drop,
        )
    return reasons
