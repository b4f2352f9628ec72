"""Modbus without a device: numbers in registers, requests, and answers that are no answers."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from needs import need_module

from edge.errors import ConfigError, FrameError
from edge.sources.modbus import Modbus, Register, Span, host_and_port, spans


@pytest.mark.parametrize(
    ("register", "registers", "value"),
    [
        ({"type": "int16"}, [0xFFEC], -20),
        ({"type": "uint16", "scale": 0.1, "offset": -40.0}, [650], 25.0),
        ({"type": "int32"}, [0xFFFF, 0xFFFE], -2),
        ({"type": "uint32", "words": "low"}, [2, 1], 65538),
        ({"type": "float32"}, [0x4249, 0], 50.25),
        ({"type": "float32", "words": "low"}, [0, 0x4249], 50.25),
        ({"type": "uint64"}, [0, 0, 1, 0], 65536),
        ({"type": "int64"}, [0xFFFF] * 4, -1),
        ({"type": "float64"}, [0x4049, 0x2000, 0, 0], 50.25),
    ],
)
def test_registers_hold_numbers(register: Any, registers: list[int], value: float) -> None:
    found = Register(address=0, **register)
    assert found.count == len(registers)
    assert found.value(registers) == pytest.approx(value)


def test_what_touches_is_read_together() -> None:
    wanted = [
        Register(address=2, type="float32"),
        Register(address=0, type="uint32"),
        Register(address=4),
        Register(address=9),
        Register(address=4, kind="input"),
        Register(address=3),
        *(Register(address=100 + 4 * index, type="int64") for index in range(40)),
    ]
    assert spans(wanted) == [
        Span("holding", 0, 5), Span("holding", 9, 1), Span("holding", 100, 124),
        Span("holding", 224, 36), Span("input", 4, 1),
    ]  # fmt: skip


def test_addresses() -> None:
    assert host_and_port("tcp://meter.local") == ("meter.local", 502)
    assert host_and_port("tcp://[fe80::1]:1502") == ("fe80::1", 1502)
    assert host_and_port("/dev/ttyUSB0") is None
    for bad in ("", "http://x", "tcp://", "tcp://h:99999", "tcp://user:s3cret@h", "tcp://[x"):
        with pytest.raises(ValueError, match="address must be") as caught:
            host_and_port(bad)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"address": -1}, {"address": 65_535, "type": "int32"}, {"type": "bit"}, {"scael": 2.0}],
)
def test_registers_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    from edge import config as configuration

    register = {"address": 1, **changes}
    table = {"type": "modbus", "address": "tcp://h", "registers": {"a": register}}
    with pytest.raises(ConfigError, match="registers"):
        configuration.decode_adapter("sources", table, where="x")


# ---- answers that are none

Answer = Callable[[bytes], bytes]


def fewer(request: bytes) -> bytes:
    """One register where three were asked for."""
    return request[:4] + struct.pack(">HBBBH", 5, request[6], request[7], 2, 7)


def another_unit(request: bytes) -> bytes:
    return request[:4] + struct.pack(">HBBB3H", 9, 9, request[7], 6, 1, 2, 3)


def garbage(_: bytes) -> bytes:
    return bytes(range(256)) * 3


def refusal(request: bytes) -> bytes:
    return request[:4] + struct.pack(">HBBB", 3, request[6], request[7] | 0x80, 4)


@pytest.fixture
def liar() -> Iterator[Callable[[Answer], str]]:
    """A TCP server that answers as it is told; its address."""
    servers: list[socket.socket] = []

    def start(answer: Answer) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                    with client:
                        while request := client.recv(256):
                            client.sendall(answer(request))
                except OSError:
                    if server.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (fewer, "holding registers 0 to 2: the answer holds 1"),
        (another_unit, "holding registers 0 to 2: no answer"),
        (garbage, "holding registers 0 to 2: no answer"),
        (refusal, "holding registers 0 to 2: refused with code 4"),
        (lambda _: b"", "holding registers 0 to 2: no answer"),
    ],
)
def test_answers_that_are_none(answer: Answer, says: str, liar: Callable[[Answer], str]) -> None:
    need_module("pymodbus")
    registers = {name: Register(address=place) for place, name in enumerate("abc")}
    source = Modbus(
        Modbus.Config(
            address=liar(answer), registers=registers, channels=("a", "b", "c"), length=1, hop=1,
            rate_hz=50.0, timeout_s=0.2,
        ),
        name="m",
    )  # fmt: skip
    told, deadline = "", time.monotonic() + 20
    while says not in told:
        assert time.monotonic() < deadline, told
        try:
            assert source.read(0.1) is None
            told = source.state.detail
        except FrameError as error:
            told = str(error)
    assert source.counts["used"] == 0
    source.close()
