"""Bad input gets one clear line or a counted drop, the documented exit code, and never a hang."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import pytest
from broker import free_port, wait_until

from edge import bundle as bundles
from edge.bundle import Bundle

from .running import (
    Running,
    committed,
    edge,
    jsonl,
    mqtt,
    of,
    waiting,
    wrist,
    write_config,
)

CHANNELS = "ax,ay,az,gx,gy,gz"


def nothing(folder: Path) -> None:
    """No files are needed."""


def text(name: str, content: str) -> Callable[[Path], None]:
    """A file of that name and content."""
    return lambda folder: Path(folder / name).write_text(content) and None


def damaged(folder: Path) -> None:
    """A bundle with one bit of one byte of its model flipped."""
    shutil.copytree(Bundle.open("builtin:wrist_activity").path, folder / "bundle")
    model = folder / "bundle" / _model_file()
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)


def _model_file() -> str:
    """Where in the wrist's bundle its first model lies."""
    return Bundle.open("builtin:wrist_activity").manifest.variants[0].file


def misfit(folder: Path) -> None:
    """A bundle in which every digest is right, and the shape of an output is not."""
    original = Bundle.open("builtin:wrist_activity")
    manifest = original.manifest
    first, *others = manifest.variants
    output = msgspec.structs.replace(first.outputs[0], shape=(1, 5))
    first = msgspec.structs.replace(first, outputs=(output,))
    manifest = msgspec.structs.replace(manifest, variants=(first, *others))
    files = {name: original.read(name) for name in manifest.files}
    bundles.write(folder / "bundle", manifest, files)


