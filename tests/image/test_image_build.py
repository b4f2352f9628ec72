"""The image as it was built: its files, its sizes, its digest, and what stops a build."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import elf
import pytest
import rules
import sbom
from oci import File, Image

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy/image"
BUDGET_MB = {"full": (235, 95), "onnx": (205, 85), "tflite": (195, 79), "sensor": (105, 36)}


def test_the_image_on_disk_keeps_every_rule(profile: str) -> None:
    layout = ROOT / "build/image" / profile / "oci"
    image = Image(layout)
    files = image.files()
    assert [problem for rule in rules.ALL for problem in rule(files)] == []
    bill = json.loads((layout.parent / "sbom.cdx.json").read_text())
    assert bill["metadata"]["component"]["version"] == image.digest
    uncompressed_mb, gzip_mb = BUDGET_MB[profile]
    assert image.uncompressed_bytes <= uncompressed_mb * 1e6
    assert image.gzip_bytes <= gzip_mb * 1e6
    # Broken on purpose, in the real image: one library of x86, one package out of the bill.
    victim = next(path for path, file in files.items() if elf.is_elf(file.data))
    data = bytearray(files[victim].data)
    data[18:20] = struct.pack("<H", 62)
    broken = File(path=victim, mode=0o644, uid=0, data=bytes(data))
    assert len(list(rules.libraries({**files, victim: broken}))) == 1
    status = next(path for path in files if path.startswith("var/lib/dpkg/status.d/libc6"))
    less = sbom.make({p: f for p, f in files.items() if p != status}, name="x", digest="y")
    assert len(less["components"]) == len(bill["components"]) - 1


def a_copy_of_the_tree(folder: Path) -> Path:
    """What the build needs, so that it can be broken without touching the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
         ".dockerignore", "Dockerfile.arm64", "LICENSE", "README.md", "convert", "deploy/image",
         "edge", "models/*/bundle/*", "pyproject.toml"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.timeout(300)
def test_a_wheel_with_a_wrong_hash_stops_the_build(image: str, tmp_path: Path) -> None:
    tree = a_copy_of_the_tree(tmp_path)
    lock = tree / "deploy/image/lock/sensor.txt"
    right = lock.read_text()
    lock.write_text(re.sub(r"(paho-mqtt==\S+ --hash=sha256:)\w+", r"\g<1>" + "0" * 64, right))
    assert lock.read_text() != right
    build = subprocess.run(
        [tree / "deploy/image/build", "sensor"], capture_output=True, text=True, timeout=280
    )
    assert build.returncode == 1
    assert "DO NOT MATCH THE HASHES" in build.stderr


@pytest.mark.timeout(500)
def test_a_second_build_from_nothing_gives_the_same_digest(
    image: str, profile: str, tmp_path: Path
) -> None:
    """Both from copies of one tree, under one revision; the second without any cached layer."""
    tree = a_copy_of_the_tree(tmp_path)
    digests = []
    for options in ("", "--no-cache"):
        build = subprocess.run(
            [tree / "deploy/image/build", profile],
            env={**os.environ, "BUILD_OPTIONS": options, "TAG": "twice"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert build.returncode == 0, build.stderr
        digests.append(json.loads(build.stdout.splitlines()[-1])["digest"])
    assert digests[0] == digests[1]


def test_hadolint_finds_nothing(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [hadolint, "--config", DEPLOY / "hadolint.yaml", ROOT / "Dockerfile.arm64"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
