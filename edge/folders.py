"""Folders and files on disk."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make new and renamed files in a folder durable by name, not only in their bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, scratch: Path) -> None:
    """Replace a file, durably: after a power cut it holds all of the new bytes or all of the old.

    `scratch`, beside it, is written first; where several processes may write, each has its own.
    OSError when the disk refuses.
    """
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, for a process without privileges."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
