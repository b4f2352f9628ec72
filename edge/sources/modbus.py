"""Registers of a Modbus device, by pymodbus: TCP, or RTU on a serial port.

Registers that lie side by side are read by one request, so that their values belong together.
"""

from __future__ import annotations

import itertools
import logging
import struct
import urllib.parse
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from edge.errors import ConfigError, FrameError
from edge.manifest import Preprocess
from edge.sources.records import float32
from edge.sources.sampling import Poll, SampleSource, needs
from edge.sources.stream import Lost
from edge.sources.windows import WindowConfig, plan
from edge.types import Array

_FORMATS = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
_READS = {"holding": "read_holding_registers", "input": "read_input_registers"}
_MAX_REGISTERS = 125  # of one request
_TCP_PORT = 502


class Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """value = number · scale + offset, where the number begins at register `address` (counted from
    0, as it travels). `words` says which of its registers comes first: the `high` or the `low`."""

    address: int
    kind: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"] = (
        "uint16"
    )
    words: Literal["high", "low"] = "high"
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.address <= 0xFFFF - self.count + 1:
            raise ValueError("address must be a register from 0 to 65535")

    @property
    def count(self) -> int:
        """How many registers it takes."""
        return struct.calcsize(_FORMATS[self.type]) // 2

    def value(self, registers: Sequence[int]) -> float:
        """What its registers hold."""
        words = registers if self.words == "high" else registers[::-1]
        (number,) = struct.unpack(_FORMATS[self.type], struct.pack(f">{self.count}H", *words))
        return float(number) * self.scale + self.offset


class Modbus(SampleSource):
    """Asks one unit for its registers `rate_hz` times a second."""

    class Config(WindowConfig, frozen=True, kw_only=True):
        """`address` is tcp://host[:502], or the device of a serial port with its `baud`, `parity`
        and `stop_bits`. `registers` are tables by channel. An answer may take `timeout_s`."""

        address: str
        registers: dict[str, Register]
        unit: int = 1
        baud: int = 19200
        parity: Literal["N", "E", "O"] = "E"
        stop_bits: Literal[1, 2] = 1
        timeout_s: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            host_and_port(self.address)
            if not 0 <= self.unit <= 255:
                raise ValueError("unit must be a number from 0 to 255")
            if not self.registers:
                raise ValueError("registers: at least one is needed")
            if self.baud <= 0 or not 0 < self.timeout_s <= 60:
                raise ValueError("baud must be above 0, timeout_s above 0 and 60 at most")

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        try:
            import pymodbus.client
        except ImportError as error:
            raise needs("modbus", "pymodbus", "modbus", error) from error
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what matters, our states say
        windows = plan(config, preprocess, name=name, rated=True)
        missing = [channel for channel in windows.channels if channel not in config.registers]
        if missing:
            raise ConfigError(f"source {name}: registers: none for {', '.join(missing)}")
        stale_s = 5.0 + config.timeout_s + 1 / windows.rate_hz
        shown = f"{config.address} unit {config.unit}"
        super().__init__(windows, name=name, shown=shown, stale_s=stale_s)
        self._config = config
        self._pymodbus = pymodbus
        self._rate_hz = windows.rate_hz
        self._registers = [config.registers[channel] for channel in windows.channels]
        self._spans = spans(self._registers)

    def _open(self) -> Poll:
        client = self._client()
        if not client.connect():
            client.close()
            raise Lost("cannot be opened: no connection")
        return Poll(lambda: self._ask(client), rate_hz=self._rate_hz, close=client.close)

    def _client(self) -> Any:
        config, client = self._config, self._pymodbus.client
        found = host_and_port(config.address)
        if found is not None:
            host, port = found
            return client.ModbusTcpClient(host, port=port, timeout=config.timeout_s, retries=0)
        return client.ModbusSerialClient(
            config.address,
            baudrate=config.baud,
            parity=config.parity,
            stopbits=config.stop_bits,
            timeout=config.timeout_s,
            retries=0,
        )

    def _ask(self, client: Any) -> Array:
        found: dict[tuple[str, int], int] = {}
        for span in self._spans:
            read = getattr(client, _READS[span.kind])
            try:
                answer = read(span.address, count=span.length, device_id=self._config.unit)
            except (self._pymodbus.ModbusException, OSError) as error:
                raise Lost(f"{span}: no answer") from error
            if answer.isError():
                raise Lost(f"{span}: refused with code {answer.exception_code}")
            if len(answer.registers) != span.length:
                raise FrameError(f"{span}: the answer holds {len(answer.registers)}")
            for place, number in enumerate(answer.registers, span.address):
                found[span.kind, place] = number
        values = []
        for register in self._registers:
            places = range(register.address, register.address + register.count)
            values.append(register.value([found[register.kind, place] for place in places]))
        return float32(values)


class Span(NamedTuple):
    """Registers that one request reads."""

    kind: str
    address: int
    length: int

    def __str__(self) -> str:
        return f"{self.kind} registers {self.address} to {self.address + self.length - 1}"


def spans(registers: Sequence[Register]) -> list[Span]:
    """The requests for some registers: those that touch or overlap are read together."""
    found: list[Span] = []
    ordered = sorted(registers, key=lambda register: (register.kind, register.address))
    for kind, group in itertools.groupby(ordered, key=lambda register: register.kind):
        for register in group:
            end = register.address + register.count
            last = found[-1] if found and found[-1].kind == kind else None
            if last is not None and register.address <= last.address + last.length:
                length = max(last.length, end - last.address)
                if length <= _MAX_REGISTERS:
                    found[-1] = last._replace(length=length)
                    continue
            found.append(Span(kind, register.address, register.count))
    return found


def host_and_port(address: str) -> tuple[str, int] | None:
    """Of tcp://host[:502]; None for a device's path. ValueError when it is neither."""
    if "://" not in address:
        if not address or "\0" in address:
            raise ValueError("address must be tcp://host[:port] or a device")
        return None
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port or _TCP_PORT
    except ValueError:
        parts, port = None, 0
    if parts is None or parts.scheme != "tcp" or not parts.hostname or parts.username:
        raise ValueError("address must be tcp://host[:port] or a device")
    return parts.hostname, port
