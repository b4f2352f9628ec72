"""What a process leaves behind of its engines, and what the next one concludes from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge.accelerators import ONE_THREAD, EngineRequest, Settings
from edge.bundle import Bundle, in_memory
from edge.engines import marks, trial
from edge.engines.deaths import CRASH_FILE
from edge.engines.faults import EngineFault, prove
from edge.engines.guard import Guard
from edge.engines.quarantine import Quarantine, Record, Suspect, library_digest
from edge.engines.watch import STILL_FRAMES, Watch
from edge.errors import EngineError, FrameError
from edge.types import Array
from edge.wire import ModelRef

MODEL = ModelRef(name="toy", version="1", bundle="sha256:00", variant="onnx-fp32")


def suspect(**changes: Any) -> Suspect:
    given = {
        "engine": "onnx", "accelerator": "cuda", "version": "onnxruntime 1", "options": "{}",
        "model": MODEL, **changes,
    }  # fmt: skip
    return Suspect(**given)


def record(**changes: Any) -> Record:
    return Record(suspect=suspect(**changes), kind="wrong", detail="off", wall="2026")


# ---- the quarantine


def test_records_stay_until_they_are_cleared(tmp_path: Path) -> None:
    Quarantine(tmp_path).add(record())
    Quarantine(tmp_path).add(record(accelerator="qnn"))
    again = Quarantine(tmp_path)
    assert again.find(suspect()) == record()
    assert again.find(suspect(version="onnxruntime 2")) is None, "a new version is a new engine"
    assert again.find(suspect(options='{"device_id":1}')) is None
    assert again.find(suspect(settings=Settings(layout="plain"))) is None
    again.tell(record())
    assert [kept.told for kept in again.records] == [True, False] or [
        kept.told for kept in again.records
    ] == [False, True]
    again.add(record())
    assert len(again.records) == 2
    assert (again.clear(), again.clear()) == (2, 0)


def test_a_file_that_is_no_quarantine_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "quarantine.json").write_bytes(b"{half")
    assert Quarantine(tmp_path).records == []
    assert (tmp_path / "quarantine.broken").read_bytes() == b"{half"
    Quarantine(tmp_path).add(record())
    assert len(Quarantine(tmp_path).records) == 1


def test_an_updated_library_is_another_version(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"1")
    before = library_digest(str(library))
    library.write_bytes(b"2")
    assert before != library_digest(str(library)) and library_digest("libx.so") == ""


# ---- marks of a process that died

DIES = """
import os, signal, sys
from pathlib import Path
from edge.engines import deaths, marks
from edge.engines.quarantine import Suspect
import msgspec
folder, frames, inside, end = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
deaths.arm(folder)
mark = marks.Mark(folder, msgspec.json.decode(sys.argv[5], type=Suspect))
for _ in range(frames):
    mark.enter()
    mark.leave()
if inside == "inside":
    mark.enter()
if end == "orderly":
    mark.remove()
elif end == "elsewhere":
    import faulthandler
    faulthandler._sigsegv()
elif end == "crash":
    code = compile("import faulthandler; faulthandler._sigsegv()", "/x/edge/engines/y.py", "exec")
    exec(code)
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die(
    folder: Path, *, frames: int, inside: bool, end: str, accelerator: str = "cuda"
) -> list[Record]:
    import msgspec

    subprocess.run(
        [
            sys.executable, "-c", DIES, str(folder), str(frames),
            "inside" if inside else "outside", end,
            msgspec.json.encode(suspect(accelerator=accelerator)).decode(),
        ],
        check=False,
    )  # fmt: skip
    return Guard(folder).quarantine.records


def test_an_engine_in_which_the_process_crashed_is_blamed_with_the_trace(tmp_path: Path) -> None:
    (found,) = die(tmp_path, frames=1003, inside=True, end="crash")
    assert (found.kind, found.detail) == ("crash", "Segmentation fault after 1003 runs")
    assert "edge/engines/y.py" in found.evidence
    assert found.facts["frames"] == 1003 and found.facts["frames_per_s"] > 0
    assert (tmp_path / CRASH_FILE).read_text() == "", "a trace is used once"
    assert [*tmp_path.glob(marks.PATTERN)] == []


def test_the_plain_cpu_is_blamed_for_a_crash_as_well(tmp_path: Path) -> None:
    (found,) = die(tmp_path, frames=0, inside=True, end="crash", accelerator="cpu")
    assert found.kind == "crash"


@pytest.mark.parametrize(
    ("frames", "inside", "end", "accelerator"),
    [
        (50, True, "orderly", "cuda"),
        (500, True, "kill", "cuda"),
        (50, False, "kill", "cuda"),
        (0, True, "kill", "cpu"),
        (500, False, "elsewhere", "cuda"),
        (500, True, "elsewhere", "cuda"),
    ],
    ids=["ended", "killed late", "killed outside", "killed, plain", "elsewhere", "other thread"],
)
def test_an_engine_that_is_not_to_blame_is_not_blamed(
    tmp_path: Path, frames: int, inside: bool, end: str, accelerator: str
) -> None:
    assert die(tmp_path, frames=frames, inside=inside, end=end, accelerator=accelerator) == []


