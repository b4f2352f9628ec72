"""Which engine is chosen, where its nodes are, and whose turn it is."""

from __future__ import annotations

import collections
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import wait_until

from edge import seams
from edge.accelerators import EngineRequest, OpenVinoOptions, Settings
from edge.bundle import Bundle
from edge.engines.choose import choose
from edge.engines.faults import EngineFault
from edge.engines.guard import Guard, Quarantined
from edge.engines.host import EngineHost, Hosts, Turns, fit
from edge.engines.onnx import OnnxEngine
from edge.errors import EngineError
from edge.types import Array
from edge.wire import Placement

WINDOW = np.zeros((1, 100, 6), np.float32)


class Played(OnnxEngine):
    """ONNX Runtime on the CPU, under the name of an accelerator and with a placement as told."""

    told: ClassVar[Placement] = Placement(nodes={"openvino": 9})

    def __init__(self, model: bytes, *, accelerator: str, **given: Any) -> None:
        given["options"] = None
        super().__init__(model, accelerator="cpu", **given)
        if accelerator != "cpu":
            self.name, self.placement = f"onnx:{accelerator}", self.told


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[Played]:
    class Fresh(Played):
        pass

    monkeypatch.setattr(seams, "find", lambda seam, name: Fresh)
    return Fresh


def chosen(bundle: Path, *, guard: Guard | None = None, **request: Any) -> Any:
    hosts = Hosts(guard)
    return choose(Bundle.open(bundle), hosts, variant="onnx-fp32", request=EngineRequest(**request))


def test_require_passes_on_a_whole_model_and_fails_on_a_part(
    played: type[Played], wrist_bundle: Path
) -> None:
    request = {"engine": "onnx", "accelerator": "openvino", "policy": "require"}
    assert chosen(wrist_bundle, **request).host.name == "onnx:openvino"
    played.told = Placement(nodes={"openvino": 8, "cpu": 3}, elsewhere={"Shape": 2, "Range": 1})
    assert chosen(wrist_bundle, **request).host.placement.nodes["cpu"] == 3, "shape operators may"
    played.told = Placement(nodes={"openvino": 8, "cpu": 1}, elsewhere={"Conv": 1})
    with pytest.raises(
        EngineError, match=r"1 Conv run elsewhere .*allowed on the CPU are Constant"
    ):
        chosen(wrist_bundle, **request)
    played.told = Placement()
    with pytest.raises(EngineError, match="this runtime cannot tell where nodes run"):
        chosen(wrist_bundle, **request)