def newer(folder: Path) -> None:
    """An outbox as a later version may write it."""
    db = sqlite3.connect(folder / "outbox.db")
    db.execute("PRAGMA user_version = 1000")
    db.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is given to `edge run`, and what it must answer."""

    tables: str
    code: int
    says: tuple[str, ...]
    device: str = ""
    files: Callable[[Path], None] = nothing


FINITE = wrist(windows=2)
HURRY = "drain_s = 0.3"
CASES = {
    "not TOML": Case(tables="[pipeline\n", code=2, says=("edge.toml", "not valid TOML", "line ")),
    "unknown key": Case(
        tables=wrist(more="max_fsp = 3") + jsonl(),
        code=2,
        says=("edge.toml: pipeline[0].max_fsp", "did you mean max_fps?"),
    ),
    "unknown source": Case(
        tables=of('type = "camrea"') + jsonl(), code=2, says=("pipeline[0].source.type", "camera")
    ),
    "wrong type": Case(
        tables=wrist(more='threads = "two"') + jsonl(), code=2, says=("pipeline[0].threads",)
    ),
    "variable that is not set": Case(
        tables=FINITE + mqtt("mqtt://localhost", 'password = "${NO_SUCH_VARIABLE}"'),
        code=2,
        says=("sink[0].password", "NO_SUCH_VARIABLE is not set"),
    ),
    "password file that is not there": Case(
        tables=FINITE + mqtt("mqtt://localhost", 'password_file = "word"'),
        code=2,
        says=("word", "password_file", "No such file"),
    ),
    "no sink": Case(tables=FINITE, code=2, says=("at least one [[sink]] is needed",)),
    "CA that is not there": Case(
        tables=FINITE + mqtt("mqtts://localhost", 'ca = "ca.pem"'), code=2, says=("ca.pem",)
    ),
    "bundle that is not there": Case(
        tables=of('type = "demo-wrist"', bundle="gone") + jsonl(),
        code=3,
        says=("gone", "no such bundle"),
    ),
    "bundle with one bit flipped": Case(
        tables=of('type = "demo-wrist"', bundle="bundle") + jsonl(),
        files=damaged,
        code=3,
        says=("bundle", _model_file(), "SHA-256"),
    ),
    "model that does not fit its manifest": Case(
        tables=of('type = "demo-wrist"', bundle="bundle", more='variant = "onnx-fp32"') + jsonl(),
        files=misfit,
        code=3,
        says=("bundle", f"{_model_file()} does not fit its manifest", "output logits"),
    ),
    "variant that the bundle has not": Case(
        tables=wrist(more='variant = "onnx-fp8"') + jsonl(), code=3, says=("onnx-fp8", "onnx-fp32")
    ),
    "video that is not there": Case(
        tables=of('type = "video", path = "gone.mp4"', bundle="builtin:meter_reader") + jsonl(),
        code=4,
        says=("gone.mp4", "no such video file"),
    ),
    "video that is none": Case(
        tables=of('type = "video", path = "v.mp4"', bundle="builtin:meter_reader") + jsonl(),
        files=text("v.mp4", "not a video"),
        code=4,
        says=("v.mp4", "not a video that can be read"),
    ),
    "pictures that are not there": Case(
        tables=of('type = "images", path = "no/*.jpg"', bundle="builtin:meter_reader") + jsonl(),
        code=4,
        says=("no/*.jpg", "no pictures there"),
    ),
    "samples that are not there": Case(
        tables=of('type = "csv", path = "gone.csv"') + jsonl(), code=4, says=("gone.csv",)
    ),
    "samples without a column": Case(
        tables=of('type = "csv", path = "s.csv"') + jsonl(),
        files=text("s.csv", "ax,ay,az,gx,gy\n"),
        code=4,
        says=("s.csv", "no column gz"),
    ),
    "broker that is not there": Case(
        tables=FINITE + mqtt(f"mqtt://127.0.0.1:{free_port()}"),
        device=HURRY,
        code=6,
        says=("2 events are not delivered yet", "stay in the outbox"),
    ),
    "host that is not there": Case(
        tables=FINITE + mqtt("mqtt://no-such-host.invalid"),
        device=HURRY,
        code=6,
        says=("2 events are not delivered yet",),
    ),
    "full disk": Case(
        tables=FINITE + jsonl("/dev/full"),
        device=HURRY,
        code=6,
        says=("2 events are not delivered yet",),
    ),
    "state_dir that is a file": Case(
        tables=FINITE + jsonl(),
        device='state_dir = "taken"',
        files=text("taken", ""),
        code=7,
        says=("taken", "cannot be written"),
    ),
    "state_dir below a file": Case(
        tables=FINITE + jsonl(),
        device='state_dir = "taken/state"',
        files=text("taken", ""),
        code=7,
        says=("taken/state", "cannot be written"),
    ),
    "outbox of a newer version": Case(
        tables=FINITE + jsonl(),
        device='state_dir = "."',
        files=newer,
        code=7,
        says=("outbox.db", "written by a newer edgewright"),
    ),
}


# One case of each exit code goes through the supervising parent, which must not try it again.
SUPERVISED = {case.code: name for name, case in reversed(CASES.items())}


@pytest.mark.parametrize("name", CASES)
def test_run_ends_with_one_clear_line(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.files(tmp_path)
    config = write_config(tmp_path, case.tables, device=case.device)
    alone = [] if name in SUPERVISED.values() else ["--no-supervise"]
    ended = edge("run", config, *alone, timeout_s=15)
    assert ended.code == case.code, ended.err
    (line,) = ended.complaints
    assert [said for said in case.says if said not in line] == [], line


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_a_config_that_is_not_there_is_named(command: str, tmp_path: Path) -> None:
    ended = edge(command, tmp_path / "gone.toml")
    assert ended.code == 2
    (line,) = ended.complaints
    assert "gone.toml: no such file" in line and "edge init" in line


def test_all_mistakes_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        wrist(more="threads = -1\nrotate = 45"),
        jsonl(),
        jsonl(),
        '\n[[sink]]\ntype = "mqtt"\nurl = "http://example"\nname = "a b"\n',
        device="colour = 3",
    )
    ended = edge("run", config)
    assert ended.code == 2
    for key in ("device.colour", "pipeline[0].threads", "pipeline[0].rotate", "sink[2].name"):
        assert sum(f"{config}: {key}: " in line for line in ended.complaints) == 1, key
    assert any("sink[2]: url must be" in line for line in ended.complaints)


# What `edge check` finds: exit code and the words of its one FAILED line.
FINDINGS = {
    "broker that is not there": (CASES["broker that is not there"], 6, "cannot connect"),
    "host that is not there": (CASES["host that is not there"], 6, "no-such-host.invalid"),
    "bundle with one bit flipped": (CASES["bundle with one bit flipped"], 3, "SHA-256"),
    "misfit": (CASES["model that does not fit its manifest"], 3, "does not fit its manifest"),
    "samples that are not there": (CASES["samples that are not there"], 4, "gone.csv"),
    "state_dir below a file": (CASES["state_dir below a file"], 7, "cannot be written"),
    "pictures for a model of windows": (
        Case(tables=of('type = "demo-meter"') + jsonl(), code=0, says=()),
        4,
        "pipeline one: source: gives uint8 360x640x3, which the model cannot use",
    ),
    "camera that is not there": (
        Case(
            tables=of('type = "camera", url = "/dev/video99"', bundle="builtin:meter_reader")
            + jsonl(),
            code=0,
            says=(),
        ),
        4,
        "/dev/video99: cannot be opened",
    ),
}


@pytest.mark.parametrize(("case", "code", "says"), FINDINGS.values(), ids=FINDINGS)
def test_check_finds_it(case: Case, code: int, says: str, tmp_path: Path) -> None:
    case.files(tmp_path)
    config = write_config(tmp_path, case.tables, device=case.device)
    ended = edge("check", config, timeout_s=25)
    assert ended.code == code, ended.out + ended.err
    (failed,) = [line for line in ended.out.splitlines() if line.startswith("FAILED")]
    assert says in failed


# ---- bad frames among good ones


def test_samples_that_are_not_numbers_are_counted_and_the_rest_is_used(
    tmp_path: Path, agents: list[Running]
) -> None:
    good = "0.1,0.2,0.3,0.0,0.0,0.0\n" * 100
    bad = "0.1,nan,0.3,0.0,0.0,0.0\n" + "0.1,oops,0.3,0,0,0\n" + "1,2\n" + "1e39,0,0,0,0,0\n"
    (tmp_path / "s.csv").write_text(f"{CHANNELS}\n{good}{bad}{good}")
    config = write_config(tmp_path, of('type = "csv", path = "s.csv"', more="rule = []"), jsonl())
    ended = edge("run", "-v", config)
    assert ended.code == 0
    told = [line for line in ended.err.splitlines() if "skipped" in line]
    assert [line.split("s.csv, ")[1].split(":")[0] for line in told] == [
        *("line 102", "line 103", "line 104", "line 105")
    ]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(events) == 2, "a window before the gap and one behind it, none across it"


def test_unreadable_pictures_among_good_ones_are_counted(
    tmp_path: Path, meter_bundle: Path, agents: list[Running]
) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    good = (meter_bundle / "golden/raw-0.png").read_bytes()
    for name, data in {
        "a.png": good,
        "b.png": b"",
        "c.png": good[: len(good) // 3],
        "d.jpg": b"not a picture",
        "e.png": good,
    }.items():
        (shots / name).write_bytes(data)
    (shots / "f.png").mkdir()
    cv2.imwrite(str(shots / "g.png"), cv2.imread(str(shots / "a.png"), cv2.IMREAD_GRAYSCALE))
    meter = of('type = "images", path = "shots"', bundle="builtin:meter_reader", more="rule = []")
    config = write_config(tmp_path, meter, wrist(), jsonl())
    agents.append(Running(config))
    counted = wait_until(lambda: _pipeline_that_ended(config, "one"))
    assert counted["bad_frames"] >= 3  # how much of a cut PNG can be used is the decoder's affair
    assert counted["frames"] + counted["bad_frames"] == 7
    assert agents[0].end().code == 0
    assert "d.jpg: not a picture that can be read" in agents[0].output


def _pipeline_that_ended(config: Path, name: str) -> dict[str, int] | None:
    answer = json.loads(edge("status", "--json", config).out)
    pipeline = answer.get("pipelines", {}).get(name, {})
    return pipeline if pipeline.get("source") == "ended" else None


# ---- what may come back is waited for


def test_run_keeps_trying_a_camera_and_stops_when_asked(
    tmp_path: Path, agents: list[Running]
) -> None:
    url = f"rtsp://guest:hunter2-secret@127.0.0.1:{free_port()}/stream"
    config = write_config(
        tmp_path, of(f'type = "camera", url = "{url}"', bundle="builtin:meter_reader"), jsonl()
    )
    agents.append(Running(config, "-v"))
    status = wait_until(lambda: _told_lost(config))
    started_s = time.monotonic()
    ended = agents[0].end()
    assert (ended.code, time.monotonic() - started_s < 5) == (0, True)
    assert "rtsp://***@127.0.0.1" in status
    assert "hunter2" not in status + ended.out + ended.err


def _told_lost(config: Path) -> str:
    ended = edge("status", config)
    return ended.out if ended.code == 1 and "source lost" in ended.out else ""


def test_a_broker_that_accepts_and_says_nothing_does_not_hold_up_the_end(
    tmp_path: Path, agents: list[Running]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"mqtt://127.0.0.1:{mute.getsockname()[1]}"
        config = write_config(tmp_path, wrist(), mqtt(address, "connect_timeout_s = 1"))
        checked = edge("check", config)
        agents.append(Running(config))
        wait_until(lambda: "no answer to CONNECT" in agents[0].output)
        started_s = time.monotonic()
        ended = agents[0].end()
    assert checked.code == 6 and "no answer to CONNECT" in checked.out
    assert (ended.code, time.monotonic() - started_s < 5) == (0, True)
    assert waiting(tmp_path) == committed(tmp_path) > 0


def test_an_outbox_that_is_no_database_is_set_aside_and_said(tmp_path: Path) -> None:
    config = write_config(tmp_path, FINITE, jsonl())
    state = tmp_path / "edge-state"
    state.mkdir()
    (state / "outbox.db").write_text("not a database, " * 100)
    ended = edge("run", config, timeout_s=15)
    assert ended.code == 0, "what cannot be read does not stop the device"
    kept = state / "outbox.db.damaged-1"
    (told,) = [line for line in ended.err.splitlines() if " ERROR " in line]
    assert "file is not a database" in told and str(kept) in told
    assert kept.read_text() == "not a database, " * 100
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
    assert (committed(tmp_path), waiting(tmp_path)) == (2, 0)


def test_a_second_agent_on_the_same_state_dir_is_refused(
    tmp_path: Path, agents: list[Running]
) -> None:
    config = write_config(tmp_path, wrist(), jsonl())
    agents.append(Running(config))
    wait_until(lambda: (tmp_path / "events.jsonl").exists())
    second = edge("run", config)
    assert second.code == 7
    (line,) = second.complaints
    assert "edge-state: another agent runs on this state_dir" in line
    assert edge("status", config).code == 0, "the first one is not disturbed"
