"""A risky engine is first tried in a process of its own, which may crash or hang.

`python -m edge.engines.trial` reads one JSON request from its standard input, proves the engine
and writes one JSON answer. How it ends is what is learned: the exit status names the fault, a
signal is a crash, and no end before the deadline is a hang.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from edge import accelerators, board
from edge.accelerators import EngineRequest, Settings
from edge.bundle import Bundle
from edge.engines.building import build
from edge.engines.faults import EngineFault, Kind, golden_inputs, prove
from edge.errors import EdgeError, EngineError
from edge.wire import Placement

_STATUS: dict[int, Kind] = {40: "wrong", 41: "not_finite", 42: "slow"}
_ERROR = 43
_CRASHES = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS,
}  # fmt: skip


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be tried. `options` are the accelerator's, as canonical JSON."""

    bundle: str
    variant: str
    engine: str
    accelerator: str
    options: str
    settings: Settings
    slots: int = 1
    max_latency_ms: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: what it showed, or in `detail` why not. `rss_mb` is the resident memory of
    the process afterwards, in MB (10^6 bytes)."""

    name: str = ""
    version: str = ""
    placement: Placement = Placement()
    latency_ms: float = 0.0
    rss_mb: float = 0.0
    error: float = 0.0
    detail: str = ""


def try_engine(request: Request, *, deadline_s: float) -> Answer:
    """Prove an engine in a process of its own.

    EngineFault for one that crashes, hangs, is wrong, not finite or slow; EngineError when it
    cannot be had here, which is nobody's fault.
    """
    import subprocess

    program = subprocess.Popen(
        [sys.executable, "-m", "edge.engines.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    try:
        out, err = program.communicate(msgspec.json.encode(request), timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise EngineFault(
            "hang", f"no answer to its golden cases within {deadline_s:g} s"
        ) from None
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()
    code = program.returncode
    if code < 0 and -code in _CRASHES:
        raise EngineFault(
            "crash",
            f"{signal.Signals(-code).name} at the first use, in a process of its own",
            evidence=err.decode(errors="replace"),
        )
    try:
        answer = msgspec.json.decode(out.rpartition(b"\n")[2] or b"{}", type=Answer)
    except msgspec.DecodeError:
        answer = Answer(detail=f"no answer; exit status {code}")
    if code in _STATUS:
        raise EngineFault(_STATUS[code], answer.detail)
    if code:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise EngineError(answer.detail or f"the trial ended with status {code}: {last[:300]}")
    return answer


def main() -> int:
    """The child's side."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    status = 0
    try:
        answer = _prove(request)
    except EngineFault as fault:
        status = next(code for code, kind in _STATUS.items() if kind == fault.kind)
        answer = Answer(detail=fault.detail)
    except EdgeError as error:
        status, answer = _ERROR, Answer(detail=str(error))
    # A runtime may write to standard output too: ours is the last line.
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(answer))
    sys.stdout.flush()
    # Some delegates crash when they are taken down; that is none of the caller's business.
    os._exit(status)


def _prove(request: Request) -> Answer:
    bundle = Bundle.open(request.bundle)
    variant = bundle.manifest.variant(request.variant)
    engine = build(
        bundle,
        variant,
        request.engine,
        EngineRequest(
            accelerator=request.accelerator,
            options=accelerators.decode(request.accelerator, request.options),
            settings=request.settings,
        ),
    )
    proof = prove(engine, bundle, variant, max_latency_ms=request.max_latency_ms, timed=True)
    twins = [engine.twin() for _ in range(request.slots - 1)]
    for twin in twins:
        twin.run(golden_inputs(bundle, variant))
    return Answer(
        name=engine.name,
        version=engine.version,
        placement=engine.placement,
        latency_ms=proof.latency_ms,
        rss_mb=board.memory_mb(),
        error=proof.error,
    )


if __name__ == "__main__":
    main()
