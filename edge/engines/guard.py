"""The guard lets in engines that have proved themselves, and sees to it that bad ones stay out.

Invariant: whatever an engine does (wrong numbers, a crash, a hang), it does it to this device once:
the evidence is on disk before the process ends, and the next start takes the next engine.
"""

from __future__ import annotations

import collections
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge import accelerators, seams
from edge.accelerators import DelegateOptions, EngineRequest, PluginOptions
from edge.bundle import Bundle, on_disk
from edge.engines import deaths, marks, trial
from edge.engines.building import build, keepable
from edge.engines.faults import EngineFault, Kind, prove
from edge.engines.optimised import Optimised
from edge.engines.quarantine import Quarantine, Record, Suspect, library_digest
from edge.engines.watch import Watch
from edge.errors import BundleError, EngineError
from edge.manifest import Variant
from edge.wire import AlarmData, ModelRef, wall_text

_TICK_S = 0.25

log = logging.getLogger(__name__)


class Quarantined(EngineError):
    """This engine is in quarantine with this model."""


class Guard:
    """Keeps the quarantine of one state directory; `run` watches for hangs.

    `trial_s` is how long a risky engine may take to prove itself in a process of its own, `hang_s`
    how long one run may last before the process is ended. Without `marks` nothing is left for the
    next start: for commands that only look.
    """

    def __init__(
        self, folder: Path, *, trial_s: float = 60.0, hang_s: float = 30.0, marks: bool = True
    ) -> None:
        self.quarantine = Quarantine(folder)
        self.folder = folder
        self.trial_s = trial_s
        self._hang_s = hang_s
        self.writes = marks
        """Whether it may leave things in its folder."""
        self._watches: list[Watch] = []
        self._inside_s: dict[int, tuple[int, float]] = {}
        self._alarms: collections.deque[AlarmData] = collections.deque()
        self._told: set[tuple[str, str]] = set()
        if marks:
            self._blame()

    # ---- letting in

    def admit(
        self, bundle: Bundle, variant: Variant, name: str, request: EngineRequest
    ) -> tuple[seams.Engine, Watch]:
        """The engine `name` with this variant, proved here and now, and its watch.

        Quarantined, EngineFault (and it is in quarantine now), or EngineError when it can't be had.
        """
        suspect = _suspect(bundle, variant, name, request)
        known = self.quarantine.find(suspect)
        if known is not None:
            raise Quarantined(f"in quarantine since {known.wall}: {known.kind}: {known.detail}")
        try:
            if suspect.risky:
                self._try_first(bundle, variant, name, request)
            mark = self._mark(suspect)
            try:
                with self.inside(mark):
                    engine = self._proved(bundle, variant, name, request)
            except BaseException:
                if mark:
                    mark.remove()
                raise
        except EngineFault as fault:
            self.accuse(suspect, fault.kind, fault.detail, evidence=fault.evidence)
            raise
        return engine, self._watch(
            suspect, mark, engine, bundle, variant, max_latency_ms=request.max_latency_ms
        )

    def _proved(
        self, bundle: Bundle, variant: Variant, name: str, request: EngineRequest
    ) -> seams.Engine:
        """Built and proved. What was kept of the model may be to blame for a fault: without it the
        engine has another chance."""
        place = Optimised(self.folder) if self.writes else None
        kept = keepable(place, bundle, variant, name, request) if place else None
        while True:
            engine = build(bundle, variant, name, request, kept=kept)
            try:
                prove(engine, bundle, variant, max_latency_ms=request.max_latency_ms)
            except BaseException as error:
                engine.close()
                if kept is None or not isinstance(error, EngineFault):
                    raise
                kept.drop()
                kept = None
            else:
                return engine

    def admit_twin(
        self, engine: seams.Engine, watch: Watch, bundle: Bundle, variant: Variant
    ) -> tuple[seams.Engine, Watch]:
        """A twin of an engine that was let in, and its own watch.

        A plain one is not proved again: it is the same model in the same runtime. EngineFault (and
        both are in quarantine now), or EngineError when there are no twins.
        """
        suspect = watch.suspect
        mark = self._mark(suspect)
        try:
            with self.inside(mark):
                twin = engine.twin()
                try:
                    if suspect.risky:
                        prove(twin, bundle, variant, max_latency_ms=watch.max_latency_ms)
                except BaseException:
                    twin.close()
                    raise
        except BaseException as error:
            if mark:
                mark.remove()
            if isinstance(error, EngineFault):
                self.accuse(suspect, error.kind, error.detail, evidence=error.evidence)
            raise
        return twin, self._watch(
            suspect, mark, twin, bundle, variant, max_latency_ms=watch.max_latency_ms
        )

    def _watch(
        self,
        suspect: Suspect,
        mark: marks.Mark | None,
        engine: seams.Engine,
        bundle: Bundle,
        variant: Variant,
        *,
        max_latency_ms: float,
    ) -> Watch:
        watch = Watch(
            suspect,
            mark=mark,
            prove=lambda: prove(engine, bundle, variant),
            alarm=lambda code, detail: self.alarm(code, detail),
            max_latency_ms=max_latency_ms,
        )
        self._watches.append(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        """Its engine is closed."""
        if watch in self._watches:
            self._watches.remove(watch)
        if watch.mark:
            watch.mark.remove()

    def accuse(
        self,
        suspect: Suspect,
        kind: Kind,
        detail: str,
        *,
        evidence: str = "",
        facts: dict[str, float] | None = None,
    ) -> None:
        """Into quarantine with it."""
        record = Record(
            suspect=suspect, kind=kind, detail=detail, wall=wall_text(time.time_ns()),
            evidence=evidence[:2000], facts=facts or {},
        )  # fmt: skip
        log.error("engine quarantined: %s", record)
        try:
            self.quarantine.add(record)
        except OSError as error:
            log.error("the quarantine cannot be written, so this will happen again: %s", error)

    def _try_first(
        self, bundle: Bundle, variant: Variant, name: str, request: EngineRequest
    ) -> None:
        try:
            with on_disk(bundle) as path:
                answer = trial.try_engine(
                    trial.Request(
                        bundle=str(path),
                        variant=variant.name,
                        engine=name,
                        accelerator=request.accelerator,
                        options=accelerators.canonical(request.options),
                        settings=request.settings,
                        max_latency_ms=request.max_latency_ms,
                    ),
                    deadline_s=self.trial_s,
                )
        except BundleError as error:
            raise EngineError(f"cannot be tried in a process of its own: {error}") from error
        log.info(
            "%s with %s: proved in a process of its own: %.3g of the allowed error, %.2f ms; %s",
            answer.name, variant.name, answer.error, answer.latency_ms, answer.placement,
        )  # fmt: skip

    def _mark(self, suspect: Suspect) -> marks.Mark | None:
        """A full disk stops no engine: a crash will then not be known for what it was."""
        if not self.writes:
            return None
        try:
            return marks.Mark(self.folder, suspect)
        except OSError as error:
            log.warning("%s: no mark for %s: %s", self.folder, suspect.name, error)
            return None

    @contextmanager
    def inside(self, mark: marks.Mark | None) -> Iterator[None]:
        """While an engine is built, proved or tried in this process, nobody else watches the
        time."""
        if mark:
            mark.enter()
        deaths.end_later(2 * self._hang_s)
        try:
            yield
        finally:
            deaths.end_later(None)
            if mark:
                mark.leave()

    # ---- at work

    def run(self, stop: threading.Event) -> None:
        """Watch for a run that does not come back: then the process ends, with evidence."""
        before_s = time.monotonic()
        while not stop.wait(_TICK_S):
            # For a hang that holds the interpreter's lock, so that this thread cannot run.
            deaths.end_later(self._hang_s + 5)
            now_s = time.monotonic()
            self._look(now_s - before_s)
            before_s = now_s
        deaths.end_later(None)

    def _look(self, gap_s: float) -> None:
        """Add the time since the last look to the runs that are still the same.

        Of a longer gap only a little counts: then this process itself was stopped or starved.
        """
        for watch in list(self._watches):
            entered_ns = watch.entered_ns
            known_ns, inside_s = self._inside_s.get(id(watch), (0, 0.0))
            if not entered_ns or entered_ns != known_ns:
                self._inside_s[id(watch)] = (entered_ns, 0.0)
                continue
            inside_s += min(gap_s, 2 * _TICK_S)
            self._inside_s[id(watch)] = (entered_ns, inside_s)
            if inside_s > self._hang_s:
                self._end(watch, inside_s)

    def _end(self, watch: Watch, inside_s: float) -> None:
        facts = self._facts(watch.suspect, ended_mono_s=time.monotonic() - inside_s)
        self.accuse(
            watch.suspect,
            "hang",
            f"a run did not come back within {self._hang_s:g} s,"
            f" after {facts.get('frames', 0):.0f} runs",
            facts=facts,
        )
        logging.shutdown()
        os._exit(EngineFault.exit_code)

    def bad(self, watch: Watch, fault: EngineFault) -> None:
        """An engine went bad at work: the agent will end of it."""
        self.accuse(
            watch.suspect,
            fault.kind,
            fault.detail,
            facts=self._facts(watch.suspect, ended_mono_s=time.monotonic()),
        )

    def _facts(self, suspect: Suspect, *, ended_mono_s: float) -> dict[str, float]:
        """What the next start needs to say what it cost, of all slots of an engine together."""
        found = [watch.mark for watch in self._watches if watch.suspect == suspect]
        left = [mark for mark in found if mark is not None]
        if not left:
            return {}
        return {
            "frames": sum(mark.frames for mark in left),
            "frames_per_s": round(sum(mark.frames_per_s for mark in left), 2),
            "ended_mono_s": round(ended_mono_s, 3),
        }

    def alarm(self, code: str, detail: str, *, once: str = "") -> None:
        """Something to report; once for each code and `once` (else the detail's beginning)."""
        key = (code, once or detail.partition(":")[0])
        if key not in self._told:
            self._told.add(key)
            log.warning("%s: %s", code, detail)
            self._alarms.append(AlarmData(code=code, detail=detail))

    def alarms(self) -> Iterator[AlarmData]:
        """What is to be reported; whoever takes it, reports it."""
        while self._alarms:
            yield self._alarms.popleft()

    def untold(self) -> list[Record]:
        """Records that no alarm has reported yet."""
        return [record for record in self.quarantine.records if not record.told]

    # ---- after a death

    def _blame(self) -> None:
        """Read what the last process left, and accuse those that it died of."""
        left = marks.take(self.folder)
        trace = deaths.take_trace(self.folder)
        for one in left:
            mark = deaths.with_its_twins(one, left)
            kind, detail = deaths.verdict(mark, trace)
            if kind is None:
                continue
            facts: dict[str, float] = {"frames": mark.frames}
            if mark.silent_s is not None:
                facts["frames_per_s"] = round(mark.frames_per_s, 2)
                facts["ended_mono_s"] = round(time.monotonic() - mark.silent_s, 3)
            if self.quarantine.find(mark.suspect) is None:
                self.accuse(mark.suspect, kind, detail, evidence=trace, facts=facts)


def _suspect(bundle: Bundle, variant: Variant, name: str, request: EngineRequest) -> Suspect:
    manifest = bundle.manifest
    return Suspect(
        engine=name,
        accelerator=request.accelerator,
        version=_version(name, request.options),
        options=accelerators.canonical(request.options),
        settings=msgspec.structs.replace(request.settings, threads=0),
        model=ModelRef(
            name=manifest.name,
            version=manifest.version,
            bundle=bundle.identity,
            variant=variant.name,
        ),
    )


def _version(name: str, options: Any) -> str:
    """The runtime's version, with the digest of the library that it is to load."""
    try:
        module = importlib.import_module(seams.find("engines", name).__module__)
        version = str(module.version())
    except ImportError as error:
        raise EngineError(f"{name}: not installed: {error}") from error
    except AttributeError:
        version = "unknown"
    if isinstance(options, DelegateOptions | PluginOptions):
        version += f" {library_digest(options.library)}".rstrip()
    return version
