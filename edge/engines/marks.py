"""Marks: what a process that dies leaves behind of the engines that it was running.

A mark is a small file, mapped into memory: written without a system call, and kept by the kernel
when the process crashes. It is removed at an orderly end, so that one which is found says: this
engine was in use when the process died, inside of a call or not, after so many frames.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import mmap
import os
import struct
import time
from pathlib import Path

import msgspec

from edge.clock import boot_id
from edge.engines.quarantine import Suspect

PATTERN = "engine-*.mark"
_SIZE = 8192
_HEAD = struct.Struct("=QQqq")  # inside, frames, first and last moment (monotonic ns)
HEALTHY_FRAMES = 100
_NUMBERS = itertools.count()


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    suspect: Suspect
    boot: str


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A mark whose process is gone. `frames_per_s` is the pace at the end, 0 when unknown;
    `silent_s` the time since the last frame, None after a reboot."""

    suspect: Suspect
    inside: bool
    frames: int
    frames_per_s: float
    silent_s: float | None

    @property
    def healthy(self) -> bool:
        """Whether it had run for long enough to be believed."""
        return self.frames >= HEALTHY_FRAMES


class Mark:
    """The mark of an engine in use by this process."""

    def __init__(self, folder: Path, suspect: Suspect) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        body = msgspec.json.encode(_Body(suspect=suspect, boot=boot_id()))
        # Two engines of one process may be the same suspect: a lock of one would stop the other.
        digest = hashlib.sha256(body).hexdigest()[:16]
        self._path = folder / f"engine-{digest}-{os.getpid()}-{next(_NUMBERS)}.mark"
        # Locked for as long as this process lives, however it ends.
        self._file = open(self._path, "w+b")  # noqa: SIM115 - closed by remove
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(_HEAD.pack(0, 0, 0, 0) + body.ljust(_SIZE - _HEAD.size, b"\n"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._map = mmap.mmap(self._file.fileno(), _SIZE)
        self._head = memoryview(self._map)[: _HEAD.size].cast("q")  # the fields, one by one
        self.frames = 0

    def enter(self) -> None:
        """A call into the engine begins."""
        self._head[0] = 1

    def leave(self) -> None:
        """The call has come back: one frame more."""
        head, now_ns = self._head, time.monotonic_ns()
        if not self.frames:
            head[2] = now_ns
        self.frames += 1
        head[3] = now_ns
        head[1] = self.frames
        head[0] = 0

    @property
    def frames_per_s(self) -> float:
        """The pace so far; 0 before the second frame."""
        _, frames, first_ns, last_ns = self._head
        return _pace(frames, first_ns, last_ns)

    def remove(self) -> None:
        """An orderly end."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._head.release()
            self._map.close()
            self._file.close()


def take(folder: Path) -> list[Left]:
    """The marks that dead processes left; they are removed."""
    found = []
    for path in sorted(folder.glob(PATTERN)):
        try:
            with open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = _read(file.read(_SIZE))
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue  # its process lives
        except OSError:
            continue
        if left is not None:
            found.append(left)
    return found


def _read(data: bytes) -> Left | None:
    try:
        inside, frames, first_ns, last_ns = _HEAD.unpack_from(data)
        body = msgspec.json.decode(data[_HEAD.size :].rstrip(b"\n\0"), type=_Body)
    except (struct.error, msgspec.DecodeError):
        return None
    same_boot = body.boot == boot_id()
    return Left(
        suspect=body.suspect,
        inside=bool(inside & 0xFF),
        frames=frames,
        frames_per_s=_pace(frames, first_ns, last_ns),
        silent_s=(time.monotonic_ns() - last_ns) / 1e9 if same_boot and last_ns else None,
    )


def _pace(frames: int, first_ns: int, last_ns: int) -> float:
    return (frames - 1) * 1e9 / (last_ns - first_ns) if last_ns > first_ns else 0.0