def test_an_accelerator_that_dies_in_its_first_frames_without_a_trace_is_blamed(
    tmp_path: Path,
) -> None:
    (found,) = die(tmp_path, frames=3, inside=True, end="kill")
    assert (found.kind, found.facts["frames"]) == ("died", 3)


@pytest.mark.parametrize(("frames", "blamed"), [(20, True), (200, False)])
def test_what_the_other_slots_of_an_engine_ran_counts_for_it_too(
    tmp_path: Path, frames: int, blamed: bool
) -> None:
    program = f"""
import os, signal
from pathlib import Path
import msgspec
from edge.engines.marks import Mark
from edge.engines.quarantine import Suspect
suspect = msgspec.json.decode({msgspec.json.encode(suspect(accelerator="cuda"))!r}, type=Suspect)
first, second = (Mark(Path({str(tmp_path)!r}), suspect) for _ in range(2))
for _ in range({frames}):
    first.enter(), first.leave()
second.enter()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    records = Guard(tmp_path).quarantine.records
    assert [(record.kind, record.facts["frames"]) for record in records] == (
        [("died", frames)] if blamed else []
    )


def test_the_mark_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    mark = marks.Mark(tmp_path, suspect())
    mark.enter()
    assert marks.take(tmp_path) == []
    mark.remove()
    mark.remove()


def test_what_is_no_mark_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "engine-a.mark").write_bytes(os.urandom(100))
    (tmp_path / "engine-b.mark").write_bytes(b"")
    assert marks.take(tmp_path) == []
    assert [*tmp_path.iterdir()] == []


# ---- at work


class Engine:
    """Answers as it is told."""

    def __init__(self) -> None:
        self.fault: EngineFault | None = None
        self.alarms: list[str] = []
        self.watch = Watch(
            suspect(),
            mark=None,
            prove=self.prove,
            alarm=lambda code, _: self.alarms.append(code),
            max_latency_ms=10,
        )

    def prove(self) -> None:
        if self.fault is not None:
            raise self.fault

    def answers(self, value: float, *, to: float = 0.0, took_ms: float = 1.0) -> None:
        inputs = {"x": np.full(4, to, np.float32)}
        self.watch.look(inputs, {"y": np.array([value], np.float32)}, took_ms)


def test_nan_from_a_good_engine_costs_the_frame_and_is_an_alarm() -> None:
    engine = Engine()
    with pytest.raises(FrameError, match="not finite"):
        engine.answers(float("nan"))
    assert engine.alarms == ["engine_not_finite"] and engine.watch.not_finite == 1


def test_nan_from_an_engine_that_fails_its_golden_case_is_its_end() -> None:
    engine = Engine()
    engine.fault = EngineFault("wrong", "golden case off")
    with pytest.raises(EngineFault, match="NaN or infinite, and golden case off") as caught:
        engine.answers(float("inf"))
    assert caught.value.kind == "not_finite"


def test_an_output_that_stands_still_is_doubted_only_while_the_input_moves() -> None:
    engine = Engine()
    engine.fault = EngineFault("wrong", "golden case off")
    for _ in range(3 * STILL_FRAMES):
        engine.answers(1.0, to=5.0)
    for number in range(STILL_FRAMES - 1):
        engine.answers(1.0, to=number)
    with pytest.raises(EngineFault, match="stood still over 100 inputs that did not"):
        engine.answers(1.0, to=-1)
    assert engine.watch.still == 1


def test_a_still_output_of_a_good_engine_is_the_models_business() -> None:
    engine = Engine()
    for number in range(3 * STILL_FRAMES):
        engine.answers(1.0, to=number)
    assert engine.watch.still == 2 and engine.alarms == []


def test_being_slow_is_counted_and_alarmed() -> None:
    engine = Engine()
    for number in range(60):
        engine.answers(number, took_ms=25.0)
    assert engine.watch.over_time == 60 and set(engine.alarms) == {"engine_slow"}


def test_an_accelerator_that_fails_at_work_is_at_fault_and_the_cpu_is_not() -> None:
    failure = EngineError("device lost")
    assert isinstance(Engine().watch.failed(failure), EngineFault)
    plain = Watch(suspect(accelerator="cpu"), mark=None, prove=lambda: None, alarm=print)
    assert plain.failed(failure) is failure


def test_a_run_that_does_not_come_back_ends_the_process_and_a_pause_of_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, engine, ended = Guard(tmp_path, hang_s=3), Engine(), []
    monkeypatch.setattr(guard, "_end", lambda watch, inside_s: ended.append(watch))
    guard._watches.append(engine.watch)
    for number in range(50):
        engine.watch.runs.words[marks.INSIDE] = number + 1
        guard._look(1.0)
    engine.watch.runs.words[marks.INSIDE] = 0
    guard._look(1000.0)
    engine.watch.runs.words[marks.INSIDE] = 99
    guard._look(0.25)
    guard._look(1000.0)
    assert ended == [], "other runs, no run, and one while the process itself was stopped"
    while not ended:
        guard._look(0.25)


# ---- the trial, and the golden check


def request(wrist: Path, **changes: Any) -> trial.Request:
    given = {
        "bundle": str(wrist), "variant": "onnx-fp32", "engine": "onnx", "accelerator": "cpu",
        "options": "{}", "settings": ONE_THREAD, "max_latency_ms": 0.0, **changes,
    }  # fmt: skip
    return trial.Request(**given)


def test_a_trial_tells_what_an_engine_showed(wrist_bundle: Path) -> None:
    answer = trial.try_engine(request(wrist_bundle), deadline_s=60)
    assert answer.name == "onnx:cpu" and answer.placement.nodes == {"cpu": 9}
    assert answer.error <= 1 and answer.latency_ms > 0


def test_a_trial_of_what_cannot_be_had_is_an_error_and_no_fault(wrist_bundle: Path) -> None:
    for changes in ({"accelerator": "cuda"}, {"bundle": "nothing"}, {"engine": "none"}):
        with pytest.raises(EngineError) as caught:
            trial.try_engine(request(wrist_bundle, **changes), deadline_s=60)
        assert not isinstance(caught.value, EngineFault)


def test_a_trial_that_takes_longer_than_it_may_is_a_fault(wrist_bundle: Path) -> None:
    with pytest.raises(EngineFault, match=r"one inference takes .* ms where 1e-06 are") as caught:
        trial.try_engine(request(wrist_bundle, max_latency_ms=1e-6), deadline_s=60)
    assert caught.value.kind == "slow"


def test_a_bundle_that_lies_nowhere_is_tried_in_a_process_of_its_own_too(
    wrist_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Suspect, "risky", property(lambda self: True))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stored = Bundle.open(wrist_bundle)
    held = in_memory(
        Path("model.onnx"),
        stored.manifest,
        {name: stored.read(name) for name in stored.manifest.files},
    )
    variant, guard = held.manifest.variant("onnx-fp32"), Guard(tmp_path / "state", marks=False)
    engine, watch = guard.admit(held, variant, "onnx", EngineRequest())
    engine.close()
    assert watch.suspect.model.bundle == stored.identity
    assert [*tmp_path.glob("edge-bundle-*")] == [], "what was packed for the trial is gone"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(EngineError, match=r"cannot be tried .* cannot be written into"):
        guard.admit(held, variant, "onnx", EngineRequest())


class Fixed:
    """An engine with one answer."""

    def __init__(self, answer: Array) -> None:
        self.answer = answer

    def run(self, inputs: object, into: object = None) -> dict[str, Array]:
        return {"logits": self.answer}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(np.full((1, 4), np.nan, np.float32), "not_finite"), (np.zeros((1, 4)), "wrong")],
)
def test_the_golden_check_names_what_is_wrong(wrist_bundle: Path, answer: Array, kind: str) -> None:
    bundle = Bundle.open(wrist_bundle)
    with pytest.raises(EngineFault) as caught:
        prove(Fixed(answer), bundle, bundle.manifest.variants[0])  # type: ignore[arg-type]
    assert caught.value.kind == kind


def test_an_engine_that_is_wrong_at_the_start_is_in_quarantine(
    wrist_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.engines.onnx import OnnxEngine

    right = OnnxEngine.run

    def wrong(self: OnnxEngine, inputs: Any) -> dict[str, Array]:
        return {name: 1.01 * array for name, array in right(self, inputs).items()}

    monkeypatch.setattr(OnnxEngine, "run", wrong)
    bundle, guard = Bundle.open(wrist_bundle), Guard(tmp_path)
    with pytest.raises(EngineFault, match="off by"):
        guard.admit(bundle, bundle.manifest.variants[0], "onnx", EngineRequest())
    assert [(r.kind, r.suspect.name) for r in guard.untold()] == [("wrong", "onnx:cpu")]
    assert [*tmp_path.glob(marks.PATTERN)] == [], "no mark is left"


def test_signals_that_are_crashes_have_names() -> None:
    assert signal.SIGSEGV in trial._CRASHES and signal.SIGKILL not in trial._CRASHES


def test_two_engines_of_one_process_may_be_the_same_suspect(tmp_path: Path) -> None:
    first, second = marks.Mark(tmp_path, suspect()), marks.Mark(tmp_path, suspect())
    first.remove()
    assert len([*tmp_path.glob(marks.PATTERN)]) == 1
    second.remove()
