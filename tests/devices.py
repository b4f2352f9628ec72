"""Devices for the tests of sensors, as real as they can be had here: a pseudo-terminal as serial
port, a Modbus server in a process, sysfs trees, a sound card fed through a FIFO."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from broker import HOST, free_port, wait_until
from server import Server


class Line:
    """A serial port on which something writes `say(n)` every `every_s`; `port` is its path."""

    def __init__(self, folder: Path, say: Callable[[int], bytes], every_s: float = 0.005) -> None:
        self.port = folder / "by-id-sensor"
        self._say = say
        self._every_s = every_s
        self._number = 0
        self._ends: tuple[int, int] | None = None
        self._silent = threading.Event()
        self._closed = threading.Event()
        self.plug()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def plug(self) -> None:
        """There again, as another device node behind the same path."""
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.port.symlink_to(os.ttyname(slave))
        self._ends = master, slave

    def unplug(self) -> None:
        """Gone; whoever has it open gets an error."""
        ends, self._ends = self._ends, None
        self.port.unlink()
        if ends is not None:
            os.close(ends[0])
            os.close(ends[1])

    def silent(self, silent: bool) -> None:
        """Whether it says nothing."""
        (self._silent.set if silent else self._silent.clear)()

    def close(self) -> None:
        self._closed.set()
        self._writer.join(5)
        if self._ends is not None:
            self.unplug()

    def _write(self) -> None:
        while not self._closed.wait(self._every_s):
            ends = self._ends
            if ends is None or self._silent.is_set():
                continue
            try:
                os.write(ends[0], self._say(self._number))
            except OSError:  # nobody reads, or it was unplugged in this moment
                continue
            self._number += 1


_MODBUS = """
import sys
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartSerialServer, StartTcpServer
from pymodbus import FramerType
holding = ModbusSequentialDataBlock(1, [16969, 0, 65516, 1, 2, 3] + [0] * 200)
inputs = ModbusSequentialDataBlock(1, list(range(100)))
unit = ModbusDeviceContext(hr=holding, ir=inputs)
context = ModbusServerContext(devices={1: unit}, single=False)
if sys.argv[1] == "tcp":
    StartTcpServer(context, address=("127.0.0.1", int(sys.argv[2])))
else:
    StartSerialServer(context, framer=FramerType.RTU, port=sys.argv[2], baudrate=19200)
"""
"""Holding registers: 50.25 as float32, -20 as int16, 1, 2, 3, 0 …; input registers: 0, 1, 2 …"""


class Cable:
    """Two serial ports whose ends are joined: what is written to one is read from the other."""

    def __init__(self) -> None:
        ends = [pty.openpty() for _ in range(2)]
        for _, slave in ends:
            tty.setraw(slave)
        self.ports = tuple(os.ttyname(slave) for _, slave in ends)
        self._files = [file for pair in ends for file in pair]
        masters = [master for master, _ in ends]
        for one, other in (masters, masters[::-1]):
            threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def close(self) -> None:
        for file in self._files:
            os.close(file)

    def _carry(self, one: int, other: int) -> None:
        try:
            while data := os.read(one, 4096):
                os.write(other, data)
        except OSError:
            pass


class ModbusServer(Server):
    """Unit 1 behind a TCP port of its own, or at one end of a cable; it can be killed, and stopped.

    `address` is where a client finds it.
    """

    def __init__(self, cable: Cable | None = None) -> None:
        super().__init__()
        if cable is None:
            port = free_port()
            self._arguments = ["tcp", str(port)]
            self.address = f"tcp://{HOST}:{port}"
        else:
            self._arguments = ["rtu", cable.ports[0]]
            self.address = cable.ports[1]

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _MODBUS, *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, 20, "the Modbus server answers")

    def _answers(self) -> bool:
        from pymodbus import ModbusException
        from pymodbus.client import ModbusSerialClient, ModbusTcpClient

        assert self._process is not None and self._process.poll() is None
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        client: Any = ModbusSerialClient(self.address, timeout=0.2, retries=0)
        if self._arguments[0] == "tcp":
            client = ModbusTcpClient(HOST, port=int(self._arguments[1]), timeout=1, retries=0)
        try:
            return not client.read_holding_registers(0, count=1, device_id=1).isError()
        except ModbusException:
            return False
        finally:
            client.close()


class SoundCard:
    """ALSA's file plugin, fed through a FIFO in real time: a saw tooth from 0 to 1 of 1,000 steps.

    While it is silent, whoever reads from it hangs in the driver.
    """

    RATE = 16_000
    NAME = "tested"

    def __init__(self, folder: Path) -> None:
        fifo = folder / "sound"
        os.mkfifo(fifo)
        self.config = folder / "asound.conf"
        self.config.write_text(
            "</usr/share/alsa/alsa.conf>\n"
            f"pcm.{self.NAME} {{ type file; slave.pcm null; file /dev/null;"
            f" infile {fifo}; format raw }}\n"
        )
        self._pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._silent = threading.Event()
        self._closed = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def silent(self, silent: bool) -> None:
        """Whether nothing comes."""
        (self._silent.set if silent else self._silent.clear)()

    def close(self) -> None:
        """Gone; what hangs in it gets free."""
        self._closed.set()
        self._writer.join(5)
        os.close(self._pipe)

    def _write(self) -> None:
        number, count = 0, self.RATE // 20  # as much as is read at once: the plugin fills no gaps
        while not self._closed.wait(0.05):
            if self._silent.is_set():
                continue
            saw = ((np.arange(count) + number) % 1000 / 1000).astype("<f4")
            try:
                os.write(self._pipe, saw.tobytes())
            except BlockingIOError:
                continue
            number += count