def test_prefer_falls_back_and_says_so_and_any_says_it_to_the_log(
    wrist_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(tmp_path, marks=False)
    one = chosen(wrist_bundle, guard=guard, accelerator="migraphx", policy="prefer")
    assert one.host.name == "onnx:cpu" and "MIGraphXExecutionProvider" in one.fallback
    (alarm,) = guard.alarms()
    assert alarm.code == "engine_fallback" and "MIGraphX" in alarm.detail
    assert guard.quarantine.records == [], "what is not installed is nobody's fault"
    one = chosen(wrist_bundle, guard=guard, accelerator="migraphx", policy="any")
    assert one.host.name == "onnx:cpu" and one.fallback
    assert [*guard.alarms()] == [] and "engine fallback" in caplog.text
    with pytest.raises(EngineError, match="MIGraphXExecutionProvider"):
        chosen(wrist_bundle, guard=guard, accelerator="migraphx", policy="require")


def test_an_accelerator_of_other_formats_is_said_too(wrist_bundle: Path) -> None:
    assert chosen(wrist_bundle, accelerator="edgetpu").fallback == "no engine runs onnx on edgetpu"
    with pytest.raises(EngineError, match="no engine runs onnx on edgetpu"):
        chosen(wrist_bundle, accelerator="edgetpu", policy="require")
    with pytest.raises(EngineError, match="accelerator_options are missing"):
        chosen(wrist_bundle, accelerator="plugin")


def test_auto_without_an_accelerator_is_the_cpu_and_no_fallback(wrist_bundle: Path) -> None:
    one = chosen(wrist_bundle, accelerator="auto")
    assert (one.host.name, one.fallback) == ("onnx:cpu", "")


def test_what_is_in_quarantine_is_passed_over(wrist_bundle: Path, tmp_path: Path) -> None:
    bundle, guard = Bundle.open(wrist_bundle), Guard(tmp_path, marks=False)
    _, watch = guard.admit(bundle, bundle.manifest.variants[0], "onnx", EngineRequest())
    guard.accuse(watch.suspect, "crash", "it crashed")
    with pytest.raises(Quarantined, match=r"in quarantine since .*: crash: it crashed"):
        guard.admit(bundle, bundle.manifest.variants[0], "onnx", EngineRequest())
    other = choose(bundle, Hosts(guard), request=EngineRequest())
    assert other.host.name == "litert:cpu" and "it crashed" in other.fallback


def test_the_policy_reaches_the_options_of_the_accelerator_alone(
    played: type[Played], wrist_bundle: Path
) -> None:
    options = OpenVinoOptions(device="GPU")
    one = chosen(wrist_bundle, engine="onnx", accelerator="openvino", options=options)
    assert one.host.name == "onnx:openvino"


# ---- turns


def test_streams_take_turns_in_the_order_in_which_they_asked() -> None:
    turns, order = Turns(["the slot"]), []
    assert turns.take() == "the slot"
    waiting = []
    for name in "abcd":

        def stream(name: str = name) -> None:
            thing = turns.take()
            assert thing is not None
            order.append(name)
            turns.give(thing)

        waiting.append(threading.Thread(target=stream, daemon=True))
        waiting[-1].start()
        wait_until(lambda: len(turns._waiting) == len(waiting))
    assert not turns.take(0.01), "who gives up waiting is no longer in the queue"
    turns.give("the slot")
    for thread in waiting:
        thread.join(10)
    assert order == [*"abcd"]
    assert turns.take(0) == "the slot", "the last one has given it back"


def test_who_is_interrupted_while_he_waits_loses_nothing_for_the_others() -> None:
    turns = Turns(["the slot"])
    assert turns.take() == "the slot"

    def interrupt() -> None:
        wait_until(lambda: len(turns._waiting) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            turns.take()
    finally:
        signal.signal(signal.SIGINT, before)
    turns.give("the slot")
    assert turns.take(0) == "the slot"


def test_waiting_for_a_turn_ends_at_a_stop() -> None:
    turns, stop = Turns(["the slot"]), threading.Event()
    assert turns.take(stop=stop) == "the slot"
    threading.Timer(0.05, stop.set).start()
    assert turns.take(stop=stop) is None
    turns.give("the slot")
    assert turns.take(0) == "the slot"


# ---- slots


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.engines.host.cores", lambda: 4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("threads", "slots", "workers", "fits"),
    [
        (0, 0, 1, (4, 1)),
        (0, 0, 2, (2, 2)),
        (0, 0, 3, (1, 4)),
        (0, 0, 16, (1, 4)),
        (1, 0, 1, (1, 4)),
        (2, 0, 1, (2, 2)),
        (3, 0, 1, (3, 1)),
        (8, 0, 1, (4, 1)),
        (1, 1, 16, (1, 1)),
        (1, 9, 16, (1, 4)),
    ],
)
def test_there_are_never_more_threads_than_cores(
    threads: int, slots: int, workers: int, fits: tuple[int, int]
) -> None:
    asked = EngineRequest(settings=Settings(threads=threads), slots=slots)
    request = fit(asked, workers=workers)
    assert (request.settings.threads, request.slots) == fits
    assert fit(request) == request


@pytest.mark.usefixtures("four_cores")
def test_a_device_beside_the_cores_has_one_slot_unless_more_are_asked_for() -> None:
    for options, slots in ((OpenVinoOptions(), 4), (OpenVinoOptions(device="NPU"), 1)):
        asked = EngineRequest(accelerator="openvino", options=options, settings=Settings(threads=1))
        assert fit(asked).slots == slots
    assert fit(EngineRequest(accelerator="edgetpu", settings=Settings(threads=1))).slots == 1


def host_of(wrist: Path, *, slots: int, guard: Guard | None = None, **request: Any) -> EngineHost:
    """With so many slots, in which ONNX Runtime has one thread each."""
    bundle = Bundle.open(wrist)
    host = EngineHost(
        bundle,
        bundle.manifest.variant("onnx-fp32"),
        engine="onnx",
        request=EngineRequest(settings=Settings(threads=1), **request),
        guard=guard,
    )
    for _ in range(slots):
        host.join()
    assert len(host._slots) == host.telemetry.slots == slots
    return host


@pytest.mark.usefixtures("four_cores")
def test_there_are_as_many_slots_as_streams_and_room_for(
    wrist_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts, bundle = Hosts(workers=9), Bundle.open(wrist_bundle)
    found = []
    for _ in range(6):
        host = choose(bundle, hosts, variant="onnx-fp32").host
        found.append((host.telemetry.streams, host.telemetry.slots))
    assert found == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 4)]
    hosts.close()


