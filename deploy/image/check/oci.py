"""Reads an image from an OCI layout on disk: its digest, its sizes, its files."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One entry of the image's root: `path` without a leading slash; `link` of a symbolic link."""

    path: str
    mode: int
    uid: int
    link: str = ""
    is_folder: bool = False
    data: bytes = b""


class Image:
    """The only image of a layout."""

    def __init__(self, layout: Path) -> None:
        self._blobs = layout / "blobs" / "sha256"
        self.digest: str = json.loads((layout / "index.json").read_text("utf-8"))["manifests"][0][
            "digest"
        ]
        manifest = self._json(self.digest)
        self._layers = [layer["digest"] for layer in manifest["layers"]]
        self.gzip_bytes = sum(layer["size"] for layer in manifest["layers"])
        self.uncompressed_bytes = 0
        self.config: dict[str, Any] = self._json(manifest["config"]["digest"])

    def files(self) -> dict[str, File]:
        """Every file, folder and link; counts `uncompressed_bytes` on the way."""
        found: dict[str, File] = {}
        self.uncompressed_bytes = 0
        for digest in self._layers:
            with gzip.open(self._blob(digest)) as stream:
                for file in _entries(stream):
                    found[file.path] = file
                while stream.read(1 << 20):  # the padding behind the last entry
                    pass
                self.uncompressed_bytes += stream.tell()
        return found

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _json(self, digest: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._blob(digest).read_text("utf-8"))
        return document


def _entries(stream: gzip.GzipFile) -> Iterator[File]:
    with tarfile.open(fileobj=stream, mode="r|") as layer:
        seen: dict[str, bytes] = {}
        for entry in layer:
            path = entry.name.removeprefix("./").strip("/")
            data = b""
            if entry.isfile():
                content = layer.extractfile(entry)
                data = seen[entry.name] = content.read() if content else b""
            elif entry.islnk():
                data = seen[entry.linkname]
            yield File(
                path=path,
                mode=entry.mode,
                uid=entry.uid,
                link=entry.linkname if entry.issym() else "",
                is_folder=entry.isdir(),
                data=data,
            )
