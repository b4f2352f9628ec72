"""Tuning on made-up machines: what is found, what is said of noise, and when a record holds."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
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
from edge.errors import ConfigError, EngineError
from edge.hardware import Hardware, read
from edge.tuner import energy
from edge.tuner.candidates import accuracy_drop, grid
from edge.tuner.conditions import Conditions
from edge.tuner.search import Found, Search
from edge.tuning import Figures, Record, Spread

# ---- a made-up machine


class Machine:
    """Candidates by number, each with its true cost; time passes as they run.

    `noise` is the spread of a turn, `speed` says how much slower the machine is at a moment, and
    `interrupt_at` is the turn at which somebody presses Ctrl-C.
    """

    def __init__(
        self,
        costs: list[float],
        *,
        noise: float = 0.03,
        seed: int = 0,
        speed: Callable[[float], float] = lambda now_s: 1.0,
        interrupt_at: int = 0,
        fails: tuple[int, ...] = (),
    ) -> None:
        self.costs, self.noise, self.speed, self.fails = costs, noise, speed, fails
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.turns: list[int] = []
        self.interrupt_at = interrupt_at

    def cost(self, true: float) -> float:
        self.now_s += 0.03
        return true * self.speed(self.now_s) * abs(self.random.gauss(1, self.noise))

    def measure(self, candidate: int) -> float:
        self.turns.append(candidate)
        if len(self.turns) == self.interrupt_at:
            raise KeyboardInterrupt
        if candidate in self.fails and len(self.turns) > 2 * len(self.costs):
            raise EngineError("it broke")
        return self.cost(self.costs[candidate])

    def search(self, *, budget_s: float = 60.0) -> Found[int]:
        return Search(
            range(len(self.costs)),
            measure=self.measure,
            yardstick=lambda: self.cost(5.0),
            budget_s=budget_s,
            clock=lambda: self.now_s,
        ).run()


def some_costs(seed: int, count: int = 32) -> list[float]:
    chance = random.Random(seed)
    return [chance.uniform(4, 14) for _ in range(count)]


def test_halving_finds_what_an_exhaustive_search_would_at_a_part_of_the_cost() -> None:
    for seed in range(100):
        machine = Machine(some_costs(seed), seed=seed)
        found = machine.search()
        best = found.ranking[0].candidate
        assert machine.costs[best] <= min(machine.costs) / 0.95, seed
        assert found.enough and not found.noisy and not found.interrupted
        assert len(machine.turns) < found.laps * len(machine.costs) / 2
    assert {one.candidate for one in found.ranking} == {*range(32)}, "nobody is forgotten"


def test_a_machine_that_throttles_in_the_middle_changes_the_numbers_and_not_the_choice() -> None:
    for seed in range(30):
        machine = Machine(some_costs(seed), seed=seed, speed=lambda now: 1.0 if now < 6 else 1.7)
        found = machine.search()
        first = found.ranking[0]
        assert machine.costs[first.candidate] <= min(machine.costs) / 0.95
        assert first.high / first.low < 1.2, "what the machine did is not the candidate's spread"


def test_a_short_disturbance_is_measured_again() -> None:
    costs = [5.0 + number for number in range(8)]

    def busy(now_s: float) -> float:
        return 3.0 if 0.33 < now_s < 0.45 else 1.0

    machine = Machine(costs, speed=busy, noise=0.0)
    search = Search(
        range(8), measure=machine.measure, yardstick=lambda: machine.cost(5.0), budget_s=60,
        clock=lambda: machine.now_s,
    )  # fmt: skip
    found = search.run()
    assert search.repeated >= 1 and not found.noisy
    assert [one.candidate for one in found.ranking[:3]] == [0, 1, 2]
    assert all(one.low == pytest.approx(one.high) for one in found.ranking if one.alive)


def test_a_machine_that_never_stands_still_is_called_noisy() -> None:
    chance = random.Random(1)
    machine = Machine(some_costs(1), speed=lambda now: chance.choice([1.0, 1.0, 2.5]))
    found = machine.search()
    assert "changed its speed by up to" in found.noisy and found.enough


def test_between_equals_the_plainer_one_is_taken() -> None:
    found = Machine([9.0, 5.04, 5.0, 8.0, 5.0], noise=0.0).search()
    assert found.ranking[0].candidate == 1, "within 1 per cent, and before the others in order"


def test_an_interrupt_loses_nothing_that_was_measured() -> None:
    costs = some_costs(3)
    early = Machine(costs, interrupt_at=20).search()
    assert early.interrupted and not early.enough
    assert len(early.ranking) == 19 and costs[early.ranking[0].candidate] == min(costs[:19])
    late = Machine(costs, interrupt_at=90).search()
    assert late.interrupted and late.enough
    assert costs[late.ranking[0].candidate] <= min(costs) / 0.95
    nothing = Machine(costs, interrupt_at=1).search()
    assert nothing.ranking == [] and not nothing.enough


def test_the_budget_ends_it_and_two_laps_are_enough() -> None:
    machine = Machine(some_costs(4))
    found = machine.search(budget_s=0.1)
    assert found.laps == 2 and found.enough
    assert machine.costs[found.ranking[0].candidate] <= min(machine.costs) * 1.1


def test_a_candidate_that_fails_on_the_way_is_named_and_never_ranked() -> None:
    costs = some_costs(5)
    best = costs.index(min(costs))
    found = Machine(costs, fails=(best,)).search()
    assert found.refused == {best: "it broke"}
    assert best not in {one.candidate for one in found.ranking}
    everybody = Machine([5.0, 6.0], fails=(0, 1)).search()
    assert everybody.ranking == [] and not everybody.enough


# ---- what may be tried


def test_there_are_never_more_threads_than_cores(wrist_bundle: Path) -> None:
    variants = Bundle.open(wrist_bundle).manifest.variants
    for count in (1, 2, 3, 6):
        every = grid(variants, [EngineRequest()], cores=count, streams=4)
        assert len(every) == len({*every})
        assert max(one.settings.threads * one.slots for one in every) == count
        assert {one.slots for one in every} <= {1, 2, 3, 4}
        assert every[0].variant == variants[0].name and every[0].settings == Settings(threads=1)
    alone = grid(variants, [EngineRequest()], cores=2)
    assert {one.slots for one in alone} == {1}
    changed = {name for one in alone for name in json.loads(msgspec.json.encode(one.settings))}
    assert changed == {"threads", "spinning", "layout", "arena", "xnnpack"}
    assert not any(one.settings.spinning for one in alone if one.settings.threads == 1)


def test_what_was_asked_for_bounds_what_is_tried(wrist_bundle: Path) -> None:
    variants = Bundle.open(wrist_bundle).manifest.variants
    asked = EngineRequest(engine="tflite", policy="require", settings=Settings(threads=2))
    every = grid(variants, [asked], cores=4)
    assert {one.engine for one in every} == {"tflite"}
    assert {one.settings.threads for one in every} == {2}


def test_the_loss_of_accuracy_is_what_the_manifest_reports(wrist_bundle: Path) -> None:
    manifest = Bundle.open(wrist_bundle).manifest
    plain = manifest.variants[0]

    def drop(reference: dict[str, float], **measured: Any) -> float | None:
        variant = msgspec.structs.replace(plain, **{"accuracy": {}, "agreement": {}, **measured})
        provenance = msgspec.structs.replace(manifest.provenance, reference=reference)
        changed = msgspec.structs.replace(manifest, provenance=provenance)
        return accuracy_drop(changed, variant)

    assert drop({"f1": 0.9, "top1": 0.8}, accuracy={"f1": 0.88, "top1": 0.79}) == 0.02
    assert drop({"f1": 0.9}, accuracy={"f1": 0.95}) == -0.05
    extra = {"extra_boxes_per_digit": 0.05}
    assert drop({"extra_boxes_per_digit": 0.03}, accuracy=extra) == pytest.approx(0.02)
    assert drop({"mae": 3.0}, accuracy={"mae": 9.0}, agreement={"class": 0.97}) == 0.03
    assert drop({}) is None


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


# ---- the board


def put(root: Path, **files: Any) -> Path:
    for name, value in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value))
    return root


def rapl(root: Path, *, package: int, core: int = 0) -> Path:
    zone = root / "class/powercap/intel-rapl:0"
    part = root / "class/powercap/intel-rapl:0:0"
    for folder, value in ((zone, package), (part, core)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(str(value))
        (folder / "max_energy_range_uj").write_text("10000000")
    return root


def test_energy_is_counted_by_packages_and_over_the_end_of_the_counter(tmp_path: Path) -> None:
    meter = energy.find(rapl(tmp_path, package=9_000_000, core=5))
    assert meter.source == "RAPL: intel-rapl:0"
    meter.start()
    rapl(tmp_path, package=1_500_000, core=900)
    assert meter.stop() == pytest.approx(2.5)


def test_a_sensor_of_power_is_added_up_over_time(tmp_path: Path) -> None:
    sensor = tmp_path / "class/hwmon/hwmon3/power1_input"
    sensor.parent.mkdir(parents=True)
    sensor.write_text("4000000")
    meter = energy.find(tmp_path)
    meter.start()
    threading.Event().wait(0.2)
    joules = meter.stop()
    assert 0.5 < joules < 20, "four watts over two tenths of a second, however late it was asked"


def test_a_board_without_a_meter_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not measure its power: there is no RAPL in"):
        energy.find(tmp_path)
    if os.geteuid():
        (rapl(tmp_path, package=1) / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
        with pytest.raises(ConfigError, match="cannot be read by this user"):
            energy.find(tmp_path)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Callable[..., Conditions]]:
    def conditions(**given: Any) -> Conditions:
        return Conditions(tmp_path, own_ticks=lambda: given["own"](), clock=lambda: given["now"]())

    yield conditions


def test_others_that_keep_the_machine_busy_are_noticed(
    tmp_path: Path, busy: Callable[..., Conditions]
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    moment = {"own": 0.0, "now": 0.0}
    put(tmp_path, proc__stat="cpu  100 0 100 1000 50 0 0 0 0 0\ncpu0 1 2 3")
    conditions = busy(own=lambda: moment["own"], now=lambda: moment["now"])
    moment |= {"now": 10.0, "own": 10.0 * ticks}
    put(tmp_path, proc__stat=f"cpu  {100 + 10 * ticks} 0 100 5000 50 0 0 0 0 0")
    assert conditions.notes() == [], "all of it was ours"
    put(tmp_path, proc__stat=f"cpu  {100 + 15 * ticks} 0 100 5000 50 0 0 {5 * ticks} 0 0")
    assert conditions.notes() == ["other processes kept 1.0 cores busy"]


def test_throttling_and_heat_are_said_where_they_show(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu0"
    put(tmp_path, **{f"{cpu}__thermal_throttle__core_throttle_count": 3})
    conditions = Conditions(tmp_path)
    assert conditions.notes() == []
    put(tmp_path, **{f"{cpu}__thermal_throttle__core_throttle_count": 5})
    put(tmp_path, **{f"{cpu}__cpufreq__scaling_max_freq": 1_000_000})
    put(tmp_path, **{f"{cpu}__cpufreq__cpuinfo_max_freq": 2_400_000})
    put(tmp_path, sys__class__thermal__thermal_zone0__temp=85_000)
    assert conditions.notes() == [
        "the processor was throttled 2 times",
        "cpu0 is held to 1.0 of 2.4 GHz",
        "the board is at 85 degrees Celsius",
    ]


def test_hardware_is_read_from_x86_and_from_arm_with_two_kinds_of_cores(tmp_path: Path) -> None:
    one = put(
        tmp_path / "x86", proc__cpuinfo="model name\t: Big 9\nflags\t: fpu avx2 avx512f foo\n" * 2
    )
    (one / "dev/dri").mkdir(parents=True)
    (one / "dev/dri/renderD128").touch()
    assert read(one, count=2, architecture="x86_64") == Hardware(
        architecture="x86_64", cpu="Big 9", cores=2, features=("avx2", "avx512f"),
        devices=("dri/renderD128",),
    )  # fmt: skip
    core = "CPU implementer\t: 0x41\nFeatures\t: fp asimd asimddp\nCPU part\t: {}\n\n"
    board = put(
        tmp_path / "arm", proc__cpuinfo=core.format("0xd05") + core.format("0xd0b"),
    )  # fmt: skip
    (board / "proc/device-tree").mkdir()
    (board / "proc/device-tree/model").write_text("Some Board 5\0")
    found = read(board, count=8, architecture="aarch64")
    assert found.cpu == "Some Board 5, 0x41:0xd05, 0x41:0xd0b"
    assert found.features == ("asimd", "asimddp")
    assert read(tmp_path / "none", count=1, architecture="x").cpu == "unknown"
