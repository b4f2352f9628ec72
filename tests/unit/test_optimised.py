"""Models kept as their runtime optimised them: used when they are right, and never when not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from edge.accelerators import EngineRequest, Settings
from edge.bundle import Bundle
from edge.engines import optimised
from edge.engines.guard import Guard
from edge.engines.optimised import Entry, Optimised

BLOCKED = EngineRequest(settings=Settings(threads=1))


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*"))


def admit(folder: Path, request: EngineRequest = BLOCKED, *, marks: bool = True) -> list[Path]:
    """Let ONNX Runtime in with the fp32 variant, as an agent does; what is kept then."""
    bundle = Bundle.open("builtin:wrist_activity")
    guard = Guard(folder, marks=marks)
    engine, watch = guard.admit(bundle, bundle.manifest.variant("onnx-fp32"), "onnx", request)
    engine.close()
    guard.forget(watch)
    assert not guard.quarantine.records
    return entries(folder)


def told(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each engine that is built from now on is from an optimised model."""
    from edge.engines.onnx import OnnxEngine

    seen: list[bool] = []
    real = OnnxEngine.__init__

    def init(self: OnnxEngine, model: bytes, *, optimised: bool = False, **given: object) -> None:
        real(self, model, optimised=optimised, **given)  # type: ignore[arg-type]
        seen.append(optimised)

    monkeypatch.setattr(OnnxEngine, "__init__", init)
    return seen


def test_the_second_start_takes_what_the_first_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = told(monkeypatch)
    (kept,) = admit(tmp_path)
    assert admit(tmp_path) == [kept]
    assert built == [False, True]


def test_a_command_that_only_looks_keeps_nothing(tmp_path: Path) -> None:
    assert admit(tmp_path, marks=False) == []


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    """Bytes that have their digest in their name, and are no model at all."""
    _replace(path, b"nothing")


def _of_another_model(path: Path) -> None:
    """A model that runs and is another one: only its golden answers tell."""
    bundle = Bundle.open("builtin:wrist_activity")
    data = bundle.read(bundle.manifest.variant("onnx-int8").file)
    _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    """By other bytes under their right digest."""
    key = path.name.partition("-")[0]
    path.unlink()
    path.with_name(f"{key}-{optimised._digest(data)}.onnx").write_bytes(data)


@pytest.mark.parametrize("harm", [_cut, _flip, _foreign, _of_another_model])
def test_what_is_damaged_is_dropped_and_made_anew(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    (kept,) = admit(tmp_path)
    good = kept.read_bytes()
    harm(kept)
    admit(tmp_path)  # without what was harmed
    assert [path.read_bytes() for path in admit(tmp_path)] == [good]


def test_another_layout_is_another_entry(tmp_path: Path) -> None:
    admit(tmp_path)
    plain = EngineRequest(settings=Settings(threads=1, layout="plain"))
    assert len(admit(tmp_path, plain)) == 2


def test_the_processor_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = optimised.this_machine()
    one = Optimised(tmp_path).entry("a", "b")
    _keep(one, b"model")
    monkeypatch.setattr(
        optimised, "this_machine", lambda: type(here)(architecture="aarch64", cpu="x", cores=4)
    )
    assert one.read() == b"model" and Optimised(tmp_path).entry("a", "b").read() is None


def test_a_full_disk_costs_the_gain_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimised, "free_bytes", lambda folder: 1 << 20)
    assert admit(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_the_gain_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    assert admit(tmp_path) == []


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "0123.part").write_bytes(b"half")
    assert [path.suffix for path in admit(tmp_path)] == [".onnx"]


def test_old_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimised, "MAX_BYTES", 100)
    cache = Optimised(tmp_path)
    for number in range(5):
        entry = cache.entry(str(number))
        _keep(entry, bytes([number]) * 40)
        os.utime(next(iter(entry._found())), (number, number))
    assert [cache.entry(str(number)).read() is not None for number in range(5)] == [
        False, False, False, True, True,
    ]  # fmt: skip


def _keep(entry: Entry, data: bytes) -> None:
    place = entry.place(len(data))
    assert place is not None
    place.write_bytes(data)
    entry.keep(place)
