"""What every sink must do; one subclass an adapter. MQTT is held against a real mosquitto."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import HOST, Mosquitto, Subscriber, free_port, wait_until
from builders import draft

from edge import config as configuration
from edge import seams, wire
from edge.config import OutboxConfig
from edge.errors import ConfigError, SinkError
from edge.outbox import Outbox
from edge.ranges import Ranges
from edge.seams import Answers, Sink
from edge.wire import Ack, Batch, State, StoredEvent, Telemetry, Time

DEVICE = "gate-07"
EPOCH = "9f2c41d07be3a685"
BIRTH = State(device=DEVICE, online=True, connection=3, epoch=EPOCH, last_seq=12)
TELEMETRY = Telemetry(
    device=DEVICE,
    time=Time(wall="", mono_ns=0, boot=""),
    pipelines={},
    epoch=EPOCH,
    last_seq=12,
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
    payload = msgspec.json.encode({"device": DEVICE, "epoch": EPOCH, "seq": seq, "text": "é\n"})
    return StoredEvent(seq=seq, pipeline="meter", payload=payload)


def seqs_of(answers: Answers) -> list[int]:
    """The numbers that are confirmed; nothing may be refused."""
    assert not answers.refused, answers
    return [seq for low, high in answers.confirmed for seq in range(low, high + 1)]


class SinkContract:
    repeats = False
    """Whether what was confirmed may be confirmed again."""

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

    def confirms(self, sink: Sink, *seqs: int, before: Sequence[int] = ()) -> None:
        """`poll` confirms exactly these; those of `before` are confirmed already."""
        heard: list[int] = []
        deadline = time.monotonic() + 10
        while not set(heard) >= set(seqs) and time.monotonic() < deadline:
            heard += seqs_of(sink.poll(0.1))
        if self.repeats:
            heard = [*set(heard) - set(before)]
        assert sorted(heard) == sorted(seqs)
        self.says_nothing_new(sink, *seqs, *before)

    def says_nothing_new(self, sink: Sink, *seqs: int, wait_s: float = 0.05) -> None:
        heard = seqs_of(sink.poll(wait_s))
        assert set(heard) <= set(seqs) if self.repeats else heard == [], "each once"

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
        self.confirms(sink, 5, 6, 7, 11)
        wait_until(lambda: self.received() == [event.payload for event in events])

    def test_a_batch_is_confirmed_event_by_event_and_has_arrived(self, sink: Sink) -> None:
        events = [event(seq) for seq in (3, 4, 9)]
        sink.send([Batch(events), event(12)])
        self.confirms(sink, 3, 4, 9, 12)
        payloads = [event.payload for event in (*events, event(12))]
        wait_until(lambda: self.received() == payloads)

    def test_a_whole_window_may_be_under_way(self, sink: Sink) -> None:
        room = sink.room
        assert room >= 1
        sink.send([event(seq) for seq in range(1, room + 1)])
        self.confirms(sink, *range(1, room + 1))
        wait_until(lambda: sink.poll(0.01) and sink.room == room)

    def test_reports_are_never_confirmed(self, sink: Sink) -> None:
        sink.send([TELEMETRY, event(1), BIRTH])
        self.confirms(sink, 1)
        sink.send([TELEMETRY])
        self.says_nothing_new(sink, 1)

    def test_with_nothing_to_confirm_a_poll_ends_in_time(self, sink: Sink) -> None:
        for timeout_s in (0.0, 0.05):
            began = time.monotonic()
            assert seqs_of(sink.poll(timeout_s)) == []
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
                assert seqs_of(sink.poll(0.1)) == []
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
        self.says_nothing_new(sink, 1, wait_s=0.1)
        sink.send([event(2)])
        self.confirms(sink, 2, before=[1])
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
        assert sink.poll(0) == Answers([(1, 1)])
        sink.close()
        assert not sys.stdout.closed
        assert capfdbinary.readouterr().out == event(1).payload + b"\n"


class Ingest(Subscriber):
    """A tiny one: it remembers what it has heard, and acknowledges that, unless it is `mute`."""

    def __init__(self, port: int, topic: str) -> None:
        self.mute = False
        self._known: dict[str, Ranges] = {}
        super().__init__(port, topic)
        keep = self._client.on_message

        def take(client: Any, data: Any, message: Any) -> None:
            keep(client, data, message)
            for payload in events_in(message.topic, message.payload):
                found = json.loads(payload)
                self._known.setdefault(found["epoch"], Ranges()).add(found["seq"], found["seq"])
                if not self.mute:
                    self.acknowledge(found["epoch"])

        self._client.on_message = take

    def acknowledge(self, epoch: str) -> None:
        known = self._known[epoch]
        above = [span for span in known if span[0] > known.hi()]
        self.say(wire.encode(Ack(epoch=epoch, hi=known.hi(), ranges=above)))

    def say(self, payload: bytes) -> None:
        self._client.publish(f"edge/v1/{DEVICE}/ack", payload, qos=1)


def events_in(topic: str, payload: bytes) -> list[bytes]:
    """The events of our device that a message holds."""
    if topic == f"edge/v1/{DEVICE}/batch":
        return wire.decode_batch(payload)
    return [payload] if topic.startswith(f"edge/v1/{DEVICE}/event/") else []


class MqttContract(SinkContract):
    version: str
    confirm = "broker"
    other_end: type[Subscriber] = Subscriber

    @pytest.fixture(autouse=True)
    def listen(self, mosquitto: Mosquitto) -> Iterator[None]:
        self.broker = mosquitto
        with self.other_end(mosquitto.port, "edge/v1/#") as self.subscriber:
            yield

    def build(self, url: str = "") -> Sink:
        url = url or self.broker.url
        return make("mqtt", url=url, version=self.version, confirm=self.confirm)

    def build_unreachable(self) -> Sink:
        return self.build(f"mqtt://{HOST}:{free_port()}")

    def build_and_lose(self) -> Sink:
        sink = self.build()
        sink.open(BIRTH)
        self.broker.kill()
        return sink

    def received(self) -> list[bytes]:
        messages = list(self.subscriber.messages)
        return [event for topic, _, data in messages for event in events_in(topic, data)]

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
        self.confirms(sink, 1)
        assert self.retained()[topic] == msgspec.to_builtins(BIRTH)
        sink.close()
        offline = {"device": DEVICE, "online": False, "connection": 3}
        assert self.retained() == {topic: offline}

    def test_reports_have_their_topics(self, sink: Sink) -> None:
        sink.send([TELEMETRY, event(1)])
        self.confirms(sink, 1)
        wait_until(self.received)
        topics = [topic for topic, _, _ in self.subscriber.messages if not topic.endswith("/ack")]
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
        self.confirms(sink, 1)

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
            self.confirms(sink, 1)
        sink.close()
        self.broker.start()
        self.subscriber.wait_subscribed()
        sink.open(BIRTH)
        sink.send([event(1)])
        self.confirms(sink, 1)
        sink.close()

    def test_a_password_that_is_refused_is_for_good(self, tmp_path: Path) -> None:
        (tmp_path / "guarded").mkdir()
        (tmp_path / "word").write_text("s3cret\n")
        with Mosquitto(tmp_path / "guarded", users={"gate": "s3cret"}) as guarded:
            common = {
                "url": guarded.url,
                "version": self.version,
                "confirm": self.confirm,
                "username": "gate",
            }
            for right in ({"password": "s3cret"}, {"password_file": str(tmp_path / "word")}):
                sink = make("mqtt", **common, **right)
                sink.open(None)
                sink.close()
            sink = make("mqtt", **common, password="s3cret-but-wrong")
            with pytest.raises(SinkError, match="check username and password") as caught:
                sink.open(BIRTH)
            sink.close()
            assert "s3cret" not in str(caught.value)

    def test_room_is_what_the_broker_has_not_answered_yet(self, sink: Sink) -> None:
        room = sink.room
        sink.send([event(seq) for seq in range(1, 6)])
        assert sink.room == room - 5
        sink.send([Batch([event(seq) for seq in range(6, 10)])])
        assert sink.room == room - 5 - (1 if sink.batches else 4)
        wait_until(lambda: sink.poll(0.01) and sink.room == room)


class Mqtt5Contract(MqttContract):
    version = "5"

    def test_the_window_is_what_the_broker_allows(self, tmp_path: Path) -> None:
        (tmp_path / "narrow").mkdir()
        with Mosquitto(tmp_path / "narrow", more=["max_inflight_messages 7"]) as narrow:
            sink = self.build(narrow.url)
            sink.open(BIRTH)
            assert sink.room == 7
            sink.close()

    def test_what_the_broker_refuses_is_told_with_its_reason_and_never_confirmed(
        self, tmp_path: Path
    ) -> None:
        guarded = tmp_path / "guarded"
        guarded.mkdir()
        (guarded / "acl").write_text(
            f"topic write edge/v1/{DEVICE}/state\ntopic write edge/v1/{DEVICE}/event/open\n"
        )
        (guarded / "acl").chmod(0o600)
        with Mosquitto(guarded, more=[f"acl_file {guarded / 'acl'}"]) as strict:
            sink = self.build(strict.url)
            sink.open(BIRTH)
            room = sink.room
            allowed = msgspec.structs.replace(event(2), pipeline="open")
            sink.send([event(1), allowed, Batch([event(3), event(4)])])
            answers = []
            wait_until(lambda: answers.append(sink.poll(0.1)) or sink.room == room)
            sink.close()
        refused = [refusal for answer in answers for refusal in answer.refused]
        assert sorted(refused) == [(seq, "Not authorized") for seq in (1, 3, 4)]
        confirmed = [span for answer in answers for span in answer.confirmed]
        assert confirmed == ([(2, 2)] if self.confirm == "broker" else [])


class BrokerConfirms(MqttContract):
    def test_backlog_goes_as_single_events_that_say_so_where_they_can(self, sink: Sink) -> None:
        from paho.mqtt import client as paho

        heard: list[tuple[bytes, list[tuple[str, str]]]] = []
        listening = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_subscribe = lambda *_: listening.set()
        client.on_message = lambda _, __, message: heard.append(
            (message.payload, getattr(message.properties, "UserProperty", []))
        )
        client.connect(HOST, self.broker.port)
        client.loop_start()
        client.subscribe(f"edge/v1/{DEVICE}/event/meter", qos=1)
        assert listening.wait(10)
        assert not sink.batches
        sink.send([Batch([event(1), event(2)]), event(3)])
        self.confirms(sink, 1, 2, 3)
        wait_until(lambda: len(heard) == 3)
        client.disconnect()
        client.loop_stop()
        old = [("historical", "true")] if self.version == "5" else []
        assert heard == [(event(1).payload, old), (event(2).payload, old), (event(3).payload, [])]


class TestMqtt5(BrokerConfirms, Mqtt5Contract):
    pass


class TestMqtt311(BrokerConfirms):
    version = "3.1.1"


class TestMqtt5WithIngest(Mqtt5Contract):
    confirm = "ingest"
    other_end = Ingest
    repeats = True

    def test_backlog_goes_as_one_message(self, sink: Sink) -> None:
        assert sink.batches
        events = [event(seq) for seq in range(1, 50)]
        sink.send([Batch(events)])
        self.confirms(sink, *range(1, 50))
        wait_until(self.received)
        (data,) = [data for topic, _, data in self.subscriber.messages if "/batch" in topic]
        assert wire.decode_batch(data) == [event.payload for event in events]
        assert json.loads(data.partition(b"\n")[0])["historical"] is True
        assert self.subscriber.events() == []

    def test_the_word_of_the_broker_does_not_count(self, sink: Sink) -> None:
        assert isinstance(self.subscriber, Ingest)
        self.subscriber.mute = True
        room = sink.room
        sink.send([event(1), Batch([event(2), event(3)])])
        heard = []
        wait_until(lambda: heard.append(sink.poll(0.05)) or sink.room == room)
        wait_until(lambda: len(self.received()) == 3)
        heard.append(sink.poll(0.1))
        assert [seqs_of(answers) for answers in heard] == [[]] * len(heard)
        self.subscriber.acknowledge(EPOCH)
        self.confirms(sink, 1, 2, 3)

    def test_forged_and_broken_acknowledgements_confirm_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = OutboxConfig(commit_ms=0.0)
        outbox = Outbox(tmp_path / "state", ["mqtt"], device=DEVICE, config=config)
        put(outbox, 3)
        sink = self.build()
        sink.open(msgspec.structs.replace(BIRTH, epoch=outbox.epoch))
        assert isinstance(self.subscriber, Ingest)
        forged = {"epoch": outbox.epoch, "hi": 0}
        for lie in (
            b"",
            b"not JSON",
            b'{"epoch":"\xff","hi":3}',
            b'{"epoch":"' + outbox.epoch.encode() + b'","hi":3,"more":' + b"[" * 100_000,
            json.dumps({"epoch": "0123456789abcdef", "hi": 3}).encode(),
            json.dumps({"epoch": "", "hi": 3, "ranges": [[1, 3]]}).encode(),
            json.dumps({"hi": 3}).encode(),
            *(
                json.dumps({**forged, **words}).encode()
                for words in (
                    {"hi": -1},
                    {"hi": "3"},
                    {"hi": 3.5},
                    {"ranges": [[4, 900]]},
                    {"ranges": [[4, 10**30]]},
                    {"ranges": [[3, 1]]},
                    {"ranges": [[-5, 0]]},
                    {"ranges": [[1]]},
                    {"ranges": [["1", "3"]]},
                )
            ),
        ):
            self.subscriber.say(lie)
        self.subscriber.say(json.dumps({**forged, "ranges": [[2, 2]]}).encode())
        news = wait_until(
            lambda: outbox.confirm("mqtt", sink.poll(0.1).confirmed), what="the honest one is heard"
        )
        sink.close()
        assert news == 1
        assert "not an acknowledgement" in caplog.text
        put(outbox, 2)
        assert [e.seq for e in outbox.lease("mqtt", 9, timeout_s=0)] == [1, 3, 4, 5]
        outbox.close()

    def test_a_topic_that_may_not_be_heard_is_said(self) -> None:
        for answer, words in (
            (b"\x80", r"/gate-07/ack cannot be subscribed to: "),
            (b"", "no answer to SUBSCRIBE"),
        ):
            with socket.create_server((HOST, 0)) as server:
                url = f"mqtt://{HOST}:{server.getsockname()[1]}"
                threading.Thread(target=no_subscriptions, args=(server, answer)).start()
                options = {"version": "3.1.1", "confirm": "ingest", "connect_timeout_s": 0.5}
                sink = make("mqtt", url=url, **options)
                with pytest.raises(SinkError, match=words):
                    sink.open(BIRTH)
                sink.close()


def no_subscriptions(server: socket.socket, answer: bytes) -> None:
    """A broker of MQTT 3.1.1 that gives this answer to SUBSCRIBE, or none."""
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"\x20\x02\x00\x00")
        subscribe = connection.recv(1000)
        if answer:
            connection.sendall(b"\x90\x03" + subscribe[2:4] + answer)
        while connection.recv(1000):
            pass


def put(outbox: Outbox, count: int) -> None:
    for _ in range(count):
        assert outbox.append(draft(), timeout_s=5)
    assert outbox.flush(10)


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
