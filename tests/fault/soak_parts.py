"""The sources of the soak: real servers and devices, and what can happen to each of them."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from broker import HOST, Mosquitto
from cameras import Flipping, HttpCamera, RtspServer, grey, jpeg
from devices import Line, ModbusServer

AXES = ("ax", "ay", "az", "gx", "gy", "gz")
_CHANNELS = f"channels = {json.dumps(AXES)}\nlength = 100\nhop = 25\n"

Fault = tuple[Callable[[], Any], Callable[[], Any]]


def nothing() -> None:
    """What needs no mending."""


class Part(NamedTuple):
    """One source: its [pipeline.source], its faults (to hurt, to mend), and how it is silenced."""

    table: str
    faults: dict[str, Fault]
    silence: Callable[[], Any]


# ---- cameras


def rtsp(folder: Path, transport: str = "tcp") -> Part:
    server = RtspServer(folder, fps="10", user="viewer", password="s3cret").start()
    wire = Flipping(server.port)
    sizes = iter(["480x360", "320x240"] * 10_000)
    url = f"rtsp://viewer:s3cret@{HOST}:{wire.port}/cam"

    def share(value: float) -> Callable[[], None]:
        return lambda: setattr(wire, "share", value)

    return Part(
        f'type = "camera"\nurl = "{url}"\n',
        {
            "killed": (server.kill, server.start),
            "killed, another size": (server.kill, lambda: server.start(size=next(sizes))),
            "stopped": (server.stop, server.go_on),
            "bytes flipped": (share(0.001), share(0.0)),
        },
        lambda: (server.kill(), wire.cut()),
    )


def mjpeg(folder: Path) -> Part:
    server = HttpCamera(fps=10).start()
    server.size = (320, 240)
    return Part(f'type = "camera"\nurl = "{server.address}/stream"\n', http(server), server.kill)


def snapshots(folder: Path) -> Part:
    server = HttpCamera().start()
    server.size = (320, 240)
    table = (
        f'type = "snapshots"\nurl = "{server.address}/shot.jpg"\nevery_s = 0.2\ntimeout_s = 3.0\n'
    )
    return Part(table, http(server), server.kill)


def http(server: HttpCamera) -> dict[str, Fault]:
    def be(mode: str) -> Callable[[], None]:
        return lambda: setattr(server, "mode", mode)

    return {
        "killed": (server.kill, server.start),
        "stopped": (be("hang"), be("good")),
        "only noise": (be("noise"), be("good")),
    }


def filled_folder(folder: Path) -> Part:
    shots = folder / "shots"
    shots.mkdir()
    done, noisy = threading.Event(), threading.Event()
    aside = folder / "aside"

    def fill() -> None:
        number = 0
        while not done.wait(0.4):
            data = b"no picture" if noisy.is_set() else jpeg(grey(90, width=320, height=240))
            try:
                (shots / "new.part").write_bytes(data)
                (shots / "new.part").rename(shots / f"{number:08}.jpg")
                (shots / f"{number - 50:08}.jpg").unlink(missing_ok=True)
            except FileNotFoundError:  # the folder is away
                continue
            number += 1

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()

    def silence() -> None:
        done.set()
        filling.join(10)
        time.sleep(2)  # until the last one counts as whole

    return Part(
        f'type = "images"\npath = "{shots}"\nwatch = true\n',
        {
            "away": (lambda: shots.rename(aside), lambda: aside.rename(shots)),
            "only noise": (noisy.set, noisy.clear),
        },
        silence,
    )


# ---- sensors


def serial(folder: Path) -> Part:
    noisy = threading.Event()

    def say(number: int) -> bytes:
        return (
            b"\xff\x00,nonsense\r\n" if noisy.is_set() else f"{','.join(wave(number))}\n".encode()
        )

    line = Line(folder, say, 0.01)
    return Part(
        f'type = "serial"\nport = "{line.port}"\ncolumns = {json.dumps(AXES)}\nstale_s = 3.0\n'
        + _CHANNELS,
        {
            "unplugged": (line.unplug, line.plug),
            "silent": (lambda: line.silent(True), lambda: line.silent(False)),
            "only noise": (noisy.set, noisy.clear),
        },
        lambda: line.silent(True),
    )


def topic(folder: Path) -> Part:
    from paho.mqtt import client as paho

    place = folder / "input"
    place.mkdir()
    broker = Mosquitto(place)
    broker.start()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(0.05, 0.1)
    client.connect(HOST, broker.port)
    client.loop_start()
    done, noisy = threading.Event(), threading.Event()

    def publish() -> None:
        number = 0
        while not done.wait(0.02):
            if client.is_connected():
                values = dict(zip(AXES, map(float, wave(number)), strict=True))
                client.publish("plant/1/imu", "}" if noisy.is_set() else json.dumps(values))
                number += 1

    threading.Thread(target=publish, daemon=True).start()

    def silence() -> None:
        done.set()
        client.disconnect()
        client.loop_stop()
        broker.kill()

    return Part(
        f'type = "mqtt"\nurl = "{broker.url}"\ntopic = "plant/+/imu"\n' + _CHANNELS,
        {"broker killed": (broker.kill, broker.start), "only noise": (noisy.set, noisy.clear)},
        silence,
    )


def modbus(folder: Path) -> Part:
    server = ModbusServer()
    server.start()
    registers = ", ".join(
        f'{axis} = {{ address = {number}, kind = "input", type = "int16", scale = 0.1 }}'
        for number, axis in enumerate(AXES)
    )
    return Part(
        f'type = "modbus"\naddress = "{server.address}"\nregisters = {{ {registers} }}\n'
        f"rate_hz = 25\n{_CHANNELS}",
        {
            "killed": (server.kill, server.start),
            "stopped": (
                lambda: server.signal(signal.SIGSTOP),
                lambda: server.signal(signal.SIGCONT),
            ),
        },
        server.kill,
    )


def iio(folder: Path) -> Part:
    device = folder / "devices" / "iio:device0"
    device.mkdir(parents=True)
    (device / "name").write_text("lsm6dsl\n")
    for kind in ("accel", "anglvel"):
        (device / f"in_{kind}_scale").write_text("0.01\n")
        for axis in "xyz":
            (device / f"in_{kind}_{axis}_raw").write_text("120\n")
    channels = [f"{kind}_{axis}" for kind in ("accel", "anglvel") for axis in "xyz"]
    away = folder / "away"
    raw = device / "in_accel_x_raw"
    return Part(
        f'type = "iio"\ndevice = "lsm6dsl"\nroot = "{device.parent}"\nrate_hz = 25\n'
        f"channels = {json.dumps(channels)}\nlength = 100\nhop = 25\n",
        {
            "unplugged": (lambda: device.rename(away), lambda: away.rename(device)),
            "nonsense": (lambda: raw.write_text("what\n"), lambda: raw.write_text("120\n")),
        },
        lambda: shutil.rmtree(device, ignore_errors=True),
    )


def wave(number: int) -> list[str]:
    return [f"{np.sin(number / 9 + axis):.3f}" for axis in range(len(AXES))]


PARTS: dict[str, Callable[[Path], Part]] = {
    "rtsp": rtsp,
    "mjpeg": mjpeg,
    "snapshots": snapshots,
    "folder": filled_folder,
    "serial": serial,
    "topic": topic,
    "modbus": modbus,
    "iio": iio,
}
CAMERAS = ("rtsp", "mjpeg", "snapshots", "folder")


def pipeline(name: str, part: Part) -> str:
    bundle, more = "builtin:wrist_activity", ""
    if name in CAMERAS:
        bundle, more = "builtin:meter_reader", "roi = [0, 0, 320, 96]\nmax_fps = 4\n"
    return (
        f'\n[[pipeline]]\nname = "{name}"\nbundle = "{bundle}"\nrule = []\n{more}'
        f"[pipeline.source]\n{part.table}"
    )
