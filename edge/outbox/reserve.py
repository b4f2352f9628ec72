"""What outlives the loss of the store: which epoch it had, and how far its numbers may have gone.

A small file beside the store, replaced atomically and synced before any number beyond its bound is
given. When the store is lost, confirmed + 1 .. reserved bounds from above what may be lost with it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FILE = "outbox.reserve"
BLOCK = 4096
_BALLAST = "outbox.ballast"
_BALLAST_BYTES = 1 << 20


class Reserve(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The epoch of the store, the highest seq that it may have given, and up to which seq every
    sink had confirmed when this was written. `lost` are stores before it whose loss may not be
    declared yet."""

    epoch: str
    reserved: int
    confirmed: int
    lost: tuple[Reserve, ...] = ()


def read(folder: Path) -> Reserve | None:
    """The reserve of a folder; None when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Reserve)
    except (OSError, msgspec.DecodeError):
        return None


def write(folder: Path, reserve: Reserve) -> None:
    """Replace the reserve, durably. OSError when the disk refuses."""
    scratch = folder / f"{FILE}.new"
    with open(scratch, "wb") as file:
        file.write(msgspec.json.encode(reserve))
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / FILE)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_ballast(folder: Path) -> None:
    """Hold some disk space, to be given up when a loss must be written on a full disk."""
    file = folder / _BALLAST
    try:
        if file.exists() and file.stat().st_size == _BALLAST_BYTES:
            return
        with open(file, "wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, _BALLAST_BYTES)
    except OSError:
        drop_ballast(folder)  # a part of it would help nobody


def drop_ballast(folder: Path) -> bool:
    """Give the held space back; False when there was none."""
    try:
        (folder / _BALLAST).unlink()
    except OSError:
        return False
    return True
