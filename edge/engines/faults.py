"""What can be wrong with an engine, and the answers that tell: the golden check of one engine.

Invariant: an engine is held against the outputs of its own variant (golden cases of kind
`variant`), with the tolerance that the bundle gives.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Mapping
from typing import Literal

import numpy as np

from edge.bundle import Bundle
from edge.errors import BundleError, EngineError
from edge.finite import all_finite
from edge.manifest import GoldenCase, Variant
from edge.seams import Engine
from edge.state import State
from edge.types import Array

Kind = Literal["crash", "hang", "wrong", "not_finite", "slow", "error", "died"]
_RUNS = 7


class EngineFault(EngineError):
    """An engine that cannot be trusted with a model: `kind` says how it was noticed.

    The agent ends with this exit code when an engine goes bad in the middle of work: what is to be
    done is to start again, without it.
    """

    exit_code = 9

    def __init__(self, kind: Kind, detail: str, *, evidence: str = "") -> None:
        self.kind: Kind = kind
        self.detail = detail
        self.evidence = evidence
        super().__init__(detail)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an engine showed: the number of cases, its largest error as a share of what is allowed,
    and the median time of one inference."""

    cases: int
    error: float
    latency_ms: float


def prove(
    engine: Engine,
    bundle: Bundle,
    variant: Variant,
    *,
    max_latency_ms: float = 0,
    timed: bool = False,
) -> Proof:
    """Run the variant's golden cases. EngineFault: not_finite, wrong or slow.

    A variant without cases of its own is run on zeros, and only has to be finite. The time is taken
    where it is asked for, or bounded; else it is 0, and an agent starts so much sooner.
    """
    cases = _cases(bundle, variant, "variant")
    worst, inputs = 0.0, _inputs(variant, None)
    for case in cases:
        inputs = _inputs(variant, read_array(bundle, case.input))
        worst = max(worst, _hold(engine.run(inputs), bundle, case))
    if not cases:
        _need_finite(engine.run(inputs))
    took_ms = []
    for _ in range(_RUNS if timed or max_latency_ms else 0):
        began = time.perf_counter()
        engine.run(inputs)
        took_ms.append((time.perf_counter() - began) * 1e3)
    latency_ms = sorted(took_ms)[_RUNS // 2] if took_ms else 0.0
    if max_latency_ms and latency_ms > max_latency_ms:
        raise EngineFault(
            "slow", f"one inference takes {latency_ms:.1f} ms where {max_latency_ms:g} are allowed"
        )
    return Proof(cases=len(cases), error=worst, latency_ms=round(latency_ms, 3))


def hold_to_original(engine: Engine, bundle: Bundle, variant: Variant) -> None:
    """Run the golden cases with the original's outputs: what is wrong by them is the variant
    itself, whichever engine runs it. EngineFault: not_finite or wrong."""
    for case in _cases(bundle, variant, "reference"):
        _hold(engine.run(_inputs(variant, read_array(bundle, case.input))), bundle, case)


def golden_inputs(bundle: Bundle, variant: Variant) -> dict[str, Array]:
    """An input on which a variant can be tried: of its golden case, or zeros."""
    cases = _cases(bundle, variant, "variant")
    return _inputs(variant, read_array(bundle, cases[0].input) if cases else None)


def _cases(bundle: Bundle, variant: Variant, kind: str) -> list[GoldenCase]:
    return [
        case for case in bundle.manifest.golden if (case.kind, case.variant) == (kind, variant.name)
    ]


def read_array(bundle: Bundle, path: str) -> Array:
    """An array from a bundle's .npy, or a picture (uint8 [H, W, 3] BGR) from its .png."""
    data = bundle.read(path)
    if path.endswith(".png"):
        import cv2

        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise BundleError(f"{bundle.path}: {path} is not a picture")
        return np.asarray(picture)
    try:
        array: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {path} is not a plain array: {error}") from error
    return array


def range_error(actual: Array, expected: Array) -> float:
    """Largest absolute difference relative to the range (max - min) of `expected`.

    Infinite when the shapes differ or a value is not finite.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    spread = float(expected.max() - expected.min()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected).max()) / spread


def is_finite(outputs: Mapping[str, Array]) -> bool:
    """Whether no output holds NaN or infinity."""
    return all(map(all_finite, outputs.values()))


def _inputs(variant: Variant, frame: Array | None) -> dict[str, Array]:
    """The case's array is what the frame would be; the stream's state begins anew."""
    state = State(variant)
    if frame is None:
        spec = state.frame_input
        frame = np.zeros([max(1, size) for size in spec.shape], spec.dtype)
    return state.inputs(frame)


def _hold(outputs: dict[str, Array], bundle: Bundle, case: GoldenCase) -> float:
    """The largest error as a share of the tolerance."""
    _need_finite(outputs)
    worst = 0.0
    allowed = case.tolerance.get("error", 0.0)
    for name, path in case.outputs.items():
        if name not in outputs:
            raise BundleError(f"{bundle.path}: golden case {case.name} names an output {name}")
        error = range_error(outputs[name], read_array(bundle, path))
        if error > allowed:
            raise EngineFault(
                "wrong",
                f"golden case {case.name}: output {name} is off by {error:.3g} of its range where"
                f" {allowed:g} are allowed",
            )
        worst = max(worst, error / allowed if allowed else 0.0)
    return worst


def _need_finite(outputs: dict[str, Array]) -> None:
    if not is_finite(outputs):
        raise EngineFault("not_finite", "the golden input gives NaN or infinity")
