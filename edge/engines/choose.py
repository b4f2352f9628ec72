"""Which engine runs: the first that fits what was asked for, and what is said of a fallback.

Invariant: nothing is silent. Whatever runs elsewhere than asked for is told, with the reasons.

What is tried first, where several would fit:

1. with a tuning record that holds, what it found fastest (edge/tuning.py);
2. without one, in an agent, what a look of two seconds finds clearly faster (look.py);
3. else, and for every Model without a state directory, the order of the manifest. `edge convert`
   puts ONNX fp32 first, and that is the sane choice for who cannot measure: where int8 or LiteRT
   is faster depends on the model (0.23 to 2.5 times ONNX fp32 on the same machine), and fp32 is
   never less exact.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from edge import accelerators, seams, tuning
from edge.accelerators import AUTO, CPU, SHAPE_OPS, EngineRequest
from edge.bundle import Bundle
from edge.engines.faults import EngineFault
from edge.engines.guard import Guard, Quarantined
from edge.engines.host import EngineHost, Hosts, fit
from edge.engines.look import Candidate, look
from edge.errors import BundleError, ConfigError, EngineError
from edge.manifest import Variant
from edge.wire import Placement, wall_text

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """What runs: `fallback` says why it is not what was asked for, or is empty."""

    variant: Variant
    host: EngineHost
    fallback: str


def choose(
    bundle: Bundle, hosts: Hosts, *, variant: str = AUTO, request: EngineRequest | None = None
) -> Chosen:
    """The first engine that runs a variant as `request` wants it.

    Tried in order: the accelerator asked for with each variant and engine, as this module's
    docstring says, then, unless the policy is `require`, the CPU. `require` also wants every node
    there, but for SHAPE_OPS. EngineError when none does, with the reason of each; BundleError for
    a variant that is not there.
    """
    request = request or EngineRequest()
    if variant == AUTO:
        variants = bundle.manifest.variants
    else:
        try:
            variants = (bundle.manifest.variant(variant),)
        except KeyError as error:
            raise BundleError(f"{bundle.path}: {error.args[0]}") from error
    reasons: list[str] = []
    faults: list[str] = []
    ways = list(candidates(variants, request))
    if hosts.guard is not None:
        ways = _measured(bundle, ways, request, hosts, hosts.guard)
    for candidate, engine, wanted in ways:
        label = f"{candidate.name} on {engine}:{wanted.accelerator}"
        try:
            host = hosts.get(bundle, candidate, engine=engine, request=wanted)
            if request.policy == "require":
                _require_placement(host, wanted.accelerator)
        except EngineError as error:
            reasons.append(f"{label}: {error}")
            if isinstance(error, EngineFault | Quarantined):
                faults.append(reasons[-1])
            continue
        host.join()
        elsewhere = _is_elsewhere((candidate, engine, wanted), request)
        if elsewhere and not reasons:
            reasons.append(f"no engine runs {candidate.format} on {request.accelerator}")
        chosen = Chosen(candidate, host, "; ".join(reasons if elsewhere else faults))
        _tell(chosen, wanted, hosts.guard)
        return chosen
    if len(reasons) == 1:
        raise EngineError(f"{bundle.path}: {reasons[0]}")
    raise EngineError(f"{bundle.path}: no variant runs here: " + "; ".join(reasons))


def _tell(chosen: Chosen, wanted: EngineRequest, guard: Guard | None) -> None:
    """Nothing is silent: `prefer` makes an alarm of a fallback, `any` a line in the log."""
    placement = chosen.host.placement
    told = {"engine_fallback": chosen.fallback}
    if left := _elsewhere(placement):
        told["engine_partly_placed"] = f"{left} are not on {wanted.accelerator} ({placement})"
    for code, what in told.items():
        if not what:
            continue
        text = f"{chosen.variant.name} runs on {chosen.host.name}: {what}"
        if guard is not None and wanted.policy == "prefer":
            guard.alarm(code, text)
        else:
            log.warning("%s: %s", code.replace("_", " "), text)


def _measured(
    bundle: Bundle, ways: list[Candidate], request: EngineRequest, hosts: Hosts, guard: Guard
) -> list[Candidate]:
    """The candidates as a record orders them and sets them up, or else a look."""
    name = bundle.manifest.name
    record, reason = tuning.read(guard.folder, bundle.identity)
    if reason:
        log.warning("%s: its tuning record is not used (%s); `edge tune` makes a new one",
                    name, reason)  # fmt: skip
    if record is not None:
        rows = tuning.usable(record, threads=request.settings.threads)
        if any(_key(way) in {_key_of(row) for row in rows} for way in ways):
            log.info("%s: as the tuning record of %s has it", name, record.wall)
            return _in_order(ways, rows, request, settings=not request.settings.threads)
        log.info("%s: its tuning record says nothing of what is asked for", name)
    if len({variant.name for variant, _, _ in ways}) < 2:
        return ways
    record, reason = tuning.read(guard.folder, bundle.identity, look=True)
    if reason:
        log.info("%s: the last look does not count any more: %s", name, reason)
    known = {_key_of(row) for row in record.ranking} if record else set()
    if not any(_key(way) in known for way in ways):
        fitted = [
            (variant, engine, fit(wanted, workers=hosts.workers))
            for variant, engine, wanted in ways
        ]
        record = _look(bundle, fitted, request, guard) if guard.writes else None
    return _in_order(ways, record.ranking, request) if record else ways


def _look(
    bundle: Bundle, ways: list[Candidate], request: EngineRequest, guard: Guard
) -> tuning.Record | None:
    """Look at the first accelerator on which something runs, and keep what was seen."""
    groups: dict[tuple[bool, str], list[Candidate]] = {}
    for way in ways:
        groups.setdefault((_is_elsewhere(way, request), way[2].accelerator), []).append(way)
    for group in groups.values():
        if len(group) < 2:
            return None

        def accept(engine: seams.Engine, group: list[Candidate] = group) -> None:
            if request.policy == "require":
                _require_placement(engine, group[0][2].accelerator)

        rows = look(bundle, group, guard, accept=accept)
        if rows:
            break
    else:
        return None
    record = tuning.Record(
        key=tuning.current_key(bundle.identity, {row.engine for row in rows}),
        objective=tuning.LOOK,
        wall=wall_text(time.time_ns()),
        ranking=tuple(rows),
    )
    log.info("%s: a look: %s", bundle.manifest.name, "; ".join(
        f"{row.variant} {row.latency_ms.median:.3g} ms" for row in rows
    ))  # fmt: skip
    try:
        tuning.write(guard.folder, record)
    except OSError as error:
        log.warning("%s: what the look found cannot be kept: %s", guard.folder, error)
    return record


def _in_order(
    ways: list[Candidate],
    rows: Sequence[tuning.Figures],
    request: EngineRequest,
    *,
    settings: bool = False,
) -> list[Candidate]:
    """The candidates in the order of `rows`, those that it does not have last; what was asked for
    stays before what it falls back to. With `settings` each is set up as its row says."""
    best: dict[Any, tuple[int, tuning.Figures]] = {}
    for rank, row in enumerate(rows):
        best.setdefault(_key_of(row), (rank, row))

    def place(way: Candidate) -> tuple[bool, int]:
        return _is_elsewhere(way, request), best[_key(way)][0] if _key(way) in best else len(rows)

    ordered = []
    for variant, engine, wanted in sorted(ways, key=place):
        found = best.get(_key((variant, engine, wanted)))
        if settings and found is not None:
            # Tuned for one stream says nothing of what others may have at the same time.
            slots = found[1].slots if found[1].slots > 1 else 0
            wanted = dataclasses.replace(wanted, settings=found[1].settings, slots=slots)
        ordered.append((variant, engine, wanted))
    return ordered


def _is_elsewhere(way: Candidate, request: EngineRequest) -> bool:
    """Whether it is not what was asked for."""
    _, engine, wanted = way
    return wanted.accelerator != request.accelerator != AUTO or engine != request.engine != AUTO


def _key(way: Candidate) -> tuple[str, str, str, str]:
    variant, engine, wanted = way
    return variant.name, engine, wanted.accelerator, accelerators.canonical(wanted.options)


def _key_of(row: tuning.Figures) -> tuple[str, str, str, str]:
    return row.variant, row.engine, row.accelerator, row.options


def candidates(variants: tuple[Variant, ...], request: EngineRequest) -> Iterator[Candidate]:
    """Variants with an engine and an accelerator, the preferred ones first."""
    found = False
    known = request.accelerator in (AUTO, *accelerators.TABLE)
    if not known and request.engine in (AUTO, *seams.ENGINES):
        raise EngineError(
            f"accelerator {request.accelerator!r} is not supported; there are"
            f" {', '.join(accelerators.names())}"
        )
    for accelerator, asked in _preferences(request):
        same = accelerator == request.accelerator
        wanted = dataclasses.replace(
            request,
            accelerator=accelerator,
            options=_options(accelerator, request.options if same else None),
        )
        for variant in variants:
            for engine in _engines(accelerator, asked, variant):
                found = True
                yield variant, engine, wanted
    if not found:
        formats = ", ".join(sorted({variant.format for variant in variants}))
        raise EngineError(f"no engine runs {formats} on {request.accelerator}")


def _preferences(request: EngineRequest) -> list[tuple[str, str]]:
    """Accelerators, each with the engine that is asked for; the last resort is any engine's CPU."""
    if request.accelerator == AUTO:
        names = seams.names("engines") if request.engine == AUTO else [request.engine]
        at_hand = {accelerator for name in names for accelerator in available(name)}
        wanted = [name for name in accelerators.TABLE if name in at_hand or name == CPU]
    else:
        wanted = [request.accelerator]
    preferences = [(accelerator, request.engine) for accelerator in wanted]
    if request.policy == "require" or (CPU, AUTO) in preferences:
        return preferences
    return [*preferences, (CPU, AUTO)]


