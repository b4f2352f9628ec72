"""The engines that a device does not trust any more, with the evidence, on its disk.

Invariant: a record leaves the file only when a person clears it. It is about one engine with one
version and options, and one variant of one bundle: a new version is a new engine.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

import msgspec

from edge.accelerators import CPU, Settings
from edge.engines.faults import Kind
from edge.folders import replace_file
from edge.wire import ModelRef

FILE = "quarantine.json"
_PLAIN = ("onnx", "tflite")

log = logging.getLogger(__name__)


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine with which model. `options` are the accelerator's, as canonical JSON; of its
    settings the number of threads makes no other engine, and is left at 0."""

    engine: str
    accelerator: str
    version: str
    options: str
    settings: Settings = Settings()
    model: ModelRef

    @property
    def risky(self) -> bool:
        """Anything but the plain CPU of a runtime that came with us."""
        return self.accelerator != CPU or self.engine not in _PLAIN

    @property
    def name(self) -> str:
        """For people: onnx:openvino."""
        return f"{self.engine}:{self.accelerator}"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Why and since when (`wall`, UTC) a suspect is kept away.

    `told`: an alarm has reported it. `facts` are the numbers at hand: frames, down_s, frames_lost.
    """

    suspect: Suspect
    kind: Kind
    detail: str
    wall: str
    evidence: str = ""
    facts: dict[str, float] = {}
    told: bool = False

    def __str__(self) -> str:
        return (
            f"{self.suspect.name} ({self.suspect.version}) with {self.suspect.model.name}"
            f" {self.suspect.model.variant}: {self.kind}: {self.detail}"
        )


class _File(msgspec.Struct, frozen=True, kw_only=True):
    v: int = 1
    records: list[Record] = []


class Quarantine:
    """The records of one state directory. Every change is on disk when its call returns."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()

    @property
    def records(self) -> list[Record]:
        """All of them, oldest first."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).records
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            # Engines are tried again, which costs time; stopping the device would cost more.
            log.error("%s cannot be read and is set aside: %s", self._path, error)
            try:
                self._path.replace(self._path.with_suffix(".broken"))
            except OSError:
                pass
            return []

    def find(self, suspect: Suspect) -> Record | None:
        """The record of this suspect."""
        return next((record for record in self.records if record.suspect == suspect), None)

    def add(self, record: Record) -> None:
        """Keep a record; a newer one of the same suspect takes the place of the older one."""
        with self._lock:
            others = [known for known in self.records if known.suspect != record.suspect]
            self._write([*others, record])

    def tell(self, record: Record) -> None:
        """Note that this record was reported."""
        with self._lock:
            self._write(
                [
                    msgspec.structs.replace(known, told=True)
                    if known.suspect == record.suspect
                    else known
                    for known in self.records
                ]
            )

    def clear(self) -> int:
        """Forget all; how many there were."""
        with self._lock:
            count = len(self.records)
            if count:
                self._write([])
            return count

    def _write(self, records: list[Record]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(_File(records=records)), indent=1)
        replace_file(self._path, text, scratch=self._path.with_suffix(".new"))


def library_digest(path: str) -> str:
    """The first half of a library's SHA-256, so that a vendor's update is a new version.

    Empty for a name that the loader will look up.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]
    except OSError:
        return ""
