"""What must hold for the files of the image; every rule gives sentences about what does not."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

import elf
from oci import File

PAGE_BYTES = 16 * 1024  # kernels of the Raspberry Pi 5 have pages of 16 KiB
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "busybox", "apt", "apt-get", "dpkg", "pip", "pip3"}


def libraries(files: Mapping[str, File]) -> Iterator[str]:
    """Every ELF file is for aarch64, starts on large pages, and finds the libraries it needs."""
    names = {posixpath.basename(path) for path in files}
    for path, file in sorted(files.items()):
        if not elf.is_elf(file.data):
            continue
        try:
            found = elf.read(file.data)
        except ValueError as error:
            yield f"{path}: {error}"
            continue
        if found.machine != elf.AARCH64:
            yield f"{path}: is for machine {found.machine}, not for aarch64 ({elf.AARCH64})"
        elif found.alignment < PAGE_BYTES:
            yield f"{path}: LOAD alignment of {found.alignment} bytes, below {PAGE_BYTES}"
        for library in found.needed:
            if library not in names:
                yield f"{path}: needs {library}, which is not in the image"


def permissions(files: Mapping[str, File]) -> Iterator[str]:
    """Root owns all but the state; no set-uid; nothing that others may write but /tmp."""
    for path, file in sorted(files.items()):
        state = path == "var/lib/edgewright"
        if file.uid != (65532 if state else 0):
            yield f"{path}: belongs to {file.uid}"
        if file.mode & 0o6000 and not file.is_folder:
            yield f"{path}: runs as its owner (mode {file.mode:o})"
        if file.mode & 0o002 and not file.link and not (file.is_folder and file.mode & 0o1000):
            yield f"{path}: anybody may write it (mode {file.mode:o})"


def tools(files: Mapping[str, File]) -> Iterator[str]:
    """No shell and no package manager."""
    for path in sorted(files):
        if posixpath.basename(path) in SHELLS and "bin/" in path:
            yield f"{path}: must not be in the image"


def licences(files: Mapping[str, File]) -> Iterator[str]:
    """Debian packages keep their copyright files, and wheels the licences that they bring."""
    for path in sorted(files):
        folder, name = posixpath.split(path)
        if folder == "var/lib/dpkg/status.d" and not name.endswith(".md5sums"):
            text = f"usr/share/doc/{name}/copyright"
            link = files.get(f"usr/share/doc/{name}")
            if text not in files and not (link and link.link):
                yield f"{text}: the licence is missing"
        if folder.endswith(".dist-info") and name == "METADATA":
            for line in files[path].data.decode("utf-8", "replace").split("\n\n")[0].splitlines():
                if line.startswith("License-File: "):
                    text = line.removeprefix("License-File: ").strip()
                    places = (f"{folder}/licenses/{text}", f"{folder}/{text}")
                    if not any(place in files for place in places):
                        yield f"{places[0]}: the licence is missing"


ALL = (libraries, permissions, tools, licences)
