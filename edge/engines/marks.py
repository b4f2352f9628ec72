"""Marks: what a process that dies leaves behind of the engines that it was running.

A mark is a small file, mapped into memory: written without a system call, and kept by the kernel
when the process crashes. It is removed at an orderly end, so that one which is found says: this
engine was in use when the process died, inside of a call or not, after so many frames.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

from edge.clock import boot_id
from edge.engines.quarantine import Suspect

PATTERN = "engine-*.mark"
_SIZE = 8192
_HEAD = struct.Struct("=qqqq")
INSIDE, FRAMES, FIRST, LAST = range(4)
"""The words at a mark's head: the moment at which the call under way began (0: none is), calls that
came back, and the moments of the first and last of them (monotonic ns)."""
HEALTHY_FRAMES = 100


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


class Runs:
    """The runs of one engine: whether one is under way, and how many came back, when."""

    def __init__(self, words: memoryview | None = None) -> None:
        """`words` are four: see INSIDE, FRAMES, FIRST, LAST."""
        self.words: Any = [0, 0, 0, 0] if words is None else words

    def enter(self) -> int:
        """A call into the engine begins: the moment (monotonic ns)."""
        now_ns = self.words[INSIDE] = time.monotonic_ns()
        return now_ns

    def leave(self) -> int:
        """The call has come back, which is one frame more: the moment (monotonic ns)."""
        words, now_ns = self.words, time.monotonic_ns()
        if not words[FRAMES]:
            words[FIRST] = now_ns
        words[FRAMES] += 1
        words[LAST] = now_ns
        words[INSIDE] = 0
        return now_ns

    @property
    def frames(self) -> int:
        """How many came back."""
        return int(self.words[FRAMES])

    @property
    def frames_per_s(self) -> float:
        """The pace so far; 0 before the second frame."""
        _, frames, first_ns, last_ns = self.words
        return _pace(frames, first_ns, last_ns)


class Mark(Runs):
    """The mark of an engine in use by this process: its runs, kept where the kernel keeps them."""

    def __init__(self, folder: Path, suspect: Suspect) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        body = msgspec.json.encode(_Body(suspect=suspect, boot=boot_id()))
        self._path = folder / f"engine-{hashlib.sha256(body).hexdigest()[:16]}-{os.getpid()}.mark"
        # Locked for as long as this process lives, however it ends.
        self._file = open(self._path, "w+b")  # noqa: SIM115 - closed by remove
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(bytes(_HEAD.size) + body.ljust(_SIZE - _HEAD.size, b"\n"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._map = mmap.mmap(self._file.fileno(), _SIZE)
        super().__init__(memoryview(self._map)[: _HEAD.size].cast("q"))

    def remove(self) -> None:
        """An orderly end."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self.words.release()
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
        inside=bool(inside),
        frames=frames,
        frames_per_s=_pace(frames, first_ns, last_ns),
        silent_s=(time.monotonic_ns() - last_ns) / 1e9 if same_boot and last_ns else None,
    )


def _pace(frames: int, first_ns: int, last_ns: int) -> float:
    return (frames - 1) * 1e9 / (last_ns - first_ns) if last_ns > first_ns else 0.0
