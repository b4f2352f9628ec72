"""Which engine is chosen, where its nodes are, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import wait_until

from edge import seams
from edge.accelerators import EngineRequest, OpenVinoOptions
from edge.bundle import Bundle
from edge.engines.choose import choose
from edge.engines.guard import Guard, Quarantined
from edge.engines.host import EngineHost, Hosts, Turns
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