@pytest.mark.usefixtures("four_cores")
def test_where_there_is_no_twin_streams_share_what_there_is(
    wrist_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_of(wrist_bundle, slots=1)

    def no_twin(engine: OnnxEngine) -> OnnxEngine:
        raise EngineError("the device is taken")

    monkeypatch.setattr(OnnxEngine, "twin", no_twin)
    host.join()
    host.join()
    assert (host.telemetry.streams, host.telemetry.slots, host.most_slots) == (3, 1, 1)
    assert caplog.text.count("onnx:cpu: no more than 1 slots: the device is taken") == 1
    assert host.infer({"window": WINDOW})
    host.close()


@pytest.mark.usefixtures("four_cores")
def test_never_more_runs_are_under_way_than_there_are_slots(wrist_bundle: Path) -> None:
    host = host_of(wrist_bundle, slots=2)
    inside: list[int] = []
    most, lock = 0, threading.Lock()

    def recorded(number: int, run: Any) -> Any:
        def running(*given: Any) -> dict[str, Array]:
            nonlocal most
            with lock:
                assert number not in inside, "an engine is run by two at a time"
                inside.append(number)
                most = max(most, len(inside))
            time.sleep(0.005)
            answer: dict[str, Array] = run(*given)
            with lock:
                inside.remove(number)
            return answer

        return running

    for number, slot in enumerate(host._slots):
        slot.engine.run = recorded(number, slot.engine.run)  # type: ignore[method-assign]
    expected = host_of(wrist_bundle, slots=1).infer({"window": WINDOW})["logits"]

    def stream() -> None:
        for _ in range(10):
            np.testing.assert_array_equal(host.infer({"window": WINDOW})["logits"], expected)

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 2 and host.telemetry.runs == 60
    host.close()


@pytest.mark.usefixtures("four_cores")
def test_sixteen_streams_come_round_equally_often(wrist_bundle: Path) -> None:
    host = host_of(wrist_bundle, slots=2)
    held = [host.take(), host.take()]
    came: queue.Queue[tuple[int, threading.Event]] = queue.Queue()
    enough = threading.Event()

    def stream(number: int) -> None:
        while not enough.is_set() and (slot := host.take(enough)) is not None:
            go_on = threading.Event()
            came.put((number, go_on))
            while not (go_on.wait(0.05) or enough.is_set()):
                pass
            host.infer({"window": WINDOW}, slot=slot)
            host.give(slot)

    threads = [threading.Thread(target=stream, args=(one,), daemon=True) for one in range(16)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(host._turns._waiting) == 16)
    for slot in held:
        assert slot is not None
        host.give(slot)
    order: list[int] = []
    for _ in range(16 * 20):
        # Each one goes on when all others wait or have a turn, whatever the machine does else.
        deadline_s = time.monotonic() + 10
        while (came.qsize(), len(host._turns._waiting)) != (2, 14):
            assert time.monotonic() < deadline_s
            time.sleep(0.0001)
        number, go_on = came.get()
        order.append(number)
        go_on.set()
    assert {*collections.Counter(order).values()} == {20}
    assert order == order[:16] * 20, "all come round before one comes again"
    enough.set()
    for thread in threads:
        thread.join(30)
    host.close()


@pytest.mark.usefixtures("four_cores")
def test_a_hang_in_the_second_slot_is_noticed_and_its_mark_is_left(
    wrist_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(tmp_path, hang_s=0.5)
    host = host_of(wrist_bundle, slots=2, guard=guard)
    first, second = host._slots
    assert first.watch and second.watch and first.watch.mark and second.watch.mark
    assert len([*tmp_path.glob("engine-*.mark")]) == 2, "a mark for each slot"
    hanging, go_on = threading.Event(), threading.Event()

    def hang(*given: Any) -> dict[str, Array]:
        hanging.set()
        go_on.wait(30)
        raise EngineError("too late")

    monkeypatch.setattr(second.engine, "run", hang)
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    assert {host.take(), host.take()} == {first, second}

    def stick() -> None:
        with pytest.raises(EngineError, match="too late"):
            host.infer({"window": WINDOW}, slot=second)

    stuck = threading.Thread(target=stick, daemon=True)
    stuck.start()
    assert hanging.wait(10)
    for _ in range(3):
        guard._look(0.2)
        assert host.infer({"window": WINDOW}, slot=first), "the other slot is at work"
        assert guard.quarantine.records == []
    guard._look(0.2)
    (record,) = guard.quarantine.records
    assert (record.kind, exits) == ("hang", [9]) and record.suspect == second.watch.suspect
    monkeypatch.setattr("edge.engines.host._CLOSE_S", 0.05)
    host.give(first)
    host.close()
    (mark,) = tmp_path.glob("engine-*.mark")
    assert mark == second.watch.mark._path, "the mark of what hangs is left behind"
    with pytest.raises(EngineError, match="inference failed"):
        first.engine.run({"window": WINDOW})
    go_on.set()
    stuck.join(10)
    second.watch.mark.remove()


@pytest.mark.usefixtures("four_cores")
def test_each_slot_is_watched_by_itself(wrist_bundle: Path, tmp_path: Path) -> None:
    guard = Guard(tmp_path, marks=False)
    host = host_of(wrist_bundle, slots=2, guard=guard)
    nan = np.full((1, 4), np.nan, np.float32)
    for slot in host._slots:
        slot.engine.run = lambda *given: {"logits": nan}  # type: ignore[method-assign]
    second = host._slots[1]
    with pytest.raises(EngineFault, match="an output is NaN or infinite, and"):
        host.infer({"window": WINDOW}, slot=second)
    assert host.telemetry.not_finite == 1 and second.watch and second.watch.not_finite == 1
    (record,) = guard.quarantine.records
    assert record.kind == "not_finite"
    host.close()
    assert guard._watches == []


def test_a_fast_stream_does_not_starve_a_slow_one(wrist_bundle: Path) -> None:
    bundle = Bundle.open(wrist_bundle)
    host = EngineHost(bundle, bundle.manifest.variants[0], engine="onnx", request=EngineRequest())
    order: list[str] = []
    engine = host._slots[0].engine
    run = engine.run

    def recorded(inputs: Mapping[str, Array], into: object) -> dict[str, Array]:
        order.append(threading.current_thread().name)
        return run(inputs)

    engine.run = recorded  # type: ignore[method-assign]
    barrier = threading.Barrier(3)

    def stream() -> None:
        barrier.wait(10)
        for _ in range(100):
            host.infer({"window": WINDOW})

    threads = [threading.Thread(target=stream, name=name, daemon=True) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    everybody = order[: max(order.index(name) for name in "abc") + 150]
    assert min(everybody.count(name) for name in "abc") > 25
    telemetry = host.telemetry
    assert telemetry.runs == 300 and telemetry.infer_ms and telemetry.wait_ms
    host.close()


def test_an_engine_that_hangs_is_left_behind_at_the_end(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engines.host._CLOSE_S", 0.05)
    bundle = Bundle.open(wrist_bundle)
    host = EngineHost(bundle, bundle.manifest.variants[0], engine="onnx", request=EngineRequest())
    slot = host.take()
    assert slot is not None
    host.close()
    host.give(slot)
    host.close()
