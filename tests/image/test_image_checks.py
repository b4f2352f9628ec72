"""The checks of the image notice what they are for: each is broken once on purpose."""

from __future__ import annotations

import os
import struct
import sys
import tomllib
from pathlib import Path

import elf
import rules
import sbom
from oci import File

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy/image"


def library(*, machine: int = elf.AARCH64, alignment: int = 65536) -> File:
    """The smallest ELF file that says these two things."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, machine, 1)
    head += struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return File(
        path="x.so",
        mode=0o644,
        uid=0,
        data=head + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 120, 120, alignment),
    )


def test_a_right_library_passes() -> None:
    assert list(rules.libraries({"x.so": library()})) == []


def test_an_x86_library_is_noticed() -> None:
    assert list(rules.libraries({"x.so": library(machine=62)})) == [
        "x.so: is for machine 62, not for aarch64 (183)"
    ]


def test_a_real_library_of_this_machine_is_read() -> None:
    found = elf.read(Path(sys.executable).resolve().read_bytes())
    assert found.machine == {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    assert any(name.startswith("libc.so") for name in found.needed)


def test_a_4k_aligned_library_is_noticed() -> None:
    assert list(rules.libraries({"x.so": library(alignment=4096)})) == [
        "x.so: LOAD alignment of 4096 bytes, below 16384"
    ]


def test_shells_writable_files_and_lost_licences_are_noticed() -> None:
    files = {
        "usr/bin/dash": File(path="usr/bin/dash", mode=0o755, uid=0),
        "etc/x": File(path="etc/x", mode=0o666, uid=0),
        "usr/bin/su": File(path="usr/bin/su", mode=0o4755, uid=0),
        "var/lib/dpkg/status.d/libc6": File(path="var/lib/dpkg/status.d/libc6", mode=0o644, uid=0),
    }
    assert list(rules.tools(files)) == ["usr/bin/dash: must not be in the image"]
    assert len(list(rules.permissions(files))) == 2
    assert list(rules.licences(files)) == ["usr/share/doc/libc6/copyright: the licence is missing"]


def test_what_is_missing_in_the_sbom_is_noticed() -> None:
    control = b"Package: libc6\nVersion: 2.36\nArchitecture: arm64\nDescription: x\n"
    path = "var/lib/dpkg/status.d/libc6"
    bill = sbom.make({path: File(path=path, mode=0o644, uid=0, data=control)}, name="x", digest="y")
    assert sbom.differences(bill, wheels={}, packages=["libc6"]) == []
    assert sbom.differences(bill, wheels={"numpy": "2"}, packages=["libc6", "zlib1g"]) == [
        "wheel numpy is not in the SBOM",
        "Debian package zlib1g is not in the SBOM",
    ]
    assert sbom.differences(bill, wheels={}, packages=[]) == [
        "Debian package libc6 was not asked for"
    ]


def test_every_dependency_of_a_device_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = (DEPLOY / "lock/full.txt").read_text()
    for extra in ("onnx", "tflite", "camera", "mqtt"):
        for requirement in project["dependencies"] + project["optional-dependencies"][extra]:
            name = requirement.partition(">")[0]
            assert f"\n{name}==" in locked, f"{name}: run `make image-lock`"
