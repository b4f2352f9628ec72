"""The tuner's choice against an exhaustive search, and against ONNX Runtime as it comes.

    python bench/tuning.py [BUNDLE …] [--minutes 0.5] [--laps 10] [--json]

For each bundle (default: the built-in ones) `edge tune` runs first. Then every candidate, those too
that the tuner dropped, takes `--laps` turns, interleaved. Last, three take turns until the numbers
stand: the tuner's choice, the exhaustive search's best, and the bundle's ONNX fp32 variant in a
plain onnxruntime.InferenceSession with default options. Only candidates that gave their golden
answers take part. Ratios are the medians of the laps' own ratios: above 1, the tuner is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.accelerators import AUTO, EngineRequest
from edge.bundle import Bundle
from edge.cores import cores
from edge.engines.faults import golden_inputs
from edge.engines.guard import Guard
from edge.errors import EngineError
from edge.tuner.candidates import Candidate, grid
from edge.tuner.measuring import SPIN_S, Bench
from edge.tuner.session import Wanted, tune

_DUEL_LAPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundles", nargs="*", default=["builtin:meter_reader", "builtin:wrist_activity"]
    )
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--laps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for path in arguments.bundles:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Bundle.open(path), Path(folder), arguments.minutes, arguments.laps)
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def measure(bundle: Bundle, folder: Path, minutes: float, laps: int) -> list[dict[str, Any]]:
    """The rows of one bundle."""
    guard = Guard(folder, marks=False)
    began = time.monotonic()
    record = tune(bundle, guard, Wanted(budget_s=minutes * 60)).record
    tuning_s = time.monotonic() - began
    if record is None:
        raise SystemExit(f"{bundle.path}: not enough was measured")
    first = record.ranking[0]
    chosen = Candidate(
        variant=first.variant, engine=first.engine, accelerator=first.accelerator,
        options=first.options, settings=first.settings, slots=first.slots,
    )  # fmt: skip
    bench = Bench(bundle, guard)
    try:
        began = time.monotonic()
        best, count = exhaustive(bundle, bench, laps)
        exhaustive_s = time.monotonic() - began
        plain = default_session(bundle)
        ours, theirs, bare = [], [], []
        for _ in range(_DUEL_LAPS):
            ours.append(statistics.median(bench.turn(chosen).took_ms))
            theirs.append(statistics.median(bench.turn(best).took_ms))
            bare.append(block_ms(plain))
    finally:
        bench.close()
    name = bundle.manifest.name
    detail = {"tuned": str(chosen), "exhaustive": str(best), "noisy": record.noisy}
    return [
        row(name, "tuned against exhaustive, ms", ours, theirs, **detail),
        row(name, "tuned against ORT fp32 default, ms", ours, bare, tuned=str(chosen)),
        {"case": name, "metric": f"seconds for {count} candidates", "ours": round(tuning_s, 1),
         "reference": round(exhaustive_s, 1), "ratio": round(exhaustive_s / tuning_s, 2)},
    ]  # fmt: skip


def row(
    case: str, metric: str, ours: list[float], reference: list[float], **more: str
) -> dict[str, Any]:
    ratios = [theirs / mine for mine, theirs in zip(ours, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "case": case, "metric": metric, "ours": round(statistics.median(ours), 4),
        "reference": round(statistics.median(reference), 4), "ratio": round(middle, 3),
        "low": round(low, 3), "high": round(high, 3), **more,
    }  # fmt: skip


def exhaustive(bundle: Bundle, bench: Bench, laps: int) -> tuple[Candidate, int]:
    """The candidate with the lowest median over laps in which everyone takes part, each against
    the mean of its lap."""
    right = []
    every = grid(
        bundle.manifest.variants, [EngineRequest(accelerator=AUTO, policy="any")], cores=cores()
    )
    for candidate in every:
        try:
            bench.admit(candidate)
        except EngineError:
            continue
        right.append(candidate)
    shares: dict[Candidate, list[float]] = {candidate: [] for candidate in right}
    for _ in range(laps):
        taken = {one: statistics.median(bench.turn(one).took_ms) for one in right}
        level = statistics.median(taken.values())
        for candidate, took in taken.items():
            shares[candidate].append(took / level)
    return min(right, key=lambda one: statistics.median(shares[one])), len(right)


def default_session(bundle: Bundle) -> Callable[[], object]:
    """One run of the ONNX fp32 variant, as ONNX Runtime sets itself up."""
    import onnxruntime

    variant = next(
        one for one in bundle.manifest.variants if (one.format, one.precision) == ("onnx", "fp32")
    )
    session = onnxruntime.InferenceSession(
        bundle.read(variant.file), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    inputs = golden_inputs(bundle, variant)
    return lambda: session.run(names, inputs)


def block_ms(action: Callable[[], object]) -> float:
    """The median of a block as long as the tuner's."""
    action()
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < 3 or time.perf_counter() - began < 0.03:
        start = time.perf_counter()
        action()
        took.append((time.perf_counter() - start) * 1e3)
    time.sleep(SPIN_S)
    return statistics.median(took)


if __name__ == "__main__":
    main()
