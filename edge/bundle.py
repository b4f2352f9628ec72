"""Bundles: read, verify, write. The written format is BUNDLE.md.

Invariant: a `Bundle` that was opened has had every digest verified, and `read` verifies again the
very bytes that it returns, so that engines get verified bytes and never a path. Opening a directory
imports no more than that needs: archives and writing have their modules where they are used.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import msgspec

from edge.errors import BundleError
from edge.manifest import CAPABILITIES, FORMAT, FileEntry, Manifest

if TYPE_CHECKING:
    import tarfile

MANIFEST = "manifest.json"
BUILTIN = "builtin:"
SIGNATURES = "signatures/"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30
MAX_FILES = 1000

_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")

_MODEL_ENDINGS: Mapping[str, Literal["onnx", "tflite"]] = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".lite": "tflite",
}


def model_format(path: str | os.PathLike[str]) -> Literal["onnx", "tflite"] | None:
    """The format of what a path names when that is a model file; None for a bundle."""
    return _MODEL_ENDINGS.get(Path(path).suffix.lower())


class Bundle:
    """A verified, immutable bundle: a directory or its uncompressed tar."""

    def __init__(self, path: Path, manifest: Manifest, identity: str, store: _Store) -> None:
        self.path = path
        self.manifest = manifest
        self.identity = identity
        self._store = store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open and verify a bundle. BundleError for anything that is not exactly as listed.

        "builtin:NAME" is a bundle that came with Edgewright.
        """
        path = _builtin(path) if str(path).startswith(BUILTIN) else Path(path)
        store = _open_store(path)
        sizes = store.sizes()
        if MANIFEST not in sizes:
            raise BundleError(f"{path}: no {MANIFEST} in it, so it is not a bundle")
        if sizes[MANIFEST] > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
        stored = store.read(MANIFEST, MAX_MANIFEST_BYTES)
        manifest = _decode_manifest(path, stored)
        bundle = cls(path, manifest, f"sha256:{hashlib.sha256(stored).hexdigest()}", store)
        bundle._verify(sizes)
        return bundle

    def read(self, name: str) -> bytes:
        """The bytes of one listed file, verified against its digest."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: {name} is not listed in {MANIFEST}")
        data = self._store.read(name, entry.size + 1)
        if len(data) != entry.size:
            raise BundleError(
                f"{self.path}: {name} has {len(data)} bytes or more where {entry.size} are listed;"
                " the bundle is damaged, fetch it again"
            )
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path}: {name} does not have its listed SHA-256;"
                " the bundle is damaged or was changed, fetch it again"
            )
        return data

    def _verify(self, sizes: Mapping[str, int]) -> None:
        listed = self.manifest.files
        present = {name for name in sizes if name != MANIFEST and not name.startswith(SIGNATURES)}
        problems = [f"{name} is missing" for name in sorted(listed.keys() - present)]
        problems += [
            f"{name} is not listed in {MANIFEST}" for name in sorted(present - set(listed))
        ]
        if problems:
            raise BundleError(f"{self.path}: " + "; ".join(problems))
        for name in listed:
            self.read(name)

    def __repr__(self) -> str:
        return f"Bundle({self.manifest.name} {self.manifest.version}, {self.identity[:19]})"


def in_memory(label: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """A bundle that lies nowhere: its files are held, and `label` stands for its path in errors.

    `manifest.files` is filled in from `files`; the identity is that of the same bundle on disk.
    """
    manifest = with_files(manifest, files)
    stored = encode_manifest(manifest)
    store = _Memory({**files, MANIFEST: stored})
    return Bundle(label, manifest, f"sha256:{hashlib.sha256(stored).hexdigest()}", store)


def write(destination: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle directory, all or nothing, and open it. An older one there is replaced.

    `manifest.files` is filled in from `files`.
    """
    import shutil
    import tempfile

    for name in files:
        _check_name(destination, name)
    manifest = with_files(manifest, files)
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        for name, data in {**files, MANIFEST: encode_manifest(manifest)}.items():
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        scratch.chmod(0o755)
        Bundle.open(scratch)
        if destination.exists():
            if not _may_be_replaced(destination):
                raise BundleError(f"{destination}: not empty and not a bundle; name another place")
            _exchange(scratch, destination)
        else:
            scratch.rename(destination)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Bundle.open(destination)


