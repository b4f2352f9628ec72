"""Events, state and telemetry at a real broker, seen by a subscriber that is not ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from broker import Mosquitto, Subscriber, Tls, wait_until
from needs import need_module, need_program

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

BASE = "edge/v1/gate-07"
SECRET = "correct-horse-7731"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_device_is_born_reports_and_says_goodbye(
    version: str, tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    config = write_config(
        tmp_path,
        wrist(speed=100, more='variant = "onnx-fp32"'),
        mqtt(mosquitto.url, f'version = "{version}"'),
        device="telemetry_s = 0.3",
    )
    with Subscriber(mosquitto.port, f"{BASE}/#") as subscriber:
        agents.append(Running(config))
        wait_until(lambda: subscriber.on("/telemetry") and len(subscriber.events()) > 9)
        with Subscriber(mosquitto.port, f"{BASE}/state") as late:
            wait_until(lambda: late.messages)
            _, retained, birth = late.messages[0]
        ended = agents[0].end()
        wait_until(lambda: not subscriber.on("/state")[-1]["online"])

    assert ended.code == 0
    assert retained and json.loads(birth)["online"]
    (first, *_, last) = subscriber.on("/state")
    assert first["online"] and first["pipelines"]["wrist"]["engine"] == "onnx:cpu"
    assert last["connection"] == first["connection"]
    events = subscriber.events()
    topics = {topic for topic, _, _ in subscriber.messages}
    assert topics == {f"{BASE}/{part}" for part in ("event/wrist", "state", "telemetry")}
    assert [event["seq"] for event in events] == [*range(1, committed(tmp_path) + 1)]
    assert waiting(tmp_path) == 0
    assert subscriber.on("/telemetry")[0]["pipelines"]["wrist"]["frames"] > 0


def test_every_event_keeps_to_the_published_schema(tmp_path: Path, meter_bundle: Path) -> None:
    need_module("jsonschema")
    import jsonschema

    pictures = of(
        f'type = "images", path = "{meter_bundle}/golden/*.png"',
        bundle="builtin:meter_reader",
        more="rule = []",
    )
    readings = pictures.replace("rule = []", 'rule = [{ type = "reading" }]')
    config = write_config(
        tmp_path,
        wrist(windows=3),
        pictures,
        readings.replace('name = "one"', 'name = "two"'),
        jsonl(),
    )
    assert edge("run", config).code == 0
    schema = json.loads(edge("event-schema").out)
    validator = jsonschema.Draft202012Validator(schema)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    kinds = set()
    for line in lines:
        event = json.loads(line)
        validator.validate(event)
        kinds.add(event["kind"])
        assert "0000" not in json.dumps(event["data"]), "a float32 in all its digits"
    assert kinds == {"classification", "detections", "reading"}


def test_a_killed_device_is_reported_offline_by_its_will(
    tmp_path: Path, mosquitto: Mosquitto, agents: list[Running]
) -> None:
    config = write_config(tmp_path, wrist(), mqtt(mosquitto.url))
    with Subscriber(mosquitto.port, f"{BASE}/#") as subscriber:
        agents.append(Running(config))
        wait_until(subscriber.events)
        agents[0].kill_tree()
        wait_until(lambda: not subscriber.on("/state")[-1]["online"], what="the will")
    with Subscriber(mosquitto.port, f"{BASE}/state") as late:
        wait_until(lambda: late.messages)
    _, retained, will = late.messages[0]
    assert retained and json.loads(will)["online"] is False
    assert json.loads(will)["connection"] == subscriber.on("/state")[0]["connection"]


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tls]:
    """Certificates by a CA of the test: a right one, one for another host, one of another CA."""
    folder = tmp_path_factory.mktemp("ca")
    openssl = need_program("openssl")

    def run(*arguments: str | Path) -> None:
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True, cwd=folder)

    def new_key(name: str) -> list[str]:
        keys = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*keys, "-keyout", f"{name}.key", "-subj", f"/CN={name}"]

    for ca in ("ca", "other-ca"):
        run("req", "-x509", *new_key(ca), "-out", f"{ca}.pem", "-days", "2")
    made = {}
    for name, ca, hosts in (
        ("right", "ca", "DNS:localhost"),
        ("wrong host", "ca", "DNS:broker.example"),
        ("wrong ca", "other-ca", "DNS:localhost"),
    ):
        (folder / "hosts").write_text(f"subjectAltName={hosts}\n")
        run("req", *new_key(name), "-out", f"{name}.csr")
        run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", "hosts", "-out", f"{name}.pem"),
        )
        made[name] = Tls(
            ca=folder / "ca.pem", cert=folder / f"{name}.pem", key=folder / f"{name}.key"
        )
    return made


def test_over_tls_events_arrive_at_a_broker_with_the_right_certificate(
    tmp_path: Path, authority: dict[str, Tls]
) -> None:
    tls = authority["right"]
    with Mosquitto(tmp_path, tls=tls) as broker:
        url = f"mqtts://localhost:{broker.port}"
        config = write_config(tmp_path, wrist(windows=30), mqtt(url, f'ca = "{tls.ca}"'))
        with Subscriber(broker.port, f"{BASE}/#", host="localhost", ca=tls.ca) as subscriber:
            assert edge("run", config).code == 0
            wait_until(lambda: subscriber.seqs() == {*range(1, 31)})


@pytest.mark.parametrize(
    ("certificate", "scheme", "with_ca", "says"),
    [
        ("wrong host", "mqtts", True, "certificate is not valid: Hostname mismatch"),
        ("wrong ca", "mqtts", True, "certificate is not valid"),
        ("right", "mqtts", False, "certificate is not valid"),
        ("right", "mqtt", True, ""),
    ],
)
def test_over_tls_a_broker_that_cannot_prove_itself_is_refused(
    certificate: str,
    scheme: str,
    with_ca: bool,
    says: str,
    tmp_path: Path,
    authority: dict[str, Tls],
) -> None:
    tls = authority[certificate]
    with Mosquitto(tmp_path, tls=tls) as broker:
        ca = f'ca = "{tls.ca}"' if with_ca else ""
        url = f"{scheme}://localhost:{broker.port}"
        config = write_config(tmp_path, wrist(windows=1), mqtt(url, ca), device="drain_s = 0.5")
        ran = edge("run", config, "--no-supervise")
    assert ran.code == 6
    (told,) = [line for line in ran.err.splitlines() if "WARNING" in line]
    assert url in told and says in told
    assert waiting(tmp_path) == 1


# ---- passwords


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_password_lets_the_device_in_and_is_never_shown(place: str, tmp_path: Path) -> None:
    (tmp_path / "word").write_text(SECRET + "\n")
    given = {
        "environment": 'username = "gate"\npassword = "${BROKER_WORD}"',
        "file": 'username = "gate"\npassword_file = "word"',
    }[place]
    with Mosquitto(tmp_path, users={"gate": SECRET}) as broker:
        config = write_config(tmp_path, wrist(windows=5), mqtt(broker.url, given))
        environment = {"BROKER_WORD": SECRET} if place == "environment" else {}
        checked = edge("check", config, env=environment)
        ran = edge("run", "-v", config, env=environment)
    assert (checked.code, ran.code) == (0, 0)
    assert waiting(tmp_path) == 0
    assert SECRET not in checked.out + checked.err + ran.out + ran.err


def test_a_wrong_password_is_named_keeps_the_events_and_is_never_shown(
    tmp_path: Path, agents: list[Running]
) -> None:
    environment = {"BROKER_WORD": SECRET}
    login = 'username = "gate"\npassword = "${BROKER_WORD}"'
    with Mosquitto(tmp_path, users={"gate": "another"}) as broker:
        config = write_config(tmp_path, wrist(), mqtt(broker.url, login))
        agents.append(Running(config, "-v", env=environment))
        wait_until(lambda: "refused" in agents[0].output)
        status = edge("status", config, env=environment)
        as_json = edge("status", "--json", config, env=environment)
        checked = edge("check", config, env=environment)
        stopped = agents[0].end()
        finite = write_config(
            tmp_path, wrist(windows=2), mqtt(broker.url, login), device="drain_s = 0.5"
        )
        ran = edge("run", finite, "--log-format", "json", env=environment)
    mistaken = write_config(
        tmp_path, wrist(), mqtt("mqtt://localhost", f"{login}\npassword_file = 'x'\nsecret = 1")
    )
    refused = edge("check", mistaken, env=environment)

    assert status.code == as_json.code == 1
    (problem,) = json.loads(as_json.out)["problems"]
    assert problem.startswith("sink mqtt: ") and "check username and password" in problem
    assert problem in status.out
    assert "check username and password" in checked.out and checked.code == 6
    assert stopped.code == 0, "it was asked to stop, and the events are safe"
    assert ran.code == 6 and "stay in the outbox" in ran.complaints[0]
    assert refused.code == 2 and "sink[0].secret" in refused.err
    assert waiting(tmp_path) == committed(tmp_path) > 2
    everything = [status, as_json, checked, stopped, ran, refused]
    assert not any(SECRET in ended.out + ended.err for ended in everything)
    for file in [path for path in (tmp_path / "edge-state").rglob("*") if path.is_file()]:
        assert SECRET.encode() not in file.read_bytes()
