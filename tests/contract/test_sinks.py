"""What every sink must do; one subclass an adapter. MQTT is held against a real mosquitto."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import HOST, Mosquitto, Subscriber, free_port, wait_until

from edge import config as configuration
from edge import seams
from edge.errors import ConfigError, SinkError
from edge.seams import Sink
from edge.wire import State, StoredEvent, Telemetry, Time

DEVICE = "gate-07"
BIRTH = State(device=DEVICE, online=True, connection=3)
TELEMETRY = Telemetry(
    device=DEVICE,
    time=Time(wall="", mono_ns=0, boot=""),
    pipelines={},
    outbox={},
    outbox_drops=0,
    memory_mb=1,
)


def make(type_name: str, **options: Any) -> Sink:
    """The sink that a [[sink]] table of an edge.toml gives."""
    config = configuration.decode_adapter("sinks", {"type": type_name, **options}, where="test")
    sink: Sink = seams.find("sinks", type_name)(config.options, device=DEVICE)
    return sink


def event(seq: int) -> StoredEvent:
    payload = msgspec.json.encode({"device": DEVICE, "epoch": "e", "seq": seq, "text": "é\n"})
    return StoredEvent(seq=seq, pipeline="meter", payload=payload)


def confirmed(sink: Sink, count: int) -> list[int]:
    """What `poll` confirms, until it was so many."""
    seqs: list[int] = []
    deadline = time.monotonic() + 10
    while len(seqs) < count and time.monotonic() < deadline:
        seqs += sink.poll(0.1)
    return seqs


class SinkContract:
    def build(self) -> Sink:
        raise NotImplementedError

    def build_unreachable(self) -> Sink:
        raise NotImplementedError

    def build_and_lose(self) -> Sink:
        """One that was opened, and whose other end is gone by now."""
        raise NotImplementedError

    def received(self) -> list[bytes]:
        """The payloads of the events that arrived, in order."""
        raise NotImplementedError

    @pytest.fixture
    def sink(self) -> Iterator[Sink]:
        sink = self.build()
        sink.open(BIRTH)
        yield sink
        sink.close()

    def test_exactly_what_was_sent_is_confirmed_and_has_arrived(self, sink: Sink) -> None:
        events = [event(seq) for seq in (5, 6, 7, 11)]
        sink.send(events[:3])
        sink.send(events[3:])
        assert sorted(confirmed(sink, 4)) == [5, 6, 7, 11]
        assert sink.poll(0.05) == [], "each once"
        wait_until(lambda: self.received() == [event.payload for event in events])

    def test_a_whole_window_may_be_under_way(self, sink: Sink) -> None:
        assert sink.window >= 1
        sink.send([event(seq) for seq in range(1, sink.window + 1)])
        assert sorted(confirmed(sink, sink.window)) == list(range(1, sink.window + 1))

    def test_reports_are_never_confirmed(self, sink: Sink) -> None:
        sink.send([TELEMETRY, event(1), BIRTH])
        assert confirmed(sink, 1) == [1]
        sink.send([TELEMETRY])
        assert sink.poll(0.05) == []

    def test_with_nothing_to_confirm_a_poll_ends_in_time(self, sink: Sink) -> None:
        for timeout_s in (0.0, 0.05):
            began = time.monotonic()
            assert sink.poll(timeout_s) == []
            assert time.monotonic() - began < 5

    def test_what_is_not_there_cannot_be_opened(self) -> None:
        sink = self.build_unreachable()
        for state in (BIRTH, None):
            with pytest.raises(SinkError):
                sink.open(state)
            sink.close()

    def test_a_receiver_that_is_gone_is_noticed(self) -> None:
        sink = self.build_and_lose()
        with pytest.raises(SinkError):
            for seq in range(1, 100):
                sink.send([event(seq)])
                assert sink.poll(0.1) == []
        sink.close()
        sink.close()

    def test_closing_is_harmless_at_any_time(self) -> None:
        sink = self.build()
        sink.close()
        sink.open(BIRTH)
        sink.close()
        sink.close()

    def test_it_can_be_opened_again_and_has_forgotten_what_was_under_way(self) -> None:
        sink = self.build()
        sink.open(BIRTH)
        sink.send([event(1)])
        sink.close()
        sink.open(BIRTH)
        assert sink.poll(0.1) == []
        sink.send([event(2)])
        assert confirmed(sink, 1) == [2]
        sink.close()


class TestJsonLines(SinkContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.file = tmp_path / "logs/events.jsonl"

    def build(self) -> Sink:
        return make("jsonl", path=str(self.file))

    def build_and_lose(self) -> Sink:
        sink = make("jsonl", path="/dev/full")
        sink.open(BIRTH)
        return sink

    def received(self) -> list[bytes]:
        return self.file.read_bytes().splitlines()

    def test_what_is_not_there_cannot_be_opened(self) -> None:
        self.file.parent.mkdir()
        self.file.write_text("a file where a folder is needed")
        for path in (self.file / "below", self.file.parent):
            with pytest.raises(SinkError, match=f"{path}: cannot be opened"):
                make("jsonl", path=str(path)).open(None)

    def test_an_unfinished_line_of_a_power_cut_stays_on_its_own(self) -> None:
        self.file.parent.mkdir()
        self.file.write_bytes(b'{"seq":1}\n{"se')
        for seq in (2, 3):
            sink = self.build()
            sink.open(BIRTH)
            sink.send([event(seq)])
            sink.close()
        assert self.received() == [b'{"seq":1}', b'{"se', event(2).payload, event(3).payload]

    def test_trying_it_writes_nothing(self) -> None:
        sink = self.build()
        sink.open(None)
        sink.close()
        assert self.received() == []

    def test_standard_output_stays_open(self, capfdbinary: Any) -> None:
        sink = make("jsonl")
        sink.open(BIRTH)
        sink.send([event(1), TELEMETRY])
        assert sink.poll(0) == [1]
        sink.close()
        assert not sys.stdout.closed
        assert capfdbinary.readouterr().out == event(1).payload + b"\n"


class MqttContract(SinkContract):
    version: str

    @pytest.fixture(autouse=True)
    def listen(self, mosquitto: Mosquitto) -> Iterator[None]:
        self.broker = mosquitto
        with Subscriber(mosquitto.port, "edge/v1/#") as self.subscriber:
            yield

    def build(self) -> Sink:
        return make("mqtt", url=self.broker.url, version=self.version)

    def build_unreachable(self) -> Sink:
        return make("mqtt", url=f"mqtt://{HOST}:{free_port()}", version=self.version)

    def build_and_lose(self) -> Sink:
        sink = self.build()
        sink.open(BIRTH)
        self.broker.kill()
        return sink

    def received(self) -> list[bytes]:
        return [data for topic, _, data in list(self.subscriber.messages) if "/event/" in topic]

    def retained(self) -> dict[str, Any]:
        """What a subscriber that comes now is told at once."""
        with Subscriber(self.broker.port, "edge/v1/#") as late:
            marker = make("mqtt", url=self.broker.url, prefix="edge/v1/marker")
            marker.open(None)
            marker.send([event(1)])
            wait_until(late.events)
            marker.close()
            return {topic: json.loads(data) for topic, kept, data in late.messages if kept}

    def test_birth_and_goodbye_are_retained(self) -> None:
        topic = f"edge/v1/{DEVICE}/state"
        sink = self.build()
        sink.open(BIRTH)
        sink.send([event(1)])
        assert confirmed(sink, 1) == [1]
        assert self.retained()[topic] == msgspec.to_builtins(BIRTH)
        sink.close()
        offline = {"device": DEVICE, "online": False, "connection": 3}
        assert self.retained() == {topic: offline}

    def test_reports_have_their_topics(self, sink: Sink) -> None:
        sink.send([TELEMETRY, event(1)])
        assert confirmed(sink, 1) == [1]
        wait_until(self.received)
        topics = [topic for topic, _, _ in self.subscriber.messages]
        base = f"edge/v1/{DEVICE}"
        assert topics == [f"{base}/state", f"{base}/telemetry", f"{base}/event/meter"]

    def test_trying_it_leaves_no_trace(self) -> None:
        sink = self.build()
        sink.open(None)
        sink.close()
        assert self.retained() == {}
        assert self.subscriber.on("/state") == []

    def test_trying_it_does_not_disturb_the_agent_that_runs(self, sink: Sink) -> None:
        trial = self.build()
        trial.open(None)
        trial.close()
        sink.send([event(1)])
        assert confirmed(sink, 1) == [1]

    def test_two_devices_of_one_name_disturb_each_other_and_it_is_noticed(self, sink: Sink) -> None:
        twin = self.build()
        twin.open(BIRTH)
        with pytest.raises(SinkError):
            for seq in range(1, 100):
                sink.send([event(seq)])
                sink.poll(0.1)
        twin.close()

    def test_after_a_restart_of_the_broker_it_works_again(self) -> None:
        sink = self.build_and_lose()
        with pytest.raises(SinkError):
            confirmed(sink, 1)
        sink.close()
        self.broker.start()
        self.subscriber.wait_subscribed()
        sink.open(BIRTH)
        sink.send([event(1)])
        assert confirmed(sink, 1) == [1]
        sink.close()

    def test_a_password_that_is_refused_is_for_good(self, tmp_path: Path) -> None:
        (tmp_path / "guarded").mkdir()
        (tmp_path / "word").write_text("s3cret\n")
        with Mosquitto(tmp_path / "guarded", users={"gate": "s3cret"}) as guarded:
            common = {"url": guarded.url, "version": self.version, "username": "gate"}
            for right in ({"password": "s3cret"}, {"password_file": str(tmp_path / "word")}):
                sink = make("mqtt", **common, **right)
                sink.open(None)
                sink.close()
            sink = make("mqtt", **common, password="s3cret-but-wrong")
            with pytest.raises(SinkError, match="check username and password") as caught:
                sink.open(BIRTH)
            sink.close()
            assert "s3cret" not in str(caught.value)


class TestMqtt5(MqttContract):
    version = "5"

    def test_the_window_is_what_the_broker_allows(self, tmp_path: Path) -> None:
        (tmp_path / "narrow").mkdir()
        with Mosquitto(tmp_path / "narrow", more=["max_inflight_messages 7"]) as narrow:
            sink = make("mqtt", url=narrow.url)
            sink.open(BIRTH)
            assert sink.window == 7
            sink.close()


class TestMqtt311(MqttContract):
    version = "3.1.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password_file": "/nothing/here"}, "/nothing/here: password_file: .*No such file"),
        ({"ca": "/nothing/here.pem"}, "/nothing/here.pem: not a usable certificate"),
    ],
)
def test_files_that_are_not_there_are_a_mistake(options: dict[str, Any], words: str) -> None:
    build: Callable[[], Sink] = lambda: make("mqtt", url="mqtts://broker", **options)  # noqa: E731
    with pytest.raises(ConfigError, match=words):
        build()
