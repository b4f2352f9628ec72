"""Results of long steps, found again by the content of all that they were made from.

Invariant: a key covers the step's inputs, the versions of the tools and the code of this package,
so that what is found is what would be made; an entry that is damaged is as good as none.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from convert import installed
from convert.errors import CannotConvert

MAX_BYTES = 4 << 30
_ARRAY = 1
T = TypeVar("T")


class _Refused(msgspec.Struct, tag=True):
    reason: str


class _Made(msgspec.Struct, tag=True):
    value: msgspec.Raw


def folder() -> Path:
    """Where results and logs are kept: $EDGE_CACHE_DIR, or the user's cache."""
    given = os.environ.get("EDGE_CACHE_DIR")
    return Path(given) if given else user_folder()


def user_folder() -> Path:
    """Edgewright's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright"


class Cache:
    """Entries under `root`; None keeps nothing.

    `parts` are anything that msgspec writes as JSON.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def find(self, step: str, parts: Any, kind: type[T]) -> T | None:
        """What was kept for these parts; CannotConvert when that is what came of it."""
        if self._root is None:
            return None
        stored = _read(self._root / key(step, parts))
        if stored is None:
            return None
        try:
            entry = msgspec.msgpack.decode(stored, type=_Made | _Refused)
            if isinstance(entry, _Refused):
                raise CannotConvert(entry.reason)
            return msgspec.msgpack.decode(entry.value, type=kind, ext_hook=_array)
        except msgspec.DecodeError:
            return None  # of another version

    def keep(self, step: str, parts: Any, value: Any) -> None:
        """Keep a value in the place of an older one."""
        if self._root is not None:
            made = _Made(msgspec.Raw(msgspec.msgpack.encode(value, enc_hook=_array_bytes)))
            self._write(self._root / key(step, parts), made)

    def remember(self, step: str, parts: Any, kind: type[T], make: Callable[[], T]) -> T:
        """What `make` gives, or gave for the same parts; that there is no way is kept, too."""
        found = self.find(step, parts, kind)
        if found is not None:
            return found
        try:
            made = make()
        except CannotConvert as error:
            if self._root is not None:
                self._write(self._root / key(step, parts), _Refused(str(error)))
            raise
        self.keep(step, parts, made)
        return made

    def _write(self, path: Path, entry: _Made | _Refused) -> None:
        """Atomic, and no reason to fail: a cache that cannot be written is not used."""
        data = msgspec.msgpack.encode(entry)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
                try:
                    scratch.write(hashlib.sha256(data).digest() + data)
                    scratch.close()
                    os.replace(scratch.name, path)
                except BaseException:
                    Path(scratch.name).unlink(missing_ok=True)
                    raise
        except OSError:
            return

    def prune(self, max_bytes: int = MAX_BYTES) -> None:
        """Let go of what was not used for the longest time."""
        if self._root is None or not self._root.is_dir():
            return
        entries = [(path.stat(), path) for path in self._root.iterdir() if path.is_file()]
        kept = 0
        for stat, path in sorted(entries, key=lambda entry: -entry[0].st_atime):
            kept += stat.st_size
            if kept > max_bytes:
                path.unlink(missing_ok=True)


def key(step: str, parts: Any) -> str:
    """The name of an entry."""
    told = msgspec.json.encode([step, _code(), installed.tool_versions(), parts], order="sorted")
    return f"{step}-{hashlib.sha256(told).hexdigest()}"


def digest(data: bytes) -> str:
    """SHA-256 in hex, to stand for bytes in a key."""
    return hashlib.sha256(data).hexdigest()


@functools.cache
def _code() -> str:
    """SHA-256 over the code of convert and of the part of edge that it verifies through."""
    root = Path(__file__).resolve().parent
    whole = hashlib.sha256()
    for package in (root, root.parent / "edge"):
        for path in sorted(package.rglob("*.py")):
            whole.update(path.relative_to(root.parent).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        stored = path.read_bytes()
        os.utime(path)  # used now
    except OSError:
        return None
    found, data = stored[:32], stored[32:]
    return data if hashlib.sha256(data).digest() == found else None


def _array_bytes(value: Any) -> msgspec.msgpack.Ext:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value), allow_pickle=False)
    return msgspec.msgpack.Ext(_ARRAY, buffer.getvalue())


def _array(code: int, data: memoryview) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)
