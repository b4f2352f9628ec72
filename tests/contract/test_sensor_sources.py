"""Live sensors: the source contract, and losing, hanging and coming back. Real parts throughout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Mosquitto, wait_until
from devices import Cable, Line, ModbusServer, SoundCard
from needs import ROOT, missing, need_module

from edge.errors import ConfigError, FrameError
from edge.seams import Source
from edge.sources import sampling
from edge.types import Frame

from .source_contract import SourceContract, make, next_frame

CHANNELS = ["n", "half"]
BY_COUNT = {"channels": CHANNELS, "length": 4, "hop": 2}


class SensorContract(SourceContract):
    """A sensor that is not there is a state, and never the death of the pipeline."""

    live = True
    count = None
    dtype = "float32"
    shape: tuple[int, ...] = (4, 2)

    def lose(self) -> None:
        """Take the device away, or have it hang."""
        raise NotImplementedError

    def restore(self) -> None:
        """The device is back."""
        raise NotImplementedError

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        assert source is not None
        for _ in range(3):
            began = time.monotonic()
            assert source.read(0.1) is None
            assert time.monotonic() - began < 5
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert "cannot be opened" in source.state.detail or "cannot connect" in source.state.detail
        source.close()

    def test_it_is_lost_and_comes_back(self, source: Source) -> None:
        lost_and_back(source, self.lose, self.restore)

    def test_a_closed_sensor_stays_closed(self, source: Source) -> None:
        next_frame(source)
        source.close()
        assert source.read(0.05) is None

    def test_closing_ends_a_wait(self, source: Source) -> None:
        next_frame(source)
        self.lose()
        results: list[Frame | None] = [None]

        def read() -> None:
            while (frame := source.read(60.0)) is not None:
                results.append(frame)
            results.append(None)

        waiting = threading.Thread(target=read, daemon=True)
        waiting.start()
        wait_until(lambda: source.state.state == "lost", 20)
        source.close()
        waiting.join(5)
        assert not waiting.is_alive() and results[-1] is None
        self.restore()

    def test_every_sample_is_counted_once(self, source: Source) -> None:
        for _ in range(6):
            next_frame(source)
        found = counts(source)
        assert found["used"] >= 6, "what is missing on a grid is put in between"
        assert found["samples"] == sum(found[key] for key in ("used", "late", "duplicate", "bad"))


def lost_and_back(source: Source, lose: Callable[[], None], restore: Callable[[], None]) -> None:
    last = next_frame(source)
    lose()
    deadline = time.monotonic() + 20
    while (frame := source.read(0.05)) is not None or source.state.state != "lost":
        assert time.monotonic() < deadline
        last = frame or last
    restore()
    frame = next_frame(source)
    assert source.state.state == "running"
    assert frame.number > last.number + 1, "it does not follow on the last one"
    assert counts(source)["lost"] == 1


def counts(source: Source) -> dict[str, int]:
    found: dict[str, int] = source.counts  # type: ignore[attr-defined]
    return found


def numbers(frame: Frame) -> list[float]:
    found: list[float] = frame.data[:, 0].tolist()
    return found


def assert_in_a_row(frame: Frame) -> None:
    np.testing.assert_array_equal(np.diff(frame.data[:, 0]), 1)


# ---- a serial port


class TestSerialCsv(SensorContract):
    options: dict[str, Any] = {}  # noqa: RUF012

    def say(self, number: int) -> bytes:
        return b"%d, 0.5\r\n" % number

    @pytest.fixture(autouse=True)
    def line(self, tmp_path: Path) -> Iterator[Line]:
        need_module("serial")
        self.device = Line(tmp_path, self.say)
        yield self.device
        self.device.close()

    def build(self, folder: Path) -> Source:
        return make("serial", port=self.device.port, stale_s=1.0, **BY_COUNT, **self.options)

    def build_missing(self, folder: Path) -> Source:
        return make("serial", port=folder / "missing", **BY_COUNT)

    def lose(self) -> None:
        self.device.unplug()

    def restore(self) -> None:
        self.device.plug()

    def test_windows_hold_what_was_said(self, source: Source) -> None:
        for frame in (next_frame(source) for _ in range(4)):
            assert_in_a_row(frame)
            assert (frame.data[:, 1] == 0.5).all()


class TestSerialJson(TestSerialCsv):
    """This one hangs, instead of being unplugged."""

    options = {"format": "json"}  # noqa: RUF012

    def say(self, number: int) -> bytes:
        return json.dumps({"n": number, "half": 0.5}).encode() + b"\n"

    def lose(self) -> None:
        self.device.silent(True)

    def restore(self) -> None:
        self.device.silent(False)


def serial_lines(folder: Path, lines: list[bytes], **options: Any) -> tuple[Line, Source]:
    """A port that says these lines over and over, and its source."""
    need_module("serial")
    line = Line(folder, lambda number: lines[number % len(lines)])
    return line, make("serial", port=line.port, **{**BY_COUNT, **options})


def test_a_port_with_noise_on_it_goes_on(tmp_path: Path) -> None:
    noise = [b"1,0.5\n", b"2,0.5\n", b"3,0.5\n", b"4,0.5\n", b"5,0.5\n", b"\xff\xfe\n", b"x,y\n",
             b"1\n", b"nan,1\n", b"1e99,1\n", b"7" * 3000]  # fmt: skip
    line, source = serial_lines(tmp_path, noise)
    good: list[Frame] = []
    bad: list[str] = []
    while len(good) < 6:
        try:
            good.append(next_frame(source))
        except FrameError as error:
            bad.append(str(error))
    assert all(numbers(frame) in ([1, 2, 3, 4], [2, 3, 4, 5]) for frame in good)
    assert len(bad) >= 8 and all("by-id-sensor" in text for text in bad)
    found = counts(source)
    assert found["samples"] == found["used"] + found["bad"] and source.state.state == "running"
    source.close()
    line.close()


def test_a_sensor_says_itself_when_its_samples_were_taken(tmp_path: Path) -> None:
    """Every 7 ms, some twice and some too late, on a grid of 100 a second."""
    moments = [0, 7, 14, 14, 21, 28, 7, 35, 42, 49, 56, 63, 70]
    lines = [b"%d,%d,1\n" % (ms, ms) for ms in moments]
    line, source = serial_lines(tmp_path, lines, time="ms", time_unit="ms", rate_hz=100.0)
    frame = next_frame(source)
    np.testing.assert_allclose(np.diff(frame.data[:, 0]), 10.0, atol=1e-3)
    found = counts(source)
    assert found["samples"] == sum(found[key] for key in ("used", "late", "duplicate", "bad"))
    source.close()
    line.close()


# ---- topics


class Publisher:
    """Another device, which publishes `say(n)` every few milliseconds while the broker is there."""

    def __init__(self, port: int, topic: str = "plant/1/imu") -> None:
        from paho.mqtt import client as paho

        self.topic = topic
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(0.05, 0.1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        number = 0
        while not self._closed.wait(0.005):
            if self._client.is_connected():
                self.publish(json.dumps({"acc": {"n": number, "list": [0, 0.5]}, "t": number / 10}))
                number += 1

    def publish(self, payload: str | bytes, *, retain: bool = False) -> None:
        self._client.publish(self.topic, payload, qos=0, retain=retain)

    def close(self) -> None:
        self._closed.set()
        self._client.disconnect()
        self._client.loop_stop()


class TestMqtt(SensorContract):
    @pytest.fixture(autouse=True)
    def broker(self, mosquitto: Mosquitto) -> Iterator[None]:
        self.server = mosquitto
        publisher = Publisher(mosquitto.port)
        yield
        publisher.close()

    def build(self, folder: Path, **options: Any) -> Source:
        fields = {"n": "acc.n", "half": "acc.list.1"}
        given = {"url": self.server.url, "topic": "plant/+/imu", "fields": fields, **options}
        return make("mqtt", **given, **BY_COUNT)

    def build_missing(self, folder: Path) -> Source:
        return make("mqtt", url="mqtt://127.0.0.1:9", topic="missing", **BY_COUNT)

    def lose(self) -> None:
        self.server.kill()

    def restore(self) -> None:
        self.server.start()

    def test_windows_hold_what_was_published(self, source: Source) -> None:
        for frame in (next_frame(source) for _ in range(4)):
            assert_in_a_row(frame)
            assert (frame.data[:, 1] == 0.5).all()

    def test_the_time_may_be_the_publishers(self, tmp_path: Path) -> None:
        source = self.build(tmp_path, time="t", rate_hz=20.0)
        frame = next_frame(source)
        np.testing.assert_allclose(np.diff(frame.data[:, 0]), 0.5, atol=1e-4)
        source.close()

    def test_a_broker_that_hangs_is_lost_where_silence_counts(self, tmp_path: Path) -> None:
        source = self.build(tmp_path, stale_s=0.5, connect_timeout_s=0.5)
        lost_and_back(source, self.server.stop, self.server.go_on)
        source.close()


def mqtt_source(broker: Mosquitto, **options: Any) -> Source:
    """One channel, every sample a window, and connected."""
    given = {"topic": "t/#", "channels": ["v"], "length": 1, "hop": 1, **options}
    source = make("mqtt", url=broker.url, **given)
    source.read(0.01)
    wait_until(lambda: source.state.state == "running", 20)
    return source


def publish(broker: Mosquitto, *payloads: str | bytes, retain: bool = False) -> None:
    from paho.mqtt import publish as once

    messages = [{"topic": "t/1", "payload": p, "qos": 1, "retain": retain} for p in payloads]
    once.multiple(messages, hostname="127.0.0.1", port=broker.port)


def test_a_bare_number_is_a_sample_and_a_kept_message_is_none(mosquitto: Mosquitto) -> None:
    publish(mosquitto, "99", retain=True)
    source = mqtt_source(mosquitto)
    wait_until(lambda: counts(source)["retained"] == 1)
    publish(mosquitto, "21.5")
    assert numbers(next_frame(source)) == [21.5]
    source.close()


def test_payloads_by_anybody_do_no_harm(mosquitto: Mosquitto) -> None:
    source = mqtt_source(mosquitto)
    bad = ["", "x", "[1]", '{"w": 1}', '{"v": null}', '{"v": 1e999}', '{"v": NaN}', b"\xff\xfe",
           '{"v": ' + "9" * 70_000 + "}", "[" * 60_000, '{"v": {"v": 1}}']  # fmt: skip
    publish(mosquitto, *bad, '{"v": 7}')
    errors = []
    while True:
        try:
            frame = next_frame(source)
            break
        except FrameError as error:
            errors.append(str(error))
    assert numbers(frame) == [7.0]
    assert len(errors) == len(bad) - 1 == counts(source)["bad"], "an empty message says nothing"
    assert all(mosquitto.url in text for text in errors)
    source.close()


def test_a_flood_is_bounded_and_counted(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes for a while: what is kept is bounded, and the window does not span the hole."""
    monkeypatch.setattr(sampling, "_KEEP", 64)
    source = mqtt_source(mosquitto, length=2, hop=2)
    total = 600
    publish(mosquitto, *(str(number) for number in range(total)))
    wait_until(lambda: counts(source)["dropped"] >= total - 64, 30)
    made = []
    while (frame := source.read(0.2)) is not None:
        made.append(numbers(frame))
    assert made[-1][1] == total - 1 and all(b - a == 1 for a, b in made)
    found = counts(source)
    assert found["samples"] + found["dropped"] == total
    source.close()


