"""Sensors beside the source of a pipeline: their latest samples accompany its events.

Each is read in a thread of its own. One that is lost, or can never work, is a state of the pipeline
and never its death; its last sample stays, and grows old.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edge import seams
from edge.config import SensorConfig
from edge.errors import ConfigError, EdgeError, FrameError
from edge.seams import EndOfStream
from edge.types import Frame
from edge.wire import AGE, Context, SourceState

_READ_S = 0.2
_JOIN_S = 2.0

log = logging.getLogger(__name__)


class _Sample(NamedTuple):
    values: dict[str, float]
    mono_ns: int


class Companion:
    """One sensor, and its latest sample."""

    def __init__(self, config: SensorConfig, *, pipeline: str) -> None:
        """Nothing is opened yet. ConfigError when it cannot work as it is configured."""
        where = f"{pipeline}.{config.name}"
        latest = msgspec.structs.replace(config.options, length=1, hop=1)
        self.name = config.name
        self.source: Any = seams.find("sources", config.type)(latest, name=where, preprocess=None)
        if not self.source.live:
            raise ConfigError(
                f"sensor {where}: {config.type} reads a file, whose end is soon the latest sample;"
                " name a live sensor"
            )
        self._latest: _Sample | None = None
        self._failure: SourceState | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sensor-{where}", daemon=True)

    def start(self) -> None:
        """Begin to read, once."""
        self._thread.start()

    @property
    def state(self) -> SourceState:
        """Starting, running, lost, ended or failed."""
        state: SourceState = self._failure or self.source.state
        return state

    @property
    def counts(self) -> dict[str, int]:
        """What its source counts."""
        return dict(getattr(self.source, "counts", {}))

    def at(self, mono_ns: int) -> dict[str, float] | None:
        """Its latest sample by channel, and how old that was then; None while there is none."""
        latest = self._latest
        if latest is None:
            return None
        return {**latest.values, AGE: round((mono_ns - latest.mono_ns) / 1e9, 3)}

    def said(self, frame: Frame) -> str:
        """What a frame of its source says, for people."""
        values = self._sample(frame).values
        return f"says {', '.join(f'{channel} {value:g}' for channel, value in values.items())}"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    frame = self.source.read(_READ_S)
                except FrameError as error:
                    log.debug("%s: skipped: %s", self._thread.name, error)
                    continue
                if frame is not None:
                    self._latest = self._sample(frame)
        except EndOfStream:
            pass
        except EdgeError as error:
            self._fail(str(error))
        except Exception as error:  # a source's library may raise anything
            log.debug("%s failed", self._thread.name, exc_info=True)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.source.close()

    def _sample(self, frame: Frame) -> _Sample:
        # By way of its text, since 21.3 as float32 would travel as 21.299999237060547.
        numbers = [float(str(value)) for value in frame.data[-1]]
        return _Sample(dict(zip(self.source.channels, numbers, strict=True)), frame.mono_ns)

    def _fail(self, reason: str) -> None:
        log.warning("%s: failed: %s", self._thread.name, reason)
        self._failure = SourceState(state="failed", detail=reason)


def close(companions: Sequence[Companion]) -> None:
    """Stop reading, all at once, and let go of the devices. May be called twice."""
    for companion in companions:
        companion._stop.set()
    until_s = time.monotonic() + _JOIN_S
    for companion in companions:
        if companion._thread.is_alive():
            companion._thread.join(max(0.0, until_s - time.monotonic()))


def context_of(companions: Sequence[Companion], mono_ns: int) -> Context | None:
    """What accompanies an event of that moment; None when there is nothing."""
    samples = {companion.name: companion.at(mono_ns) for companion in companions}
    return {name: sample for name, sample in samples.items() if sample is not None} or None
