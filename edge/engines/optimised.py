"""Models as ONNX Runtime made them before, so that a start need not optimise them again.

Invariant: an entry is used only when its bytes have the digest in its name, and its name is of this
very model, runtime, layout and processor; anything else is dropped and made anew. A disk that is
full or cannot be written costs the gain and nothing else.

A blocked layout (NCHWc) and the fusions are chosen for one processor: an entry is of no use to any
other.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from edge.folders import free_bytes
from edge.hardware import this_machine

FOLDER = "cache"
MAX_BYTES = 256 << 20
"""Of all entries together; the oldest goes first."""
_MAX_ENTRIES = 16
_SPARE_BYTES = 64 << 20  # what is left to the outbox on a disk that is nearly full
_PART = ".part"

log = logging.getLogger(__name__)


class Optimised:
    """The entries of one state directory."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the state directory; nothing is written before there is something to keep."""
        self._folder = folder / FOLDER

    def entry(self, *parts: str) -> Entry:
        """What is kept of one model: `parts` are its digest, the runtime's version and whatever
        else makes the outcome another one. The processor is added."""
        here = this_machine()
        words = (*parts, here.architecture, here.cpu, *here.features)
        key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]
        return Entry(self._folder, key)


class Entry:
    """One optimised model, which may be there or not."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def read(self) -> bytes | None:
        """Its verified bytes; None when there are none that can be trusted."""
        for path in self._found():
            try:
                data = path.read_bytes()
                if _digest(data) == path.stem.partition("-")[2]:
                    return data
                log.warning("%s: damaged, and made anew", path)
            except OSError as error:
                log.warning("%s: cannot be read: %s", path, error.strerror)
        return None

    def drop(self) -> None:
        """Whatever is there was no good."""
        for path in self._found():
            _remove(path)

    def place(self, size: int) -> Path | None:
        """Where the runtime may write an entry of about `size` bytes; None where there is no room
        for it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(f"*{_PART}"):  # by a process that died
                _remove(left)
            if size > MAX_BYTES // 2 or free_bytes(self._folder) < 2 * size + _SPARE_BYTES:
                return None
            path = self._folder / f"{self._key}{_PART}"
            path.touch()
        except OSError as error:
            log.info("%s: no optimised models are kept: %s", self._folder, error.strerror)
            return None
        return path

    def keep(self, path: Path) -> None:
        """Take what the runtime wrote at `place`; what must go for it goes."""
        try:
            digest = _digest(path.read_bytes())
            self.drop()
            path.rename(self._folder / f"{self._key}-{digest}.onnx")
            self._bound()
        except OSError as error:
            log.info("%s: an optimised model is not kept: %s", path, error.strerror)
            _remove(path)

    def _found(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"{self._key}-*.onnx"))
        except OSError:
            return []

    def _bound(self) -> None:
        entries = sorted(
            self._folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns, reverse=True
        )
        total = 0
        for number, path in enumerate(entries):
            total += path.stat().st_size
            if number >= _MAX_ENTRIES or total > MAX_BYTES:
                _remove(path)


def _digest(data: bytes) -> str:
    """BLAKE2b, where other digests here are SHA-256: nobody else reads it, and it is faster on
    processors without instructions for SHA."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: cannot be removed: %s", path, error.strerror)
