"""Tuning records: what was measured on a device, and whether it still holds.

Invariant: a record is used on the machine, with the runtimes and for the bundle of which it was
made, or not at all. One that cannot be read is as good as none, and never an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edge import seams
from edge.accelerators import DEFAULT, Settings
from edge.folders import replace_file
from edge.hardware import Hardware, this_machine

FOLDER = "tuning"
VERSION = 1
Objective = Literal["latency", "throughput", "memory", "energy"]
LOOK: Literal["look"] = "look"
"""The objective of a record that an agent made at its start, from a few runs."""
_DISTRIBUTIONS = (
    "edgewright", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn",
    "ai-edge-litert", "tflite-runtime", "openvino",
)  # fmt: skip
_MAX_BYTES = 4 << 20

_Positive = Annotated[float, msgspec.Meta(ge=0)]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What must be the same for a record to hold. `runtimes` are versions by distribution;
    `bundle` is its identity."""

    hardware: Hardware
    runtimes: dict[str, str]
    bundle: str


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """The middle of what was measured, and its quartiles; `count` values."""

    median: _Positive
    low: _Positive
    high: _Positive
    count: int


class Figures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One way to run a model, and what was measured of it.

    `options` are the accelerator's, as canonical JSON. `accuracy_drop` is the largest loss that the
    bundle's manifest reports for the variant, None when nothing was measured; `rss_mb` the resident
    memory of a process that runs it alone (10^6 bytes); `energy_mj` millijoules of the whole board
    for one inference.
    """

    variant: str
    engine: str
    accelerator: str
    options: str = "{}"
    settings: Settings = DEFAULT
    slots: Annotated[int, msgspec.Meta(ge=1)] = 1
    latency_ms: Spread
    frames_per_s: _Positive = 0.0
    accuracy_drop: float | None = None
    rss_mb: _Positive | None = None
    energy_mj: _Positive | None = None

    @property
    def label(self) -> str:
        """For people."""
        slots = f", {self.slots} slots" if self.slots > 1 else ""
        return f"{self.variant} on {self.engine}:{self.accelerator}, {self.settings}{slots}"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one tuning: the best of `ranking` first.

    `noisy` says why the numbers are less sure than they look, or is empty; `refused` names what was
    not measured to the end, with the reason.
    """

    v: int = VERSION
    key: Key
    objective: Literal["latency", "throughput", "memory", "energy", "look"]
    wall: str
    streams: int = 1
    max_accuracy_drop: float | None = None
    max_rss_mb: float | None = None
    ranking: Annotated[tuple[Figures, ...], msgspec.Meta(min_length=1)]
    noisy: str = ""
    refused: dict[str, str] = {}

    @property
    def front(self) -> list[Figures]:
        """Those that no other beats in latency, memory and accuracy at once."""
        return front(self.ranking)


def current_key(bundle: str, engines: Iterable[str] = ()) -> Key:
    """The key of a bundle here and now, where these engines are used."""
    return Key(hardware=this_machine(), runtimes=runtimes(engines), bundle=bundle)


def runtimes(engines: Iterable[str]) -> dict[str, str]:
    """The versions of our runtimes that are installed, without importing one; and of those of
    `engines` that other packages brought."""
    import importlib.metadata  # slow, and of no use to a start without records

    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    others = {*engines} - seams.ENGINES.keys()
    for point in importlib.metadata.entry_points(group="edge.engines") if others else ():
        if point.name in others and point.dist is not None:
            found[point.dist.name] = point.dist.version
    return found


def read(state_dir: Path, bundle: str, *, look: bool = False) -> tuple[Record | None, str]:
    """The record of a bundle, or None with the reason: empty when there is none."""
    path = place(state_dir, bundle, look=look)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{path}: cannot be read: {error.strerror}"
    try:
        header = msgspec.json.decode(data)
        found = header.get("v") if isinstance(header, dict) else None
        if found != VERSION:
            return None, f"{path}: of version {found}; this one reads {VERSION}"
        record = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, f"{path}: damaged: {error}"
    changed = differences(record.key, current_key(bundle, {row.engine for row in record.ranking}))
    if changed:
        return None, f"{path}: {'; '.join(changed)}"
    return record, ""


def write(state_dir: Path, record: Record) -> Path:
    """Keep a record, in place of an older one. OSError when it cannot be written."""
    path = place(state_dir, record.key.bundle, look=record.objective == LOOK)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    replace_file(path, text, scratch=path.with_name(f".{path.name}.{os.getpid()}.new"))
    return path


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of what was measured."""
    import statistics

    if len(values) > 1:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        low = median = high = values[0]
    return Spread(
        median=round(median, 5), low=round(low, 5), high=round(high, 5), count=len(values)
    )


def place(state_dir: Path, bundle: str, *, look: bool = False) -> Path:
    """Where the record of the bundle with this identity lies."""
    digest = re.sub(r"[^0-9a-f]", "", bundle.removeprefix("sha256:"))[:24]
    return state_dir / FOLDER / f"{digest or 'bundle'}{'-look' if look else ''}.json"


def differences(before: Key, now: Key) -> list[str]:
    """What has changed, in words."""
    changed = [
        _changed(name, getattr(before.hardware, name), getattr(now.hardware, name))
        for name in Hardware.__struct_fields__
    ]
    for name in sorted(before.runtimes.keys() | now.runtimes.keys()):
        changed.append(_changed(name, before.runtimes.get(name), now.runtimes.get(name)))
    changed.append(_changed("bundle", before.bundle, now.bundle))
    return [text for text in changed if text]


def _changed(name: str, before: Any, now: Any) -> str:
    if before == now:
        return ""
    if isinstance(before, tuple) and isinstance(now, tuple):
        before, now = (
            " ".join(sorted(set(one) - set(other))) or "nothing more"
            for one, other in ((before, now), (now, before))
        )
    return f"{name} was {before or 'not there'}, is {now or 'not there'}"


def usable(record: Record, *, threads: int) -> list[Figures]:
    """The ranking for somebody who asks for so many threads; 0: whatever was fastest."""
    cores = record.key.hardware.cores
    return [
        row
        for row in record.ranking
        if row.settings.threads * row.slots <= max(cores, 1)
        and threads in (0, row.settings.threads)
    ]


def front(rows: Iterable[Figures]) -> list[Figures]:
    """The rows that no other row beats or equals in all of latency, memory and accuracy.

    What was not measured counts as worst; of two that are equal the first stays.
    """
    kept: list[Figures] = []
    for row in rows:
        if any(_beats(other, row) for other in kept):
            continue
        kept = [other for other in kept if not _beats(row, other)]
        kept.append(row)
    return sorted(kept, key=lambda row: row.latency_ms.median)


def _beats(one: Figures, other: Figures) -> bool:
    return all(mine <= theirs for mine, theirs in zip(_axes(one), _axes(other), strict=True))


def _axes(row: Figures) -> Sequence[float]:
    worst = float("inf")
    return (
        row.latency_ms.median,
        worst if row.rss_mb is None else row.rss_mb,
        worst if row.accuracy_drop is None else max(0.0, row.accuracy_drop),
    )
