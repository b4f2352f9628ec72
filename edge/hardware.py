"""What of this machine decides which engine is fastest, in words that can be compared.

Invariant: reading it costs a few milliseconds and imports no runtime.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import msgspec

from edge.cores import cores

_FEATURES = {
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("neon", "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme"),
}
"""Beside everything of AMX."""
_DEVICES = (
    "accel*", "apex_*", "davinci*", "dri/render*", "fastrpc-*", "hailo*", "kfd", "mali*",
    "nvidia[0-9]*", "nvhost-*gpu", "rknpu*", "accel/accel*",
)  # fmt: skip


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """`cores` are those that this process may use; `features` the instructions that kernels are
    written for; `devices` the accelerators that show under /dev."""

    architecture: str
    cpu: str
    cores: int
    features: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@functools.cache
def this_machine() -> Hardware:
    """This one, as it was at the first call."""
    return read(Path("/"), count=cores())


def read(root: Path, *, count: int, architecture: str = "") -> Hardware:
    """What /proc and /dev below `root` show."""
    values: dict[str, list[str]] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            values.setdefault(name.strip().lower(), []).append(value.strip())
    flags = {flag for name in ("flags", "features") for flag in values.get(name, [""])[0].split()}
    devices = {
        str(path.relative_to(root / "dev"))
        for pattern in _DEVICES
        for path in (root / "dev").glob(pattern)
        if not path.is_dir()
    }
    return Hardware(
        architecture=architecture or platform.machine(),
        cpu=_cpu(values, _text(root / "proc/device-tree/model").strip("\0\n ")),
        cores=count,
        features=tuple(sorted(flag for flag in flags if _matters(flag))),
        devices=tuple(sorted(devices)),
    )


def _matters(flag: str) -> bool:
    return flag in _FEATURES or flag.startswith("amx_")


def _cpu(values: dict[str, list[str]], board: str) -> str:
    """By name where the kernel knows one, else by the kinds of its cores; ARM has several."""
    if "model name" in values:
        kinds = values["model name"]
    else:
        makers, parts = values.get("cpu implementer", []), values.get("cpu part", [])
        kinds = [f"{maker}:{part}" for maker, part in zip(makers, parts, strict=False)]
    words = [board, *sorted(set(kinds))]
    return ", ".join(word for word in words if word) or "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