def available(engine: str) -> list[str]:
    """The accelerators that an engine has here; none when its runtime is not installed."""
    try:
        module = importlib.import_module(seams.find("engines", engine).__module__)
        found: list[str] = module.available()
    except (ImportError, AttributeError, EngineError):
        return []
    return found


def _engines(accelerator: str, asked: str, variant: Variant) -> list[str]:
    row = accelerators.TABLE.get(accelerator)
    if asked != AUTO:
        names = [asked]
    elif row is not None:
        names = list(row.engines)
    else:
        return []
    try:
        return [name for name in names if variant.format in seams.find("engines", name).formats]
    except ConfigError as error:
        raise EngineError(str(error)) from error


def _options(accelerator: str, given: Any) -> accelerators.Options | None:
    """The options given, or the accelerator's defaults."""
    row = accelerators.TABLE.get(accelerator)
    if given is not None or row is None:
        chosen: accelerators.Options | None = given
        return chosen
    try:
        return row.options()
    except TypeError as error:
        raise EngineError(
            f"accelerator {accelerator}: accelerator_options are missing: {error}"
        ) from error


def _require_placement(host: EngineHost | seams.Engine, accelerator: str) -> None:
    """EngineError unless every node, but for shape operators, is where it was asked for."""
    placement = host.placement
    if accelerator == CPU:
        return
    if not placement.nodes:
        raise EngineError(
            f'{host.name}: policy "require", but this runtime cannot tell where nodes run'
        )
    if left := _elsewhere(placement):
        raise EngineError(
            f'{host.name}: policy "require", but {left} run elsewhere ({placement});'
            f" allowed on the CPU are {', '.join(sorted(SHAPE_OPS))}"
        )


def _elsewhere(placement: Placement) -> str:
    """The nodes that are not where they were asked for, counted; but for shape operators."""
    left = {op: count for op, count in placement.elsewhere.items() if op not in SHAPE_OPS}
    return ", ".join(f"{count} {op}" for op, count in sorted(left.items()))
