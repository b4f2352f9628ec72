"""The network is cut, half of it is cut, it is slow: events wait, and come."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import HOST, Mosquitto, Wire, free_port
from needs import missing, need_module, need_program

from .stage import Device, Stage

_NUMBERS = itertools.count(os.getpid() % 200)
SHORT_KEEPALIVE: dict[str, object] = {"keepalive_s": 2, "connect_timeout_s": 2.0}


class Cable:
    """A network namespace for a device, and the pair of interfaces between it and us."""

    def __init__(self) -> None:
        number = next(_NUMBERS)
        self._ip = need_program("ip")
        self.name = f"edge-{number}"
        self._near, self._far = f"ew{number}n", f"ew{number}f"
        self.here, self.there = f"10.213.{number % 250}.1", f"10.213.{number % 250}.2"

    def __enter__(self) -> Cable:
        try:
            self._do("netns", "add", self.name)
        except subprocess.CalledProcessError as error:
            missing(f"the right to make a network namespace ({error.stderr.strip()})")
        self._do("link", "add", self._near, "type", "veth", "peer", "name", self._far)
        self._do("link", "set", self._far, "netns", self.name)
        self._do("addr", "add", f"{self.here}/24", "dev", self._near)
        self._do("-n", self.name, "addr", "add", f"{self.there}/24", "dev", self._far)
        for end in ("lo", self._far):
            self._do("-n", self.name, "link", "set", end, "up")
        self._do("link", "set", self._near, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for what in (("link", "del", self._near), ("netns", "del", self.name)):
            subprocess.run([self._ip, *what], check=False, capture_output=True)

    def cut(self) -> None:
        """Nothing passes; nobody is told."""
        self._do("link", "set", self._near, "down")

    def cut_half(self) -> None:
        """What the device sends arrives; every answer is lost on its way."""
        self._do("route", "add", "blackhole", f"{self.there}/32")

    def mend(self) -> None:
        self._do("link", "set", self._near, "up")
        subprocess.run(
            [self._ip, "route", "del", "blackhole", f"{self.there}/32"],
            check=False,
            capture_output=True,
        )

    def inside(self, device: Device) -> Device:
        """The device, to be started at the far end."""
        device.command[:0] = [self._ip, "netns", "exec", self.name]
        return device

    def _do(self, *what: str) -> None:
        subprocess.run([self._ip, *what], check=True, capture_output=True, text=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as it:
        yield it


@pytest.mark.timeout(120)
def test_a_cable_that_is_cut_entirely_and_half_costs_no_event(tmp_path: Path, cable: Cable) -> None:
    need_module("paho.mqtt")
    port = free_port()
    broker = Mosquitto(tmp_path, more=[f"listener {port} {cable.here}"])
    with Stage(tmp_path, broker=broker) as stage:
        stage.ingest()
        device = cable.inside(
            stage.device(
                start=False, url=f"mqtt://{cable.here}:{port}", mqtt=SHORT_KEEPALIVE, per_s=300.0
            )
        )
        device.start()
        for cut in (cable.cut, cable.cut_half):
            stage.more(100)
            cut()
            time.sleep(4)  # longer than the keepalive: it must notice by itself
            cable.mend()
        stage.more(500)
        device.finish()
        ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq
    assert device.output.count("sink mqtt: connected") >= 3, "it noticed each time, and said so"


class SlowWire(Wire):
    """Every piece is late by `late_s`."""

    late_s = 0.0

    def _relay(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        wire = self

        class Late:
            """The target, later."""

            def sendall(self, data: bytes) -> None:
                time.sleep(wire.late_s)
                target.sendall(data)

            def shutdown(self, how: int) -> None:
                target.shutdown(how)

        super()._relay(source, Late(), answers)  # type: ignore[arg-type]


@pytest.mark.timeout(120)
def test_a_slow_network_is_slow_and_loses_nothing(stage: Stage) -> None:
    """A piece takes longer than a resend: everything comes twice and is stored once."""
    with SlowWire(stage.broker.port) as wire:
        wire.late_s = 0.4
        stage.ingest(url=wire.url)
        device = stage.device(url=f"mqtt://{HOST}:{wire.port}", per_s=200.0)
        stage.more(200)
        wire.late_s = 0.0
        device.finish()
        ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq


@pytest.mark.timeout(120)
def test_answers_that_are_lost_are_given_again(stage: Stage) -> None:
    with Wire(stage.broker.port) as wire:
        stage.ingest()
        device = stage.device(url=wire.url, mqtt=SHORT_KEEPALIVE, per_s=300.0)
        stage.more(100)
        wire.swallow = True
        stage.more(1)
        time.sleep(0.5)
        wire.cut()
        wire.mend()
        device.finish()
        ledger = stage.reckon(device)
    assert ledger["stored"] == ledger["captured"] == device.last_seq
