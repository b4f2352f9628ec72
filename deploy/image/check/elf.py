"""What an ELF file says of itself: for which machine, how its pages are aligned, what it needs."""

from __future__ import annotations

import dataclasses
import struct

AARCH64 = 183
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """`alignment` is the smallest of its LOAD segments, in bytes; 0 for a file without any."""

    machine: int
    alignment: int
    needed: tuple[str, ...]


def is_elf(data: bytes) -> bool:
    """Whether the bytes start like an ELF file."""
    return data[:4] == b"\x7fELF"


def read(data: bytes) -> Elf:
    """Read a little-endian file, of 64 bits when `needed` is wanted. ValueError when damaged."""
    if len(data) < 64 or not is_elf(data) or data[5] != 1:
        raise ValueError("not a little-endian ELF file")
    (machine,) = struct.unpack_from("<H", data, 18)
    if data[4] != 2:
        return Elf(machine=machine, alignment=0, needed=())
    try:
        return _read_64(data, machine)
    except (struct.error, StopIteration) as error:
        raise ValueError("a damaged ELF file") from error


def _read_64(data: bytes, machine: int) -> Elf:
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, start + n * size) for n in range(count)]
    loads = [segment for segment in segments if segment[0] == _PT_LOAD]
    needed: tuple[str, ...] = ()
    for segment in segments:
        if segment[0] == _PT_DYNAMIC:
            tags = list(struct.iter_unpack("<QQ", _slice(data, segment[2], segment[5])))
            table = next((value for tag, value in tags if tag == _DT_STRTAB), None)
            names = [value for tag, value in tags if tag == _DT_NEEDED]
            if names and table is not None:
                # The table is named by its address in memory; the LOAD segments say where it is.
                load = next(one for one in loads if one[3] <= table < one[3] + one[5])
                offset = table - load[3] + load[2]
                needed = tuple(_text(data, offset + name) for name in names)
    return Elf(
        machine=machine,
        alignment=min((segment[7] for segment in loads), default=0),
        needed=needed,
    )


def _slice(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size // 16 * 16]


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("ascii")
