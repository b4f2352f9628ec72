"""What lies beside the store: its lock, and what outlives its loss.

The reserve is a small file beside the store, replaced atomically and synced before any number
beyond its bound is given. When the store is lost, confirmed + 1 .. reserved bounds from above what
may be lost with it, and what had been declared in it is declared again. The mark is a smaller one,
written after each commit and never synced: a store that comes back with less than its mark says was
set back, for instance by a damaged WAL.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from pathlib import Path
from typing import IO, Annotated, TypeVar

import msgspec

from edge.errors import OutboxError
from edge.folders import free_bytes, replace_file
from edge.wire import GapData

FILE = "outbox.reserve"
MARK = "outbox.mark"
BLOCK = 4096
_BALLAST = "outbox.ballast"
_BALLAST_BYTES = 2 << 20  # what a checkpoint of the largest WAL can need
_PLENTY = 2


_Seq = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_T = TypeVar("_T", bound=msgspec.Struct)


class Reserve(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The epoch of the store, the highest seq that it may have given, and up to which seq every
    sink had confirmed when this was written.

    `owed` are the losses, of this epoch and of earlier ones, that were declared in the store and
    whose declaration not every sink had confirmed: with the store it would be lost itself.
    """

    epoch: str
    reserved: _Seq
    confirmed: _Seq
    owed: tuple[GapData, ...] = ()


class Mark:
    """The epoch of the store and the seq of its last commit, as far as this file knows."""

    class _Text(msgspec.Struct, frozen=True):
        epoch: str
        last_seq: _Seq

    def __init__(self, folder: Path) -> None:
        """Open or create. OSError when that fails."""
        self._descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, 0o644)
        text = _decode(os.pread(self._descriptor, 200, 0), self._Text)
        self.epoch, self.last_seq = (text.epoch, text.last_seq) if text else ("", 0)

    def write(self, epoch: str, last_seq: int) -> None:
        """Remember a commit; a disk that will not have it costs only the knowledge."""
        text = _encode(self._Text(epoch, last_seq))
        try:
            os.pwrite(self._descriptor, text.ljust(200), 0)
        except OSError:
            pass

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read(folder: Path) -> Reserve | None:
    """The reserve of a folder; None when there is none that can be read."""
    try:
        return _decode((folder / FILE).read_bytes(), Reserve)
    except OSError:
        return None


def _encode(struct: msgspec.Struct) -> bytes:
    text = msgspec.json.encode(struct)
    return b"%s\n%08x\n" % (text, zlib.crc32(text))


def _decode(data: bytes, kind: type[_T]) -> _T | None:
    """The struct in a file; None unless it is whole and unchanged."""
    text, _, rest = data.partition(b"\n")
    if rest.strip() != b"%08x" % zlib.crc32(text):
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def write(folder: Path, reserve: Reserve) -> None:
    """Replace the reserve, durably. OSError when the disk refuses."""
    replace_file(folder / FILE, _encode(reserve), scratch=folder / f"{FILE}.new")


def lock(folder: Path) -> IO[str]:
    """Hold the folder for this process; a second agent on it is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = open(folder / "lock", "w", encoding="ascii")  # noqa: SIM115 - held until close
    except OSError as error:
        raise OutboxError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise OutboxError(
            f"{folder}: another agent runs on this state_dir; stop it or name another one"
        ) from error
    return guard


def keep_ballast(folder: Path, *, scarce: bool = False) -> None:
    """Hold some disk space, to be given up when a loss must be written on a full disk. Where space
    is `scarce`, take it all the same, or half of it."""
    file = folder / _BALLAST
    try:
        if not scarce and free_bytes(folder) < _PLENTY * _BALLAST_BYTES:
            return
        if file.exists() and file.stat().st_size == _BALLAST_BYTES:
            return
    except OSError:
        return
    for size in (_BALLAST_BYTES, _BALLAST_BYTES // 2) if scarce else (_BALLAST_BYTES,):
        try:
            with open(file, "wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, size)
            return
        except OSError:
            drop_ballast(folder)  # a part of it would help nobody


def drop_ballast(folder: Path) -> bool:
    """Give the held space back; False when there was none."""
    try:
        (folder / _BALLAST).unlink()
    except OSError:
        return False
    return True
