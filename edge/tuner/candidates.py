"""What could be tried with a bundle here, in the order in which one would rather have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from edge import accelerators
from edge.accelerators import CPU, EngineRequest, Settings
from edge.engines.choose import candidates
from edge.engines.look import Candidate as Way
from edge.manifest import Manifest, Variant

_MOST_THREADS = 16
_LOWER_IS_BETTER = ("extra", "missed", "error", "loss", "cer", "wer", "eer", "rmse")
_IN_UNITS = ("mae",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run a bundle. `options` are the accelerator's, as canonical JSON."""

    variant: str
    engine: str
    accelerator: str
    options: str
    settings: Settings
    slots: int = 1

    @property
    def request(self) -> EngineRequest:
        """What an engine of it is asked for."""
        return EngineRequest(
            engine=self.engine,
            accelerator=self.accelerator,
            options=accelerators.decode(self.accelerator, self.options),
            settings=self.settings,
            slots=self.slots,
        )

    def __str__(self) -> str:
        slots = f", {self.slots} slots" if self.slots > 1 else ""
        return f"{self.variant} on {self.engine}:{self.accelerator}, {self.settings}{slots}"


def grid(
    variants: Iterable[Variant],
    requests: Iterable[EngineRequest],
    *,
    cores: int,
    streams: int = 1,
) -> list[Candidate]:
    """Every variant on every engine and accelerator that the requests allow and this machine has,
    with the settings that may matter there; plainer settings come first.

    Never more threads in all slots than cores. EngineError when nothing runs here at all.
    """
    variants = list(variants)
    found: dict[Candidate, None] = {}
    for request in requests:
        ways = list(candidates(tuple(variants), request))
        on_cpu = {way[1] for way in ways if way[2].accelerator == CPU}
        for way in ways:
            if way[2].accelerator == "xnnpack" and way[1] == "tflite" and "tflite" in on_cpu:
                continue  # the same as its CPU, which has XNNPACK as a setting
            for settings, slots in _set_up(way, cores, streams, request.settings.threads):
                candidate = Candidate(
                    variant=way[0].name,
                    engine=way[1],
                    accelerator=way[2].accelerator,
                    options=accelerators.canonical(way[2].options),
                    settings=settings,
                    slots=slots,
                )
                found[candidate] = None
    order = [variant.name for variant in variants]
    return sorted(found, key=lambda one: (order.index(one.variant), _plainness(one)))


def _set_up(way: Way, cores: int, streams: int, asked: int) -> Iterator[tuple[Settings, int]]:
    _, engine, request = way
    on_cpu = request.accelerator == CPU
    for threads in [asked] if asked else _powers(min(cores, _MOST_THREADS)):
        if not request.on_cores and threads > 1:
            continue
        for slots in _powers(min(streams, max(1, cores // threads))):
            for spinning in (False, True) if engine == "onnx" and threads > 1 else (False,):
                for layout in ("blocked", "plain") if engine == "onnx" and on_cpu else ("blocked",):
                    for arena in (True, False) if engine == "onnx" and on_cpu else (True,):
                        for xnnpack in (True, False) if engine == "tflite" and on_cpu else (True,):
                            settings = Settings(
                                threads=threads,
                                spinning=spinning,
                                layout=layout,
                                arena=arena,
                                xnnpack=xnnpack,
                            )
                            yield settings, slots


def _powers(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    return sorted({1 << exponent for exponent in range(most.bit_length())} | {most})


def _plainness(candidate: Candidate) -> tuple[int, ...]:
    settings = candidate.settings
    odd = [settings.spinning, settings.layout == "plain", not settings.arena, not settings.xnnpack]
    return sum(odd), settings.threads * candidate.slots, *odd


def accuracy_drop(manifest: Manifest, variant: Variant) -> float | None:
    """The largest loss that was measured of a variant: on any metric against the original, or, in a
    bundle without truths, the share of answers that differ from the original's.

    None when nothing was measured. Metrics in units of the data say nothing of shares.
    """
    drops = []
    for name, value in variant.accuracy.items():
        if name in _IN_UNITS:
            continue
        original = manifest.provenance.reference.get(name)
        if original is None:
            every = [other.accuracy[name] for other in manifest.variants if name in other.accuracy]
            original = min(every) if _lower_is_better(name) else max(every)
        drops.append(value - original if _lower_is_better(name) else original - value)
    if not drops:
        for name, value in variant.agreement.items():
            if name not in ("mean_iou", "extra"):
                drops.append(1 - value)
    return round(max(drops), 6) if drops else None


def _lower_is_better(name: str) -> bool:
    return any(word in name.split("_") for word in _LOWER_IS_BETTER)
