"""`make bench`: every figure of the table in README.md, measured here and now.

    python bench/run.py [--quick] [--only GROUP …] [--out FOLDER] [--write-readme]

Prints a table, and writes latest.json and latest.svg to bench/results. `--quick` takes a minute and
shows that everything runs: its figures are for nobody's eyes but yours. Groups: frames, peers,
start, throughput, tuning, reporting; or a model's name. README.md says what each row is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import frames
import peers
import results
import startup
import subjects
from measuring import Row, absent

GROUPS = ("frames", "peers", "start", "throughput", "tuning", "reporting")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=[*GROUPS, *subjects.ALL])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--write-readme", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = measure(set(arguments.only), quick=arguments.quick)
    print(results.table(rows))
    about = {
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(), "versions": _versions(), "quick": arguments.quick,
        "load": os.getloadavg()[0], "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    results.write(arguments.out, rows, about)
    if arguments.write_readme:
        results.write_readme(Path(__file__).with_name("README.md"), rows, about)
    wrong = [row for row in rows if str(row["answers"]).startswith("wrong")]
    if wrong:
        print(f"\n{len(wrong)} rows have wrong answers, and do not count", file=sys.stderr)


def measure(only: set[str], *, quick: bool) -> list[Row]:
    """The rows of the groups or models in `only`; of all where it is empty."""
    groups = {name for name in GROUPS if not only or name in only}
    models = [name for name in subjects.names() if "frames" in groups or name in only]
    rows: list[Row] = []
    for name in models:
        rows += _guarded(name, lambda name=name: _frames(name, quick))  # type: ignore[misc]
    for name in subjects.ALL:
        if name not in models and ("frames" in groups or name in only):
            rows.append(absent(name, "edgewright", "needs its bundle, or EDGE_ASSETS"))
    for group, action in (
        ("peers", _peers), ("start", _start), ("throughput", _throughput), ("tuning", _tuning),
        ("reporting", _reporting),
    ):  # fmt: skip
        if group in groups:
            rows += _guarded(group, lambda action=action: action(quick))  # type: ignore[misc]
    return rows


def _guarded(name: str, action: Callable[[], list[Row]]) -> list[Row]:
    """One that fails is named in the table, and the others go on."""
    print(f"measuring {name} …", file=sys.stderr)
    try:
        return action()
    except (Exception, SystemExit) as error:
        return [absent(name, "edgewright", f"failed: {type(error).__name__}: {error}"[:160])]


def _frames(name: str, quick: bool) -> list[Row]:
    with subjects.opened(name) as subject:
        return frames.rows(subject, rounds=3 if quick else 60)


def _peers(quick: bool) -> list[Row]:
    if "yolox_nano" not in subjects.names():
        return [absent("yolox_nano", name, "EDGE_ASSETS is not set") for name in peers.NAMES]
    with subjects.opened("yolox_nano") as subject:
        right = frames.expected(subject)
        assert right is not None and subject.model_file is not None
        return peers.rows(
            subject.name,
            model=subject.model_file,
            pictures=subject.picture_files,
            expected=right,
            threshold=subject.threshold,
            rounds=3 if quick else 60,
        )


def _start(quick: bool) -> list[Row]:
    return startup.rows(rounds=2 if quick else 15)


def _throughput(quick: bool) -> list[Row]:
    import throughput

    rounds, turns = (2, 5) if quick else (12, 40)
    rows: list[Row] = []
    for subject in throughput.subjects():
        rows += throughput.overlap(subject, rounds=rounds)
        rows += throughput.core_busy(subject, rounds=rounds)
    for count in (1, 4, 16):
        rows += throughput.streams(subject, turns=turns, count=count)
    return [_filled(row, "bare sessions", better="more") for row in rows]


def _tuning(quick: bool) -> list[Row]:
    import tuning

    from edge.bundle import Bundle

    rows: list[Row] = []
    for name in ("wrist_activity",) if quick else ("wrist_activity", "meter_reader"):
        with tempfile.TemporaryDirectory() as folder:
            bundle = Bundle.open(f"builtin:{name}")
            rows += tuning.measure(bundle, Path(folder), *((0.05, 2) if quick else (0.5, 10)))
    return [_filled(row, "see metric", better="more") for row in rows]


def _reporting(quick: bool) -> list[Row]:
    script = Path(__file__).with_name("reporting.py")
    sizes = (500, 1000, 1) if quick else (10_000, 50_000, 3)
    options = [f"--{k}={v}" for k, v in zip(("events", "backlog", "rounds"), sizes, strict=True)]
    done = subprocess.run(
        [sys.executable, str(script), "--json", *options],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    figures = json.loads(done.stdout)

    def row(metric: str, ours: str, reference: str = "", ratio: str = "", unit: str = "") -> Row:
        found = {"case": "reporting", "metric": metric, "ours": figures[ours], "unit": unit}
        found |= {"reference": figures[reference], "ratio": figures[ratio]} if reference else {}
        return _filled(found, "plain paho" if "paho" in reference else reference)

    return [
        row("events confirmed, a second", "confirmed_per_s", "plain_paho_per_s", "ratio"),
        row("append, 99th percentile", "append_p99_ms", unit="ms"),
        row("backlog drained, events a second", "backlog_drained_per_s"),
        row("bytes an event in batches", "bytes_per_event_in_batches", unit="bytes"),
        row("ingest of two ÷ of one", "ingest_2_per_s", "ingest_1_per_s", "ingest_2_ratio"),
    ]


def _filled(row: dict[str, Any], against: str, *, better: str = "less") -> Row:
    """A row of another script in the form of ours."""
    empty = dict.fromkeys(("ours", "reference", "ratio", "low", "high", "answers"))
    return {"who": "edgewright", "against": against, "unit": "", "better": better, **empty, **row}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("edgewright", "onnxruntime", "ai-edge-litert", "opencv-python-headless", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