def test_our_own_events_can_be_an_input(mosquitto: Mosquitto) -> None:
    source = mqtt_source(
        mosquitto, fields={"v": "data.value"}, time="time.mono_ns", time_unit="ns", topic="t/+"
    )
    publish(mosquitto, '{"v":1,"kind":"reading","time":{"mono_ns":5000000000},"data":{"value":42}}')
    assert numbers(next_frame(source)) == [42.0]
    source.close()


def test_a_password_stays_where_it_is(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, users={"reader": "s3cret"}) as broker:
        good = make("mqtt", url=broker.url, topic="t", username="reader", password="s3cret",
                    channels=["v"], length=1, hop=1)  # fmt: skip
        wait_until(lambda: good.read(0.05) is None and good.state.state == "running", 20)
        bad = make("mqtt", url=broker.url, topic="t", username="reader", password="wr0ng",
                   channels=["v"], length=1, hop=1)  # fmt: skip
        wait_until(lambda: bad.read(0.05) is None and bad.state.state == "lost", 20)
        assert "check username and password" in bad.state.detail
        assert "s3cret" not in repr(good.__dict__) and "wr0ng" not in bad.state.detail
        good.close()
        bad.close()


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+", "a#", "a\0"])
def test_a_topic_filter_that_is_none_is_refused(topic: str) -> None:
    with pytest.raises(ConfigError, match="topic must be"):
        make("mqtt", url="mqtt://h", topic=topic, channels=["v"], length=1, hop=1)


