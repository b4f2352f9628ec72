"""Tuning on made-up machines: what is found, what is said of noise, and who takes part."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.accelerators import EngineRequest, Settings
from edge.bundle import Bundle
from edge.engines.guard import Guard
from edge.errors import ConfigError, EngineError
from edge.tuner import measuring, session
from edge.tuner.candidates import accuracy_drop, grid
from edge.tuner.search import Found, Search
from edge.tuner.session import Wanted
from edge.tuning import Record

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
        assert "slower than it began" in found.noisy, found.noisy


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


def test_one_that_leaves_all_others_far_behind_is_found_too() -> None:
    found = Machine([90.0, 80.0, 5.0, 70.0, 60.0]).search()
    assert found.ranking[0].candidate == 2 and found.enough
    assert Machine([5.0]).search().enough
    assert not Machine([]).search().enough


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


# ---- a session: real engines, and what is asked of them

ONE = EngineRequest(settings=Settings(threads=1))


@pytest.fixture
def bundle(wrist_bundle: Path) -> Bundle:
    return Bundle.open(wrist_bundle)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process needs is made up: 60 MB, without the arena 50."""
    monkeypatch.setattr(
        session,
        "resident_mb",
        lambda bundle, candidate, **_: 60.0 if candidate.settings.arena else 50.0,
    )


def tuned(bundle: Bundle, folder: Path, *, meter: Any = None, **wanted: Any) -> Record:
    found = session.tune(
        bundle, Guard(folder), Wanted(budget_s=0.01, **wanted), requests=[ONE],
        variants=["onnx-fp32", "onnx-int8"], meter=meter,
    )  # fmt: skip
    assert found.record is not None
    assert not [*folder.glob("*.mark")]
    return found.record


def test_who_needs_too_much_memory_takes_no_part(
    bundle: Bundle, tmp_path: Path, memory: None
) -> None:
    bound = tuned(bundle, tmp_path, max_rss_mb=55)
    assert {row.settings.arena for row in bound.ranking} == {False}
    assert bound.max_rss_mb == 55 and "needs 60 MB, at most 55 allowed" in str(bound.refused)
    least = tuned(bundle, tmp_path, objective="memory")
    assert {row.rss_mb for row in least.ranking} == {50.0}
    with pytest.raises(ConfigError, match="needs 50 MB, at most 40 allowed"):
        tuned(bundle, tmp_path, max_rss_mb=40)


def test_an_engine_in_quarantine_takes_no_part(
    bundle: Bundle, tmp_path: Path, memory: None
) -> None:
    guard = Guard(tmp_path)
    _, watch = guard.admit(bundle, bundle.manifest.variant("onnx-int8"), "onnx", ONE)
    guard.accuse(watch.suspect, "crash", "played")
    guard.forget(watch)
    kept = tuned(bundle, tmp_path)
    assert {row.variant for row in kept.ranking} == {"onnx-fp32"}
    assert "in quarantine since" in kept.refused["onnx-int8 on onnx:cpu"]


def test_where_memory_is_short_engines_are_opened_by_turns(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_free_mb", lambda: 10.0)
    every = grid(bundle.manifest.variants, [ONE], cores=1)[:5]
    bench = measuring.Bench(bundle, Guard(tmp_path))
    bench.kept = every[0]
    try:
        for candidate in every:
            assert bench.turn(candidate).frames >= 3
            assert len([*tmp_path.glob("*.mark")]) <= 2, "the yardstick, and whose turn it is"
    finally:
        bench.close()


def test_energy_is_reckoned_for_one_inference(
    bundle: Bundle, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meter:
        source = "made up"

        def start(self) -> None:
            self.began_s = time.perf_counter()

        def stop(self) -> float:
            return 4.0 * (time.perf_counter() - self.began_s)

    monkeypatch.setattr(measuring, "_METERED_S", 0.02)
    kept = tuned(bundle, tmp_path, meter=Meter(), objective="energy")
    for row in kept.ranking:
        assert row.energy_mj is not None and row.energy_mj > 4.0 * row.latency_ms.low * 0.9


def test_too_little_accuracy_is_said_before_anything_is_measured(
    meter_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="of accuracy, at most 0"):
        tuned(Bundle.open(meter_bundle), tmp_path, max_accuracy_drop=0.0001)
