"""A tuning record: when it holds, what runs because of it, and the look without one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge import tuning
from edge.accelerators import AUTO, EngineRequest, Settings
from edge.bundle import Bundle
from edge.cores import cores
from edge.engines import choose as choosing
from edge.engines import look as looking
from edge.engines.choose import choose
from edge.engines.guard import Guard
from edge.engines.host import Hosts
from edge.tuning import Figures, Record, Spread

# ---- a record, and when it holds


def figures(variant: str = "tflite-int8", **changes: Any) -> Figures:
    given: dict[str, Any] = {
        "variant": variant,
        "engine": variant.partition("-")[0],
        "accelerator": "cpu",
        "settings": Settings(threads=1),
        "latency_ms": Spread(median=1.0, low=0.9, high=1.1, count=30),
        **changes,
    }
    return Figures(**given)


def record(bundle: Bundle, *rows: Figures, **changes: Any) -> Record:
    given: dict[str, Any] = {
        "key": tuning.current_key(bundle.identity),
        "objective": "latency",
        "wall": "2026-11-25T03:00:00Z",
        "ranking": rows or (figures(),),
        **changes,
    }
    return Record(**given)


@pytest.fixture
def bundle(wrist_bundle: Path) -> Bundle:
    return Bundle.open(wrist_bundle)


def chosen(
    bundle: Bundle, folder: Path, *, variant: str = AUTO, writes: bool = False, **request: Any
) -> tuple[str, str, Settings]:
    """Variant, engine and settings of what an agent with this state directory would run."""
    hosts = Hosts(Guard(folder, marks=writes))
    asked: list[Settings] = []
    get = hosts.get

    def listening(*arguments: Any, **given: Any) -> Any:
        asked.append(given["request"].settings)
        return get(*arguments, **given)

    hosts.get = listening  # type: ignore[method-assign]
    try:
        found = choose(bundle, hosts, variant=variant, request=EngineRequest(**request))
        return found.variant.name, found.host.name, asked[-1]
    finally:
        hosts.close()


def test_a_record_comes_back_as_it_was_written(bundle: Bundle, tmp_path: Path) -> None:
    rows = figures(rss_mb=51.0, energy_mj=0.2), figures("onnx-fp32", accuracy_drop=0.0)
    kept = record(bundle, *rows, noisy="a fan", refused={"x": "wrong"})
    path = tuning.write(tmp_path, kept)
    assert tuning.read(tmp_path, bundle.identity) == (kept, "")
    assert path.parent == tmp_path / "tuning" and len([*path.parent.iterdir()]) == 1
    assert tuning.read(tmp_path, bundle.identity, look=True) == (None, "")


def test_auto_runs_what_the_record_found_with_its_settings(bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings(threads=1, layout="plain", arena=False)
    tuning.write(tmp_path, record(bundle, figures("onnx-int8", settings=settings), figures()))
    assert chosen(bundle, tmp_path) == ("onnx-int8", "onnx:cpu", settings)
    assert chosen(bundle, tmp_path, variant="tflite-int8")[2] == Settings(threads=1)
    fixed = chosen(bundle, tmp_path, variant="onnx-int8", settings=Settings(threads=1))
    assert fixed == ("onnx-int8", "onnx:cpu", Settings(threads=1)), "threads that are given stand"
    untuned = chosen(bundle, tmp_path, variant="onnx-fp32")
    assert untuned == ("onnx-fp32", "onnx:cpu", Settings()), "of which the record says nothing"


def test_what_is_asked_for_comes_before_what_is_fast(bundle: Bundle, tmp_path: Path) -> None:
    tuning.write(tmp_path, record(bundle, figures("onnx-int8"), figures("tflite-int8")))
    assert chosen(bundle, tmp_path, engine="tflite")[:2] == ("tflite-int8", "litert:cpu")
    there = chosen(bundle, tmp_path, accelerator="xnnpack")
    assert there[:2] == ("tflite-fp32", "litert:xnnpack"), "the record has the cpu alone"


def test_without_a_state_directory_the_order_of_the_manifest_stands(bundle: Bundle) -> None:
    hosts = Hosts()
    assert choose(bundle, hosts).variant.name == bundle.manifest.variants[0].name == "onnx-fp32"
    hosts.close()


CHANGES: dict[str, Callable[[tuning.Key], tuning.Key]] = {
    "cpu was Other": lambda key: hardware(key, cpu="Other"),
    "cores was 99": lambda key: hardware(key, cores=99),
    "architecture was vax": lambda key: hardware(key, architecture="vax"),
    "features was amx_int8": lambda key: hardware(
        key, features=(*key.hardware.features, "amx_int8")
    ),
    "devices was nvidia0": lambda key: hardware(key, devices=("nvidia0",)),
    "onnxruntime was 1.2.3": lambda key: versions(key, onnxruntime="1.2.3"),
    "openvino was 2031.1, is not there": lambda key: versions(key, openvino="2031.1"),
    "edgewright was 9": lambda key: versions(key, edgewright="9"),
    "bundle was sha256:00": lambda key: msgspec.structs.replace(key, bundle="sha256:00"),
}


def hardware(key: tuning.Key, **changes: Any) -> tuning.Key:
    return msgspec.structs.replace(key, hardware=msgspec.structs.replace(key.hardware, **changes))


def versions(key: tuning.Key, **changes: str) -> tuning.Key:
    return msgspec.structs.replace(key, runtimes={**key.runtimes, **changes})


@pytest.mark.parametrize("reason", CHANGES)
def test_a_record_is_void_when_any_key_changes(
    reason: str, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = CHANGES[reason](tuning.current_key(bundle.identity))
    kept = record(bundle, figures("onnx-int8"), key=key)
    place = tuning.place(tmp_path, bundle.identity)
    place.parent.mkdir()
    place.write_bytes(msgspec.json.encode(kept))
    found, why = tuning.read(tmp_path, bundle.identity)
    assert found is None and reason in why
    with caplog.at_level(logging.WARNING):
        assert chosen(bundle, tmp_path)[0] == "onnx-fp32", "the sane order"
    assert f"its tuning record is not used ({why})" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe", b"[]", b"null", b'{"v": 1}', b'{"v": 99}', b"{" * 5000, b'{"v": 1, "key',
        b'{"v":1,"key":{"hardware":{},"runtimes":{},"bundle":""},"objective":"latency"}',
    ],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_record_is_no_record_and_no_error(
    data: bytes, bundle: Bundle, tmp_path: Path
) -> None:
    for look in (False, True):
        place = tuning.place(tmp_path, bundle.identity, look=look)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        found, why = tuning.read(tmp_path, bundle.identity, look=look)
        assert found is None and str(place) in why
    assert chosen(bundle, tmp_path)[0] == "onnx-fp32"


def test_every_cut_of_a_record_is_no_record(bundle: Bundle, tmp_path: Path) -> None:
    path = tuning.write(tmp_path, record(bundle))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        assert tuning.read(tmp_path, bundle.identity)[0] is None
    path.unlink()
    path.mkdir()
    found, why = tuning.read(tmp_path, bundle.identity)
    assert found is None and "cannot be read" in why


def test_a_record_may_not_ask_for_more_than_there_is(bundle: Bundle, tmp_path: Path) -> None:
    greedy = figures("onnx-int8", settings=Settings(threads=cores()), slots=2)
    ghost = figures("onnx-fp8")
    tuning.write(tmp_path, record(bundle, greedy, ghost, figures()))
    assert chosen(bundle, tmp_path)[0] == "tflite-int8"
    tuning.write(tmp_path, record(bundle, ghost))
    assert chosen(bundle, tmp_path)[0] == "onnx-fp32"


def wrong(bundle: Path, copy: Path, variant: str) -> Bundle:
    """A copy of a bundle in which the golden answers of one variant are another's: what it gives
    is wrong by them."""
    from edge.bundle import MANIFEST, write

    opened = Bundle.open(bundle)
    files = {name: opened.read(name) for name in opened.manifest.files if name != MANIFEST}
    for case in opened.manifest.golden:
        if (case.kind, case.variant) == ("variant", variant):
            for path in case.outputs.values():
                files[path] = files[path][:-8] + b"\0\0\x80\x41" * 2
    return write(copy, opened.manifest, files)


def test_the_fastest_is_never_chosen_when_it_is_wrong(wrist_bundle: Path, tmp_path: Path) -> None:
    bad = wrong(wrist_bundle, tmp_path / "bad", "tflite-int8")
    tuning.write(tmp_path, record(bad, figures("tflite-int8"), figures("onnx-int8")))
    assert chosen(bad, tmp_path)[0] == "onnx-int8"
    (kept,) = Guard(tmp_path).quarantine.records
    assert (kept.suspect.model.variant, kept.kind) == ("tflite-int8", "wrong")
    assert chosen(bad, tmp_path)[0] == "onnx-int8", "and in quarantine it stays out"


# ---- the look


def test_an_agent_without_a_record_looks_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def played(bundle: Any, ways: Any, guard: Any, *, accept: Any) -> list[Figures]:
        calls.append([variant.name for variant, _, _ in ways])
        return [figures("tflite-fp32"), figures("onnx-fp32")]

    monkeypatch.setattr(choosing, "look", played)
    assert chosen(bundle, tmp_path)[0] == "onnx-fp32", "a command that only looks at things"
    assert calls == []
    assert chosen(bundle, tmp_path, writes=True)[0] == "tflite-fp32"
    assert chosen(bundle, tmp_path, writes=True)[0] == "tflite-fp32"
    assert calls == [[variant.name for variant in bundle.manifest.variants]], "once"
    assert chosen(bundle, tmp_path, variant="onnx-int8", writes=True)[0] == "onnx-int8"
    kept, _ = tuning.read(tmp_path, bundle.identity, look=True)
    assert kept is not None and kept.objective == "look"
    tuning.write(tmp_path, record(bundle, figures("onnx-int8")))
    assert chosen(bundle, tmp_path, writes=True)[0] == "onnx-int8", "a tuning counts more"


def test_a_look_is_short_and_takes_only_what_is_right(wrist_bundle: Path, tmp_path: Path) -> None:
    bad = wrong(wrist_bundle, tmp_path / "bad", "tflite-fp32")
    found = chosen(bad, tmp_path, writes=True)
    kept, _ = tuning.read(tmp_path, bad.identity, look=True)
    assert kept is not None and found[0] == kept.ranking[0].variant
    assert {row.variant for row in kept.ranking} == {"onnx-fp32", "onnx-int8", "tflite-int8"}
    assert not [*tmp_path.glob("*.mark")]


def test_a_look_changes_the_order_only_for_what_is_clearly_faster() -> None:
    def took(**ms: float) -> list[str]:
        rows = [
            figures(name, latency_ms=Spread(median=value, low=value, high=value, count=9))
            for name, value in ms.items()
        ]
        return [row.variant for row in looking.in_order(rows)]

    assert took(a=1.0, b=0.9, c=2.0) == ["a", "b", "c"]
    assert took(a=1.2, b=1.0, c=1.1) == ["b", "c", "a"]
    assert took(a=9.0, b=1.1, c=1.0) == ["b", "c", "a"]
    assert looking.in_order([]) == []


# ---- the front


def test_the_front_is_what_nothing_else_beats_in_everything() -> None:
    def row(name: str, ms: float, mb: float | None, loss: float | None) -> Figures:
        spread = Spread(median=ms, low=ms, high=ms, count=3)
        return figures(name, latency_ms=spread, rss_mb=mb, accuracy_drop=loss)

    fast = row("fast", 1.0, 90.0, 0.02)
    small = row("small", 3.0, 40.0, 0.02)
    exact = row("exact", 2.0, 90.0, 0.0)
    beaten = row("beaten", 3.5, 41.0, 0.02)
    unknown = row("unknown", 3.0, None, None)
    assert tuning.front([beaten, small, unknown, exact, fast]) == [fast, exact, small]
    assert tuning.front([fast, msgspec.structs.replace(fast, variant="twin")]) == [fast]
