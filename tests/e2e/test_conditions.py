"""What becomes of a camera and of the board, seen by the real command: lost and recovered, covered,
frozen and moved, hot and cool."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import free_port, wait_until
from needs import need_module

from edge.sources.synthetic import DemoMeter
from edge.types import Array

from .running import METER_ROI, Running, edge, jsonl, of, wrist, write_config

need_module("cv2")
import cv2  # noqa: E402 - said above, if it is missing
import numpy as np  # noqa: E402

QUALITY = """
[pipeline.quality]
every_s = 0.1
settle_s = 0.5
learn_s = 1.5
frozen_s = 1.5
evidence = true
"""


class MjpegCamera:
    """A camera at a fixed address that can be switched off, and shows what it is told to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://viewer:s3cret@127.0.0.1:{self.port}/stream"
        self.shown = 0
        self._meter = DemoMeter(DemoMeter.Config(rate=0), name="meter")
        self.change: Callable[[Array], Array] = lambda picture: picture
        self._server: http.server.ThreadingHTTPServer | None = None
        self._off = threading.Event()

    def jpeg(self) -> bytes:
        self.shown += 1
        picture = self.change(self._meter.picture(self.shown % 8))
        return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])

    def switch_on(self) -> None:
        camera, off = self, threading.Event()

        class Stream(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):  # the agent has hung up
                    while not off.wait(0.04):
                        jpeg = camera.jpeg()
                        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(b"--frame\r\n" + head.encode() + jpeg + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._off = off
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Stream)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def switch_off(self) -> None:
        self._off.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    made = MjpegCamera()
    yield made
    made.switch_off()


class Told:
    """The events of a running agent, by its JSON lines."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "events.jsonl"

    def of(self, kind: str, pipeline: str) -> list[dict[str, Any]]:
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [e for e in events if (e["kind"], e["pipeline"]) == (kind, pipeline)]

    def await_of(self, kind: str, pipeline: str, count: int) -> dict[str, Any]:
        """The data of event number `count`, once it is there."""
        events = wait_until(
            lambda: len(found := self.of(kind, pipeline)) >= count and found,
            20,
            what=f"{kind} event {count} of {pipeline}",
        )
        return dict(events[count - 1]["data"])


def test_a_camera_tells_what_becomes_of_it_and_others_go_on(
    tmp_path: Path, agents: list[Running], camera: MjpegCamera
) -> None:
    table = f'type = "camera", url = "{camera.url}", stale_s = 2.0'
    one = of(table, bundle="builtin:meter_reader", more=METER_ROI).rstrip() + QUALITY
    config = write_config(tmp_path, one, wrist(speed=20), jsonl())
    told = Told(tmp_path)
    agents.append(Running(config))

    lost = told.await_of("source", "one", 1)
    assert lost["state"] == "lost" and "cannot be opened" in lost["detail"]
    camera.switch_on()
    back = told.await_of("source", "one", 2)
    assert back["state"] == "recovered" and back["lost_s"] > 0 and "size" not in back

    shown = camera.shown
    wait_until(lambda: camera.shown > shown + 60, 20, what="the view is learned")
    black = np.full((360, 640, 3), 3, np.uint8)
    still = camera.jpeg()
    plain = camera.jpeg
    for number, (problem, change) in enumerate(
        {
            "covered": lambda p: np.full_like(p, 90) + (p & 3),
            "dark": lambda p: black + (p & 1),
            "moved": lambda p: np.roll(p, (80, 200), (0, 1)),
            "frozen": None,
        }.items()
    ):
        if change is None:
            camera.jpeg = lambda: still  # type: ignore[method-assign]
        else:
            camera.change = change
        began = told.await_of("quality", "one", 2 * number + 1)
        assert (began["problem"], began["state"]) == (problem, "began")
        evidence = cv2.imdecode(np.frombuffer(base64.b64decode(began["jpeg"]), np.uint8), 1)
        assert evidence.shape == (180, 320, 3)
        camera.jpeg, camera.change = plain, lambda p: p  # type: ignore[method-assign]
        ended = told.await_of("quality", "one", 2 * number + 2)
        assert (ended["problem"], ended["state"]) == (problem, "ended")
        assert ended["seconds"] >= began["seconds"]

    camera.switch_off()
    assert told.await_of("source", "one", 3)["state"] == "lost"
    answer = json.loads(edge("status", "--json", config).out)
    assert answer["pipelines"]["one"]["source"] == "lost"
    assert answer["pipelines"]["wrist"]["source"] == "running"
    seen = len(told.of("classification", "wrist"))
    camera.change = lambda p: cv2.resize(p, (320, 180))
    camera.switch_on()
    back = told.await_of("source", "one", 4)
    assert (back["size"], back["size_before"]) == ([320, 180], [640, 360])
    wait_until(lambda: len(told.of("classification", "wrist")) > seen, what="others go on")
    ended = agents[0].end()
    assert ended.code == 0 and "s3cret" not in ended.err + (tmp_path / "events.jsonl").read_text()
    assert (len(told.of("source", "one")), len(told.of("quality", "one"))) == (4, 8), "no flood"


def test_heat_slows_the_pipelines_step_by_step_and_says_so_until_it_is_over(
    tmp_path: Path, agents: list[Running]
) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")

    def temperature(degrees: float) -> None:
        (zone / "new").write_text(f"{degrees * 1000:.0f}\n")
        (zone / "new").rename(zone / "temp")  # a reader never sees half of it

    temperature(55)
    every = f"{METER_ROI}\nrule = []"
    meter = of('type = "demo-meter", fps = 30', bundle="builtin:meter_reader", more=every)
    slow = "max_temperature_c = 80\nheat_step_s = 0.2\n"
    config = write_config(tmp_path, meter, wrist(speed=200), jsonl(), device=slow)
    agents.append(Running(config, env={"EDGE_SYSFS_ROOT": str(tmp_path)}))
    told = Told(tmp_path)

    def frames_in_a_second() -> tuple[float, float]:
        first, began = frames(), time.monotonic()
        time.sleep(1)
        second, took = frames(), time.monotonic() - began
        return (second[0] - first[0]) / took, (second[1] - first[1]) / took

    def frames() -> tuple[int, int]:
        return len(told.of("detections", "one")), len(told.of("classification", "wrist"))

    wait_until(lambda: min(frames()) > 20, 20, what="frames come")
    usual = frames_in_a_second()
    temperature(85)
    alarms = [told.await_of("alarm", "device", count) for count in range(1, 6)]
    assert {alarm["code"] for alarm in alarms} == {"heat_slower"}
    paces = [alarm["facts"]["pace"] for alarm in alarms]
    assert paces == sorted(paces, reverse=True) and alarms[0]["facts"]["temperature_c"] == 85
    slowed = frames_in_a_second()
    assert 0 < slowed[0] < usual[0] / 2 and 0 < slowed[1] < usual[1] / 2
    hot = edge("status", config)
    assert hot.code == 1 and "board: at 85.0 °C, frame rates are held to 15%" in hot.out

    temperature(60)
    alarms = [told.await_of("alarm", "device", count) for count in range(6, 11)]
    assert [alarm["code"] for alarm in alarms] == ["heat_faster"] * 4 + ["heat_over"]
    recovered = frames_in_a_second()
    assert recovered[0] > usual[0] / 2 and recovered[1] > usual[1] / 2
    assert len(told.of("alarm", "device")) == 10
    ended = agents[0].end()
    assert ended.code == 0 and "85.0 °C: frame rates are lowered to 75%" in ended.err
