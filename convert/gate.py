"""The gate: whether what was measured of a variant is good enough to ship it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convert.accuracy import IN_UNITS
from convert.diagnosis import Evidence
from convert.parity import LOST, Traits
from convert.recipe import Bounds
from convert.report import Measured

# Slack for the rounding of a difference of two rounded shares, such as 0.98 - 0.96.
_EPSILON = 1e-9
FASTER = 1.15
"""A variant counts as faster than another one when it is by this much, which is more than the noise
of a measurement."""


def refusals(
    measured: Measured,
    bounds: Bounds,
    *,
    reference: Mapping[str, float],
    lower_is_better: tuple[str, ...] = (),
) -> list[str]:
    """Why a variant must not be shipped, each reason with its numbers; empty when it may.

    `reference` is the original's accuracy on the same inputs. Measures in the units of the data
    (accuracy.IN_UNITS) are reported and not judged.
    """
    reasons: list[str] = []

    def at_most(what: str, value: float, bound: float) -> None:
        if not value <= bound + _EPSILON:
            reasons.append(f"{what} {value:.4g}, at most {bound:.4g} allowed")

    def at_least(what: str, value: float, bound: float) -> None:
        if not value >= bound - _EPSILON:
            reasons.append(f"{what} {value:.4g}, at least {bound:.4g} needed")

    for output, parity in measured.parity.items():
        if parity.p99_error == float("inf"):
            # No bound allows this, not even one that is infinite itself.
            reasons.append(f"{output}: gives values that are not finite")
            continue
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
        if name in IN_UNITS:
            continue
        original = reference[name]
        lost = value - original if name in lower_is_better else original - value
        at_most(
            f"{name} {value:.4g} against the original's {original:.4g}: loss of",
            lost,
            bounds.accuracy_drop,
        )
    return reasons


def drowned(traits: Mapping[str, Traits], bounds: Bounds) -> list[str]:
    """Why a variant must not be shipped whose narrow columns are lost beside wide ones.

    Against the range of the whole output that is no error, so where nobody decodes the outputs
    (there is no agreement to measure) nothing else would show it.
    """
    if bounds.p99_error >= LOST:
        return []
    return [
        f"{name}: {found.drowned} of {found.columns} columns are wrong by more than {LOST:.0%} of"
        " what they span"
        for name, found in traits.items()
        if found.drowned
    ]


def advice(measured: Measured, evidence: Evidence, *, precision: str) -> str:
    """One line on what to try with a variant that was refused, from what was found out about it."""
    if evidence.unsteady:
        return (
            "the model gives other outputs each time for the same input: it was exported in"
            " training mode; call eval() before the export"
        )
    errors = {output: parity.p99_error for output, parity in measured.parity.items()}
    worst = max(errors, key=lambda output: errors[output], default="")
    if errors and errors[worst] == float("inf"):
        return _overflow(worst, precision)
    if evidence.transposed:
        return f"it answers as the original does with {evidence.transposed}; mend the export"
    if evidence.preprocessing:
        either = f"; or else labels are swapped: {evidence.permutation}"
        return (
            "the tensors agree, the predictions do not: [preprocess] is not what the recipe's"
            f" predict() does; {evidence.preprocessing}" + (either if evidence.permutation else "")
        )
    if evidence.permutation:
        return (
            f"labels are swapped: {evidence.permutation}; put `labels` into the order of the"
            " model's outputs"
        )
    broken = {name: traits for name, traits in evidence.traits.items() if traits.reordered}
    if broken:
        return (
            f"{', '.join(broken)}: the right values in another order: the outputs were transposed"
            " on the way; mend the export"
        )
    if precision == "int8":
        return _of_int8(worst, evidence)
    return _of_float(worst, errors.get(worst, 0.0), precision)


def _overflow(output: str, precision: str) -> str:
    if precision == "fp16":
        return (
            f"{output}: a value is beyond what fp16 holds (65504); keep the layers where it starts"
            " in fp32 (--search), or normalise the input"
        )
    return f"{output}: look for a division by zero or a logarithm of zero in the export"


def _of_int8(output: str, evidence: Evidence) -> str:
    """Causes of a bad quantisation, the surest first."""
    for name, traits in evidence.traits.items():
        if traits.drowned:
            return (
                f"{name}: {traits.drowned} of {traits.columns} columns are lost in the scale of the"
                " others (boxes and scores in one tensor): give them as two outputs, or keep the"
                " last Concat in float (--search)"
            )
    for name, traits in evidence.traits.items():
        if traits.constant:
            return (
                f"{name}: became a constant: a layer before it collapsed; keep the layers where the"
                " error starts in float (--search)"
            )
    if evidence.calibration:
        return (
            f"calibrated on data unlike the evaluation's: {evidence.calibration}; calibrate with"
            " real inputs, as the device will see them"
        )
    for name, traits in evidence.traits.items():
        if traits.span < 0.85:
            return (
                f"{name}: cut short, to {traits.span:.0%} of the original's range: the calibration"
                " saw too little; calibrate by minmax (not a moving average or a percentile) and"
                " with more samples"
            )
    return (
        "calibrate with more samples (--calibration) or by another method (entropy, percentile),"
        " or keep the layers where the error starts in float (--search)"
    )


def _of_float(output: str, error: float, precision: str) -> str:
    if precision == "int8-dynamic":
        return (
            "keep the layers where the error starts in float (--search), or use static int8 with"
            " calibration"
        )
    if precision == "fp16":
        return "keep the layers where the error starts in fp32 (--search)"
    if error > 0.01:
        return (
            f"{output}: the export itself is wrong: a model in training mode (batch"
            " normalisation), a transposed tensor or an operator that was exported wrongly; look at"
            " the layers where the error starts"
        )
    return "a little beyond the bound: raise the limit in [gate] if the task allows it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What `dominated` weighs: bytes, seconds of one inference, and what was measured."""

    format: str
    size: int
    seconds: float
    measured: Measured


def dominated(standing: Mapping[str, Candidate]) -> dict[str, str]:
    """The variants that nobody would choose, with the reason.

    One is no faster than another of the same format (by FASTER), no smaller and no more exact.
    Formats are not weighed against each other: a device may have one runtime only.
    """
    reasons: dict[str, str] = {}
    # Of two that are alike the earlier one, which is the safer one, stays.
    for name, one in reversed(list(standing.items())):
        for rival, other in standing.items():
            if (
                rival not in (name, *reasons)
                and other.format == one.format
                and one.seconds * FASTER >= other.seconds
                and other.size <= one.size
                and _error(other.measured) <= _error(one.measured)
                and _agrees(other.measured) >= _agrees(one.measured)
            ):
                reasons[name] = f"no faster here, no smaller and no more exact than {rival}"
                break
    return reasons


def _error(measured: Measured) -> float:
    return max((parity.p99_error for parity in measured.parity.values()), default=0.0)


def _agrees(measured: Measured) -> float:
    return next(iter(measured.agreement.values()), 1.0)