# ---- Modbus

REGISTERS: dict[str, Any] = {
    "n": {"address": 0, "type": "float32"},
    "half": {"address": 2, "type": "int16", "scale": 0.5, "offset": 1.0},
}


class TestModbusTcp(SensorContract):
    device: ModbusServer

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls) -> Iterator[None]:
        need_module("pymodbus")
        cls.device = device = ModbusServer()
        device.start()
        yield
        device.kill()

    def build(self, folder: Path, **options: Any) -> Source:
        given = {"registers": REGISTERS, "timeout_s": 0.5, "rate_hz": 100.0, **BY_COUNT, **options}
        return make("modbus", address=self.device.address, **given)

    def build_missing(self, folder: Path) -> Source:
        return make("modbus", address="tcp://127.0.0.1:9", registers=REGISTERS, rate_hz=10.0,
                    **BY_COUNT)  # fmt: skip

    def lose(self) -> None:
        self.device.kill()

    def restore(self) -> None:
        self.device.start()

    def test_registers_become_numbers(self, source: Source) -> None:
        frame = next_frame(source)
        np.testing.assert_allclose(frame.data, [[50.25, -9.0]] * 4, rtol=1e-6)

    def test_a_register_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        registers = {**REGISTERS, "half": {"address": 60_000, "kind": "input"}}
        source = self.build(tmp_path, registers=registers)
        said = "input registers 60000 to 60000: refused with code 2"
        wait_until(lambda: source.read(0.05) is None and said in source.state.detail, 20)
        assert source.state.state == "lost"
        source.close()

    def test_one_that_hangs_is_lost_too(self, source: Source) -> None:
        lost_and_back(source, self.device.stop, self.device.go_on)


