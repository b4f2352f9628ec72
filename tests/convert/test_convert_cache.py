"""What was made once is found again, and only while nothing that it depends on has changed."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convert.cache import Cache, folder, key
from convert.errors import CannotConvert


class Thing(msgspec.Struct):
    numbers: dict[str, object]


def test_a_value_is_made_once_for_the_same_parts(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "made"

    assert [cache.remember("step", {"a": 1}, str, make) for _ in range(2)] == ["made", "made"]
    assert len(made) == 1
    cache.remember("step", {"a": 2}, str, make)
    cache.remember("other", {"a": 1}, str, make)
    assert len(made) == 3


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    stored = Thing({"x": np.arange(6, dtype=np.float16).reshape(2, 3)})
    cache.keep("step", 1, stored)
    found = cache.find("step", 1, Thing)
    assert found is not None
    array = found.numbers["x"]
    assert isinstance(array, np.ndarray) and array.dtype == np.float16
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_that_there_is_no_way_is_remembered_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def make() -> str:
        raise CannotConvert("no kernel")

    for attempt in (make, lambda: "not asked again"):
        with pytest.raises(CannotConvert, match="no kernel"):
            cache.remember("step", 1, str, attempt)


def test_a_damaged_entry_is_as_good_as_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep("step", 1, "first")
    (entry,) = tmp_path.iterdir()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    assert cache.find("step", 1, str) is None
    entry.write_bytes(b"")
    assert cache.remember("step", 1, str, lambda: "second") == "second"


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert Cache(tmp_path / "file" / "x").remember("step", 1, str, lambda: "made") == "made"
    assert Cache(None).remember("step", 1, str, lambda: "made") == "made"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(3):
        cache.keep("step", number, "x" * 1000)
        os.utime(tmp_path / key("step", number), (number, number))
    assert cache.find("step", 0, str)  # used now
    cache.prune(max_bytes=2500)
    kept = [number for number in range(3) if cache.find("step", number, str)]
    assert kept == [0, 2]


def test_the_place_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path))
    assert folder() == tmp_path
