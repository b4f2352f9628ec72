"""What is in the image works, on two emulated processors, in the hardened container."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from container import Container, once, wait_for
from loopback import Broker

import edge

pytestmark = pytest.mark.timeout(400)
MODELS = Path(__file__).resolve().parents[2] / "models"
ENGINES = {
    "full": {"onnx:cpu", "litert:cpu"},
    "onnx": {"onnx:cpu"},
    "tflite": {"litert:cpu"},
    "sensor": {"litert:cpu"},
}
SINK = """
[[sink]]
type = "mqtt"
url = "mqtts://localhost:8883"
ca = "ca.pem"
"""


def test_doctor_finds_the_engines_of_the_profile(image: str, profile: str, cpu: str) -> None:
    found = json.loads(once(image, "doctor", "--json", cpu=cpu))
    assert found["machine"]["architecture"] == "aarch64"
    working = {trial["engine"] for trial in found["engines"] if trial["works"]}
    assert working == ENGINES[profile], found["engines"]


@pytest.mark.parametrize("bundle", ["meter_reader", "wrist_activity"])
def test_golden_cases_give_the_values_from_x86(
    image: str, profile: str, cpu: str, bundle: str
) -> None:
    if profile == "sensor" and bundle == "meter_reader":
        answer = once(image, "inspect", "builtin:wrist_activity", "--json", cpu=cpu)
        assert "meter" not in answer
        return
    answer = json.loads(once(image, "inspect", f"builtin:{bundle}", "--run", "--json", cpu=cpu))
    assert answer["identity"] == edge.Bundle.open(f"builtin:{bundle}").identity
    golden = answer["golden"].items()
    ran = {name: result for name, result in golden if result["passed"] is not None}
    assert {result["engine"] for result in ran.values()} == ENGINES[profile]
    for name, result in ran.items():
        assert result["passed"] and result["cases"], (name, result)
    assert len(ran) == 2 * len(ENGINES[profile])


def test_a_picture_and_a_window_arrive_over_tls(
    container: Container, broker: Broker, profile: str, cpu: str
) -> None:
    picture = MODELS / "meter_reader/bundle/golden/raw-0.png"
    window = np.load(MODELS / "wrist_activity/bundle/golden/raw-0.npy")
    shutil.copy(picture, container.config / "picture.png")
    write_csv(container.config / "window.csv", window)
    config = device() + wrist("window.csv")
    if profile != "sensor":
        config += textwrap.dedent("""
            [[pipeline]]
            name = "meter"
            bundle = "builtin:meter_reader"
            rule = []
            [pipeline.source]
            type = "images"
            path = "picture.png"
        """)
    (container.config / "edge.toml").write_text(config + SINK)
    broker.start()
    container.start(cpu=cpu)
    assert container.wait(200) == 0, container.log()
    events = {event["pipeline"]: event for event in broker.received()}
    with edge.load("builtin:wrist_activity") as model:
        here = model.predict(window)
    there = events["wrist"]["data"]
    assert (there["label"], there["score"]) == (here.label, pytest.approx(here.score, abs=0.02))
    assert {json.loads(line)["level"] for line in container.log().splitlines() if line[0] == "{"}
    if profile != "sensor":
        with edge.load("builtin:meter_reader") as model:
            boxes = model.predict(picture_of(picture))
        there = events["meter"]["data"]
        assert sorted(there["classes"]) == sorted(boxes.classes.tolist())
        assert np.allclose(sorted(there["scores"]), sorted(boxes.scores.tolist()), atol=0.1)


def picture_of(path: Path) -> np.ndarray:
    import cv2

    return np.asarray(cv2.imread(str(path)))


def device(**more: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    return "\n".join(["[device]", 'id = "board"', 'state_dir = "/var/lib/edgewright"', *lines, ""])


def wrist(path: str) -> str:
    return textwrap.dedent(f"""
        [[pipeline]]
        name = "wrist"
        bundle = "builtin:wrist_activity"
        rule = []
        [pipeline.source]
        type = "csv"
        path = "{path}"
    """)


def write_csv(path: Path, window: np.ndarray) -> None:
    path.write_text("ax,ay,az,gx,gy,gz\n" + rows(window))


def rows(window: np.ndarray) -> str:
    return "".join(",".join(f"{value:.6g}" for value in row) + "\n" for row in window)


PROBE = """
import json, os, ssl, zoneinfo
def refused(path):
    try:
        open(path, "w").close()
        return ""
    except OSError as error:
        return error.strerror
print(json.dumps({
    "refused": {path: refused(path) for path in
                ["/x", "/etc/edgewright/x", "/usr/local/bin/x", "/etc/passwd"]},
    "state": refused("/var/lib/edgewright/probe"),
    "roots": len(ssl.create_default_context().get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Vienna").key),
    "telemetry": os.environ["ORT_DISABLE_TELEMETRY"],
    "user": os.getuid(),
}))
"""


@pytest.mark.parametrize("cpu", ["cortex-a53"])  # about the container, not about the processor
def test_a_life_of_a_device(container: Container, broker: Broker, cpu: str) -> None:
    """Hardened, watched, stalled, cut off, killed, started again, and stopped in order."""
    window = rows(np.load(MODELS / "wrist_activity/bundle/golden/raw-0.npy"))
    settings = device(stall_s=6.0, drain_s=8.0) + wrist("-") + SINK
    (container.config / "edge.toml").write_text(settings)
    broker.start()
    container.start(cpu=cpu)
    container.feed("ax,ay,az,gx,gy,gz\n" + window)
    wait_for(broker.received, "the first event")

    # Hardened.
    process = container.process_status()
    assert int(process["CapEff"], 16) == 0
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    probe = json.loads(container.execute("python3", "-c", PROBE).stdout)
    assert all(probe["refused"].values()), probe
    assert probe["state"] == "" and probe["user"] == 65532
    assert probe["roots"] > 100 and probe["zone"] and probe["telemetry"] == "1"
    for shell in ("sh", "bash", "/bin/sh", "busybox", "apt", "pip"):
        assert container.execute(shell).returncode in (125, 126, 127), shell

    # The health follows the source.
    def fed_and_healthy() -> bool:
        container.feed(window)
        return container.healthy()

    wait_for(fed_and_healthy, "healthy while samples come")
    wait_for(lambda: not container.healthy(), "unhealthy when the source stalls")
    wait_for(fed_and_healthy, "healthy again")

    # Cut off, then killed in the middle.
    broker.stop()
    arrived = broker.received()

    def kept() -> bool:
        container.feed(window)
        return container.status()["sinks"]["mqtt"]["outbox_depth"] >= 4

    wait_for(kept, "events wait in the outbox")
    container.kill("KILL")
    assert container.wait(20) != 0

    # On the same volume: what waited is delivered, what follows goes on behind it.
    broker.start()
    container.start(cpu=cpu)
    container.feed("ax,ay,az,gx,gy,gz\n" + window)
    wait_for(lambda: len(broker.received()) >= len(arrived) + 5, "the backlog and what follows")
    container.feed(window)
    container.kill("TERM")
    assert container.wait(40) == 0, container.log()
    events = broker.received()
    assert {event["epoch"] for event in events} == {arrived[0]["epoch"]}
    seqs = {event["seq"] for event in events}
    assert set(range(1, max(seqs) + 1)) == seqs, sorted(seqs)
    assert broker.received("state")[-1]["online"] is False