class TestModbusRtu(TestModbusTcp):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls) -> Iterator[None]:
        need_module("pymodbus")
        need_module("serial")
        cable = Cable()
        cls.device = device = ModbusServer(cable)
        device.start()
        yield
        device.kill()
        cable.close()

    def build(self, folder: Path, **options: Any) -> Source:
        return super().build(folder, parity="N", rate_hz=50.0, **options)


# ---- the kernel's own sensors


class TestIio(SensorContract):
    type_name = "iio"
    given: dict[str, Any] = {"channels": ["accel_x", "temp"]}  # noqa: RUF012

    def tree(self, folder: Path) -> Path:
        device = folder / "devices" / "iio:device3"
        device.mkdir(parents=True)
        (folder / "devices" / "iio:device0").mkdir()
        texts = {
            "name": "lsm6dsl\n",
            "in_accel_x_raw": "-200\n",
            "in_accel_scale": "0.01\n",
            "in_temp_raw": "10\n",
            "in_temp_offset": "90\n",
            "in_temp_scale": "250\n",
        }
        for name, text in texts.items():
            (device / name).write_text(text)
        return device

    def values(self) -> list[float]:
        return [-2.0, 25_000.0]

    def build(self, folder: Path) -> Source:
        if not (folder / "devices").exists():
            self.device = self.tree(folder)
        return self.of(folder)

    def of(self, folder: Path, **options: Any) -> Source:
        name = (self.device / "name").read_text().strip()
        window = {"length": 4, "hop": 2, "rate_hz": 200.0}
        given = {"device": name, "root": folder / "devices", **self.given, **window, **options}
        return make(self.type_name, **given)

    def build_missing(self, folder: Path) -> Source:
        self.build(folder).close()
        return self.of(folder, device="missing")

    def lose(self) -> None:
        self.device.rename(self.device.parent.parent / "away")

    def restore(self) -> None:
        """The kernel numbers it anew."""
        self.device = self.device.parent / "iio:device7"
        (self.device.parent.parent / "away").rename(self.device)

    def test_values_have_their_units(self, source: Source) -> None:
        np.testing.assert_allclose(next_frame(source).data, [self.values()] * 4, rtol=1e-6)

    def test_what_is_there_instead_is_said(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert f"there are {self.device.name} (" in source.state.detail
        source.close()

    def test_a_channel_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        self.build(tmp_path).close()
        source = self.of(tmp_path, channels=["nothing9"])
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert "has no channel nothing9" in source.state.detail
        source.close()

    @pytest.mark.parametrize("text", ["", "warm\n", "\0\xff", "9" * 400, "nan\n"])
    def test_what_is_no_number_is_bad(self, tmp_path: Path, text: str) -> None:
        source = self.build(tmp_path)
        next_frame(source)
        for file in [*self.device.glob("*_raw"), *self.device.glob("*_input")]:
            file.write_text(text)
        with pytest.raises(FrameError):
            while True:
                next_frame(source)
        assert counts(source)["bad"] > 0
        source.close()


class TestHwmon(TestIio):
    type_name = "hwmon"
    given = {"channels": ["Package id 0", "in2"]}  # noqa: RUF012

    def tree(self, folder: Path) -> Path:
        device = folder / "devices" / "hwmon1"
        device.mkdir(parents=True)
        texts = {
            "name": "coretemp\n",
            "temp1_input": "41000\n",
            "temp1_label": "Package id 0\n",
            "in2_input": "3300\n",
        }
        for name, text in texts.items():
            (device / name).write_text(text)
        return device

    def values(self) -> list[float]:
        return [41.0, 3.3]


# ---- sound

WAVES = ("yes", "no", "noise", "silence")


class TestMicrophone(SensorContract):
    """The card that hangs is the one there is: nothing can be pulled out here."""

    shape = (1600, 1)

    @pytest.fixture(autouse=True)
    def card(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        need_module("sounddevice")
        try:
            import sounddevice  # noqa: F401 - whether PortAudio is there
        except OSError:
            missing("libportaudio2 is not installed")
        self.device = SoundCard(tmp_path)
        monkeypatch.setenv("ALSA_CONFIG_PATH", str(self.device.config))
        yield
        self.device.close()

    def build(self, folder: Path, **options: Any) -> Source:
        given = {"device": SoundCard.NAME, "channels": ["sound"], "length": 1600, "hop": 1600}
        return make("microphone", rate_hz=16_000.0, stale_s=0.5, **{**given, **options})

    def build_missing(self, folder: Path) -> Source:
        return self.build(folder, device="missing")

    def lose(self) -> None:
        self.device.silent(True)

    def restore(self) -> None:
        self.device.silent(False)

    def test_windows_hold_the_sound(self, source: Source) -> None:
        for frame in (next_frame(source) for _ in range(4)):
            steps = np.diff(frame.data[:, 0])
            assert np.isclose(steps, 0.001, atol=1e-5).sum() >= 1597, "a saw tooth, without a hole"


def test_portaudio_that_is_missing_is_said() -> None:
    """In a process of its own, where the library cannot be found."""
    need_module("sounddevice")
    program = (
        "import ctypes.util, os.path;"
        "ctypes.util.find_library = lambda name: None;"
        "from edge.sources.microphone import Microphone as M;"
        "M(M.Config(channels=('s',), length=1, hop=1, rate_hz=8000.0), name='m')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert "ConfigError: source microphone needs PortAudio: install it" in done.stderr
