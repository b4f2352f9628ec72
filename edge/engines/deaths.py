"""How a process dies of an engine: with a trace on disk; and what trace and marks say of it.

Invariant: a trace is used once; and an engine is named only where its mark, the trace or both leave
no other explanation.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from pathlib import Path
from typing import IO

import msgspec

from edge.engines import marks
from edge.engines.faults import Kind

CRASH_FILE = "crash.txt"
_OURS = "/edge/engines/"

log = logging.getLogger(__name__)


def arm(folder: Path) -> None:
    """Let the traces of a crash, or of a process that was ended for a hang, go to the folder.

    For a process that is an agent and nothing else.
    """
    global _crash_file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _crash_file = open(folder / CRASH_FILE, "a")  # noqa: SIM115 - open for as long as we live
    except OSError as error:
        log.warning("%s: no trace of a crash will be kept: %s", folder, error)
        return
    faulthandler.enable(_crash_file, all_threads=True)


_crash_file: IO[str] | None = None


def end_later(after_s: float | None) -> None:
    """End this process after so many seconds unless called again; only where `arm` was called."""
    if _crash_file is None:
        return
    if after_s is None:
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(after_s, exit=True, file=_crash_file)


def take_trace(folder: Path) -> str:
    """The trace that the last process left, once; empty when there is none."""
    path = folder / CRASH_FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if text:
            os.truncate(path, 0)
    except OSError:
        return ""
    return text


def verdict(mark: marks.Left, trace: str) -> tuple[Kind | None, str]:
    """Whether the last process died of this engine, as far as one can tell.

    A crash has left a trace, whose first words name the signal and whose current thread shows
    where. Without a trace the process was killed or the power went: that speaks against an
    accelerator in its first frames only.
    """
    risky = mark.suspect.risky
    after = f"after {mark.frames} runs"
    if trace.startswith("Timeout"):
        # A process that was stopped for as long looks the same; the plain runtimes let go of the
        # interpreter's lock while they run, so that it was not them.
        if mark.inside and risky:
            return "hang", f"a run did not come back and held Python's lock, {after}"
        return None, ""
    if trace:
        what = trace.partition("\n")[0].removeprefix("Fatal Python error: ")
        current = trace.partition("Current thread")[2].partition("\n\n")[0]
        if _OURS in current and mark.inside:
            return "crash", f"{what} {after}"
        if "<no Python frame>" in current and risky:
            return "crash", f"{what} in a thread of a runtime, {after}"
        return None, ""
    if risky and mark.inside and not mark.healthy:
        return "died", f"the process ended inside of a run without a trace, {after}"
    return None, ""


def with_its_twins(mark: marks.Left, left: list[marks.Left]) -> marks.Left:
    """The mark of one slot with what all slots of the engine have run: it is the engine that has
    shown for so long what it is."""
    same = [other for other in left if other.suspect == mark.suspect]
    return msgspec.structs.replace(
        mark,
        frames=sum(other.frames for other in same),
        frames_per_s=sum(other.frames_per_s for other in same),
    )
