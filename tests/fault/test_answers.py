"""What a broker can answer: no, not you, and silence."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from pathlib import Path

import pytest
from broker import HOST, Mosquitto, Subscriber, wait_until
from e2e.running import Running, jsonl, mqtt, wrist, write_config
from needs import need_module

from edge import status
from edge.mqtt import BrokerConfig, Connection

from .stage import Stage


def test_a_refused_event_is_kept_alarmed_once_and_never_counted(tmp_path: Path) -> None:
    """An ACL that lets a device say its state but none of its events."""
    need_module("paho.mqtt")
    acl = tmp_path / "acl"
    acl.write_text("topic write edge/v1/gate-07/state\ntopic read #\n")
    acl.chmod(0o600)
    with Mosquitto(tmp_path, more=[f"acl_file {acl}"]) as broker:
        config = write_config(tmp_path, wrist(windows=20), mqtt(broker.url), jsonl())
        agent = Running(config, "--no-supervise")
        try:
            state = tmp_path / "edge-state"

            def problems() -> list[str]:
                try:
                    answer = status.ask(state)
                except OSError:
                    return []
                return [p for p in answer["problems"] if "refused" in p]

            wait_until(problems, 20, "the status says it")
            assert "they are kept" in problems()[0]
            sinks = status.ask(state)["sinks"]
            confirmed = [sink["confirmed"] for name, sink in sinks.items() if "mqtt" in name]
            assert confirmed == [0], "a refusal is no delivery"
            agent.end()
        finally:
            agent.kill_tree()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    alarms = [event["data"] for event in events if event["kind"] == "alarm"]
    assert [alarm["code"] for alarm in alarms] == ["refused"], "one alarm for one reason"
    assert "Not authorized" in alarms[0]["detail"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.timeout(60)
def test_two_devices_with_one_client_id_are_noticed_and_said(stage: Stage, version: str) -> None:
    stage.ingest()
    options = {"client_id": "the-same", "version": version}
    one = stage.device(device="gate-01", mqtt=options, per_s=50.0)
    two = stage.device(device="gate-02", mqtt=options, per_s=50.0)
    said = "do two devices use one id"
    wait_until(lambda: said in one.output + two.output, 40, said)
    two.terminate()
    time.sleep(0.5)
    two.kill()  # it may wait for its turn for long
    one.finish()
    two.plan = stage.plan(device="gate-02", mqtt={**options, "client_id": "another"}, events=1)
    two.start()
    assert two.wait(60) == 0, two.output[-2000:]
    stage.reckon(one, two)


def test_a_broker_that_says_who_took_over_is_quoted() -> None:
    """mosquitto 2.0.11 only closes the connection; others say DISCONNECT 0x8E first."""
    need_module("paho.mqtt")
    lost: queue.Queue[str] = queue.Queue()
    with socket.create_server((HOST, 0)) as server:
        connection = Connection(BrokerConfig(url=f"mqtt://{HOST}:{server.getsockname()[1]}"))

        def broker() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(bytes.fromhex("2003000000"))  # CONNACK
            time.sleep(0.2)
            client.sendall(bytes.fromhex("e0028e00"))  # DISCONNECT, session taken over

        threading.Thread(target=broker, daemon=True).start()
        connection.open("the-same", on_lost=lost.put)
        assert lost.get(timeout=10).endswith("another client uses the id 'the-same'")
        connection.close()


def test_an_acknowledgement_that_is_nonsense_or_from_the_future_confirms_nothing(
    stage: Stage,
) -> None:
    """Whoever may write to `ack` can lie; a device believes nothing about what it has not sent."""
    from paho.mqtt import client as paho

    liar = paho.Client(paho.CallbackAPIVersion.VERSION2)
    liar.connect("127.0.0.1", stage.broker.port)
    liar.loop_start()
    device = stage.device(per_s=200.0)
    wait_until(lambda: "sink mqtt: connected" in device.output, 10)
    for lie in (b"", b"{}", b"\xff", b'{"epoch":"0","hi":-5,"ranges":[[5,1]]}', b"[" * 50_000):
        liar.publish("edge/v1/gate-07/ack", lie, 1).wait_for_publish(5)
    with Subscriber(stage.broker.port, "edge/v1/gate-07/telemetry") as listener:
        wait_until(lambda: listener.on("telemetry"), 10)
        epoch = listener.on("telemetry")[-1]["epoch"]
    for ranges in ([[5, 1]], [[-9, -1]], [[0, 0]]):
        lie = json.dumps({"epoch": epoch, "hi": 0, "ranges": ranges}).encode()
        liar.publish("edge/v1/gate-07/ack", lie, 1).wait_for_publish(5)
    liar.loop_stop()
    stage.ingest()
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq
