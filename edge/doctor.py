"""Which engines this machine really has: tried with a real model, not only listed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from edge import accelerators, golden, seams
from edge.accelerators import CPU, EngineRequest
from edge.board import Board
from edge.bundle import BUILTIN, Bundle
from edge.engines import choose, host, trial
from edge.engines.quarantine import Quarantine
from edge.errors import EdgeError
from edge.model import Model

_TRIAL_S = 60.0
_TRIAL = f"{BUILTIN}wrist_activity"
_LIBRARIES = {
    "opencv": "cv2",
    "paho-mqtt": "paho.mqtt",
    "amqtt": "amqtt",
    "rich": "rich",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineTrial:
    """A variant of the trial model on the engine for its format."""

    engine: str
    variant: str
    works: bool
    detail: str


def examine() -> dict[str, Any]:
    """Machine, libraries, and the trial of every engine, as plain values."""
    bundle = Bundle.open(_TRIAL)
    return {
        "machine": _machine(),
        "libraries": {name: _library_version(module) for name, module in _LIBRARIES.items()},
        "engines": [dataclasses.asdict(tried) for tried in try_engines(bundle)],
        "accelerators": try_accelerators(bundle),
    }


def try_accelerators(bundle: Bundle) -> list[dict[str, Any]]:
    """Prove every accelerator that the runtimes here have, in a process of its own each."""
    found = []
    for engine in seams.names("engines"):
        formats = seams.find("engines", engine).formats
        for accelerator in choose.available(engine):
            if accelerator == CPU or accelerator not in accelerators.TABLE:
                continue
            for variant in bundle.manifest.variants:
                if variant.format in formats:
                    found.append(_try_accelerator(bundle, variant.name, engine, accelerator))
    return found


def _try_accelerator(bundle: Bundle, variant: str, engine: str, accelerator: str) -> dict[str, Any]:
    result = {"engine": f"{engine}:{accelerator}", "variant": variant, "works": False}
    try:
        options = accelerators.TABLE[accelerator].options()
        answer = trial.try_engine(
            trial.Request(
                bundle=str(bundle.path),
                variant=variant,
                engine=engine,
                accelerator=accelerator,
                options=accelerators.canonical(options),
                settings=host.fit(EngineRequest(accelerator=accelerator)).settings,
                max_latency_ms=0,
            ),
            deadline_s=_TRIAL_S,
        )
    except (EdgeError, TypeError) as error:
        return {**result, "detail": str(error)}
    detail = f"{answer.version}; {answer.placement}; {answer.latency_ms:.2f} ms"
    return {**result, "works": True, "detail": detail}


def quarantined(state_dir: Path, *, clear: bool = False) -> list[str]:
    """The engines that a device keeps away, in words; `clear` forgets them."""
    quarantine = Quarantine(state_dir)
    records = [f"{record}, since {record.wall}" for record in quarantine.records]
    if clear:
        quarantine.clear()
    return records


def try_engines(bundle: Bundle) -> list[EngineTrial]:
    """Run the golden cases of every variant on this machine's engines."""
    trials = []
    for variant in bundle.manifest.variants:
        try:
            with Model(bundle, variant=variant.name) as model:
                wrong = [case for case in golden.check(model) if not case.passed]
                detail = f"golden cases wrong: {wrong}" if wrong else _version(variant.format)
                trials.append(
                    EngineTrial(
                        engine=model.engine, variant=variant.name, works=not wrong, detail=detail
                    )
                )
        except EdgeError as error:
            trials.append(
                EngineTrial(
                    engine=variant.format, variant=variant.name, works=False, detail=str(error)
                )
            )
    return trials


def _version(format_name: str) -> str:
    """What the adapter's module says of its runtime."""
    engine = seams.find("engines", format_name)
    version: str = importlib.import_module(engine.__module__).version()
    return version


def _library_version(module: str) -> str:
    try:
        loaded = importlib.import_module(module)
    except ImportError:
        return "not installed"
    top = module.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [top])
    return getattr(loaded, "__version__", None) or importlib.metadata.version(names[0])


def _machine() -> dict[str, Any]:
    try:
        board = Path("/proc/device-tree/model").read_text("utf-8").strip("\0\n ")
    except (OSError, UnicodeDecodeError):
        board = ""
    return {
        "architecture": platform.machine(),
        "board": board,
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "temperature_c": Board().temperature_c(),
    }