def _may_be_replaced(place: Path) -> bool:
    """An empty folder, or a bundle of whatever format version, however damaged its files are."""
    if not place.is_dir():
        return False
    try:
        header = msgspec.json.decode((place / MANIFEST).read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return not any(place.iterdir())
    except (OSError, msgspec.DecodeError, RecursionError):
        return False
    return str(header.get("format")).startswith(FORMAT.partition("/")[0] + "/")


def _exchange(scratch: Path, destination: Path) -> None:
    """Put `scratch` in the place of `destination`, which comes back when that fails."""
    import shutil

    older = scratch.with_name(f"{scratch.name}-older")
    try:
        destination.rename(older)
        scratch.rename(destination)
    except BaseException:
        if older.exists() and not destination.exists():
            older.rename(destination)
        raise
    finally:
        if destination.exists():
            shutil.rmtree(older, ignore_errors=True)


def with_files(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """The manifest with sizes and digests of exactly these files."""
    entries = {
        name: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in sorted(files.items())
    }
    return msgspec.structs.replace(manifest, files=entries)


def encode_manifest(manifest: Manifest) -> bytes:
    """The stored bytes of a manifest: indented JSON, one trailing newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def pack(bundle: Bundle, archive: Path) -> None:
    """Write the bundle as its deterministic, uncompressed tar."""
    import tarfile
    import tempfile

    with tempfile.NamedTemporaryFile(dir=archive.parent, delete=False) as scratch:
        try:
            with tarfile.open(fileobj=scratch, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name in sorted(bundle._store.sizes()):
                    data = bundle._store.read(name, MAX_FILE_BYTES)
                    info = tarfile.TarInfo(name)
                    info.size, info.mode = len(data), 0o644
                    tar.addfile(info, io.BytesIO(data))
            os.chmod(scratch.name, 0o644)
            os.replace(scratch.name, archive)
        except BaseException:
            os.unlink(scratch.name)
            raise


@contextmanager
def on_disk(bundle: Bundle) -> Iterator[Path]:
    """A path at which another process can open the bundle; one in memory is packed for a while.

    BundleError when there is no room for it.
    """
    if not isinstance(bundle._store, _Memory):
        yield bundle.path
        return
    import tempfile

    try:
        scratch = tempfile.TemporaryDirectory(prefix="edge-bundle-")
    except OSError as error:
        raise _no_room(bundle, error) from error
    with scratch as folder:
        archive = Path(folder) / "bundle.tar"
        try:
            pack(bundle, archive)
        except OSError as error:
            raise _no_room(bundle, error) from error
        yield archive


def _no_room(bundle: Bundle, error: OSError) -> BundleError:
    import tempfile

    return BundleError(
        f"{bundle.path}: cannot be written into {tempfile.gettempdir()}: {error.strerror};"
        " save it as a bundle with --save-bundle and name that"
    )


def _builtin(path: str | os.PathLike[str]) -> Path:
    """Where an installed wheel, or else a clone, has the bundles of models/."""
    name = str(path).removeprefix(BUILTIN)
    package = Path(__file__).resolve().parent
    places = [package / "_bundles" / name, package.parent / "models" / name / "bundle"]
    for place in places:
        if _SAFE_PATH.match(name) and place.is_dir():
            return place
    raise BundleError(f"{path}: no such bundle comes with edgewright")


def _decode_manifest(path: Path, stored: bytes) -> Manifest:
    try:
        header = msgspec.json.decode(stored)
        found = header.get("format") if isinstance(header, dict) else None
        if found != FORMAT:
            raise BundleError(f"{path}: format {found!r}; this version reads {FORMAT!r}")
        unknown = set(header.get("requires", ())) - CAPABILITIES
        if unknown:
            raise BundleError(
                f"{path}: needs {', '.join(sorted(map(str, unknown)))}, which this version of"
                " edgewright does not know; upgrade it"
            )
        return msgspec.json.decode(stored, type=Manifest)
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST}: {error}") from error


def _check_name(path: Path, name: str) -> str:
    if not _SAFE_PATH.match(name):
        raise BundleError(f"{path}: {name!r} is not a path that a bundle may hold")
    return name


def _open_store(path: Path) -> _Store:
    if path.is_dir():
        return _Directory(path)
    if path.is_file():
        return _Tar(path)
    raise BundleError(f"{path}: no such bundle; it must be a directory or a .tar file")


class _Store(Protocol):
    """Where a bundle's bytes lie."""

    def sizes(self) -> dict[str, int]:
        """Size of every file by its safe relative path."""

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes of a file."""


class _Memory:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def sizes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self._files.items()}

    def read(self, name: str, limit: int) -> bytes:
        return self._files[name][:limit]


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self._walk(self._root):
            name = _check_name(self._root, Path(entry.path).relative_to(self._root).as_posix())
            found[name] = entry.stat(follow_symlinks=False).st_size
            if found[name] > MAX_FILE_BYTES:
                raise BundleError(f"{self._root}: {name} is larger than {MAX_FILE_BYTES} bytes")
            if len(found) > MAX_FILES:
                raise BundleError(f"{self._root}: more than {MAX_FILES} files")
        return found

    def _walk(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.is_symlink():
                    raise BundleError(f"{entry.path}: a bundle holds no links")
                if entry.is_dir():
                    yield from self._walk(Path(entry.path))
                elif entry.is_file():
                    yield entry
                else:
                    raise BundleError(f"{entry.path}: neither a file nor a folder")

    def read(self, name: str, limit: int) -> bytes:
        try:
            descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise BundleError(f"{self._root}: {name} cannot be read: {error.strerror}") from error


class _Tar:
    def __init__(self, archive: Path) -> None:
        import tarfile

        self._archive = archive
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(archive, mode="r:") as tar:
                for member in tar:
                    self._place(member)
        except (tarfile.TarError, EOFError) as error:
            raise BundleError(f"{archive}: not an uncompressed tar archive: {error}") from error
        except OSError as error:
            raise BundleError(f"{archive}: cannot be read: {error.strerror}") from error

    def _place(self, member: tarfile.TarInfo) -> None:
        name = _check_name(self._archive, member.name)
        if not member.isreg() or member.sparse is not None:
            raise BundleError(f"{self._archive}: {name} is not a plain file")
        if name in self._places:
            raise BundleError(f"{self._archive}: {name} stands in it twice")
        if member.size > MAX_FILE_BYTES:
            raise BundleError(f"{self._archive}: {name} is larger than {MAX_FILE_BYTES} bytes")
        if len(self._places) >= MAX_FILES:
            raise BundleError(f"{self._archive}: more than {MAX_FILES} files")
        self._places[name] = (member.offset_data, member.size)

    def sizes(self) -> dict[str, int]:
        return {name: size for name, (_, size) in self._places.items()}

    def read(self, name: str, limit: int) -> bytes:
        offset, size = self._places.get(name, (0, 0))
        try:
            with open(self._archive, "rb") as file:
                return _read_at(file, offset, min(size, limit))
        except OSError as error:
            raise BundleError(f"{self._archive}: cannot be read: {error.strerror}") from error


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
