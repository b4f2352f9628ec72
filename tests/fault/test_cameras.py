"""Cameras that die, hang, come late, change, send rubbish, or are far away behind a bad network.

Each test prints how long it took until the loss was noticed, and until pictures came again
(`pytest -rP`); nothing is asserted of that beyond what was promised.
"""

from __future__ import annotations

import http.server
import io
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from broker import HOST, Wire, wait_until
from cameras import Flipping, HttpCamera, RtspServer, grey
from e2e.running import Running, jsonl, of, wrist, write_config
from needs import need_module

from edge.errors import FrameError
from edge.sources.camera import Camera
from edge.sources.snapshots import Snapshots
from edge.types import Frame

from .bad_network import BadNetwork
from .stage import ENV

LIBRARIES = ["pyav", "opencv"]
STALE_S = 2.0
FIRST_BACKOFF_S = (0.5, 0.5)
"""Each fault is met as if it were the first: several in ten seconds would be waited out longer."""


class Watched:
    """A camera that is read all the time, as a pipeline reads it."""

    def __init__(self, source: Any, what: str) -> None:
        self.source = source
        self.what = what
        self.frames: list[Frame] = []
        self.bad = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        source._stream._backoff_bounds_s = FIRST_BACKOFF_S
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self.source.read(0.2)
            except FrameError:
                self.bad += 1
                continue
            if frame is not None:
                self.frames.append(frame)
                del self.frames[:-50]

    @property
    def state(self) -> str:
        state: str = self.source.state.state
        return state

    @property
    def detail(self) -> str:
        detail: str = self.source.state.detail
        return detail

    def more(self, count: int = 5, timeout_s: float = 30.0) -> Frame:
        """Wait for so many more frames; the last."""
        number = self.frames[-1].number if self.frames else -1
        wait_until(
            lambda: self.frames and self.frames[-1].number >= number + count, timeout_s, self.what
        )
        return self.frames[-1]

    def fault(self, name: str, hurt: Callable[[], Any], mend: Callable[[], Any]) -> None:
        """Do it, see it noticed, undo it, see it mended; print how long both took."""
        hurt()
        began_s = time.monotonic()
        wait_until(lambda: self.state == "lost", 20, f"{self.what}: {name} is noticed")
        noticed_s = time.monotonic() - began_s
        mend()
        began_s = time.monotonic()
        self.more(1)
        wait_until(lambda: self.state == "running", 20)
        print(f"{self.what} | {name} | {noticed_s:.1f} | {time.monotonic() - began_s:.1f}")

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.source.close()


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def watch(url: str, *, what: str = "", library: str = "pyav", **options: Any) -> Watched:
        need_module("av" if library == "pyav" else "cv2")
        config = Camera.Config(url=url, library=library, stale_s=STALE_S, **options)  # type: ignore[arg-type]
        made.append(Watched(Camera(config, name="cam"), what or url))
        return made[-1]

    yield watch
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("library", "transport"), [("pyav", "tcp"), ("pyav", "udp"), ("opencv", "tcp")]
)
def test_an_rtsp_camera_comes_late_dies_hangs_and_changes(
    tmp_path: Path,
    watched: Callable[..., Watched],
    capfd: pytest.CaptureFixture[str],
    library: str,
    transport: str,
) -> None:
    server = RtspServer(tmp_path, fps="30", user="viewer", password="s3cret")
    camera = watched(
        server.url, what=f"rtsp {transport} ({library})", library=library, transport=transport
    )
    try:
        camera.fault("starts after us", lambda: None, server.start)
        assert camera.frames[-1].data.shape == (240, 320, 3)
        assert f"h264 320x240, {library}, decoding: software" in camera.detail
        camera.fault("killed", server.kill, server.start)
        camera.fault("stopped", server.stop, server.go_on)
        camera.fault("killed, then another size", server.kill, lambda: server.start(size="640x480"))
        assert camera.frames[-1].data.shape == (480, 640, 3) and "640x480" in camera.detail
        camera.fault("killed, then another codec", server.kill, lambda: server.start(codec="mjpeg"))
        assert "mjp" in camera.detail
    finally:
        server.kill()
    said = capfd.readouterr()
    print(said.out)
    assert "s3cret" not in camera.detail + said.out + said.err


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_mjpeg_camera_dies_hangs_and_sends_noise(
    watched: Callable[..., Watched], library: str
) -> None:
    with HttpCamera() as server:
        camera = watched(f"{server.address}/stream", what=f"mjpeg ({library})", library=library)
        camera.more()
        camera.fault("killed", server.kill, server.start)
        camera.fault("stopped", lambda: be(server, "hang"), lambda: be(server, "good"))
        camera.fault("only noise", lambda: be(server, "noise"), lambda: be(server, "good"))
        assert "s3cret" not in camera.detail


def test_a_snapshot_camera_dies_and_hangs() -> None:
    with HttpCamera() as server:
        config = Snapshots.Config(url=f"{server.address}/shot.jpg", every_s=0.1, timeout_s=STALE_S)
        camera = Watched(Snapshots(config, name="cam"), "snapshots")
        try:
            camera.more()
            camera.fault("killed", server.kill, server.start)
            camera.fault("stopped", lambda: be(server, "hang"), lambda: be(server, "good"))
        finally:
            camera.close()


def be(server: HttpCamera, mode: str) -> None:
    server.mode = mode


# ---- a bad network


@pytest.mark.parametrize(
    ("library", "transport"), [("pyav", "tcp"), ("pyav", "udp"), ("opencv", "udp")]
)
def test_packets_are_lost_delayed_and_come_in_another_order(
    tmp_path: Path, watched: Callable[..., Watched], library: str, transport: str
) -> None:
    with (
        BadNetwork() as network,
        RtspServer(
            tmp_path, host=network.there, inside=network.name, fps="30", bitrate="3000"
        ) as server,
    ):
        camera = watched(
            server.url,
            what=f"rtsp {transport} over a bad network ({library})",
            library=library,
            transport=transport,
        )
        camera.more()
        for name, how in {
            "3 % lost, 10 to 40 ms late": {"loss": 0.03, "delay_s": (0.01, 0.04)},
            "0 to 150 ms late, in any order": {"delay_s": (0.0, 0.15)},
        }.items():
            network.spoil(**how)  # type: ignore[arg-type]
            before, losses = camera.bad, camera.source._stream.losses
            camera.more(30)
            losses = camera.source._stream.losses - losses
            print(f"{camera.what} | {name} | {camera.bad - before} told damaged, {losses} losses")
        camera.fault("nothing passes", lambda: network.spoil(loss=1.0), network.spoil)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["rtsp", "mjpeg"])
def test_bytes_that_were_changed_on_the_way_break_nothing(
    tmp_path: Path, watched: Callable[..., Watched], library: str, kind: str
) -> None:
    with HttpCamera() as mjpeg, RtspServer(tmp_path, fps="30") as rtsp:
        port, path = (rtsp.port, "cam") if kind == "rtsp" else (mjpeg.port, "stream")
        scheme = "rtsp" if kind == "rtsp" else "http"
        with Flipping(port) as wire:
            camera = watched(f"{scheme}://{HOST}:{wire.port}/{path}", library=library)
            camera.more()
            wire.share = 0.001
            time.sleep(2.0)
            print(f"{kind} ({library}) | bytes flipped | {camera.bad} pictures were told damaged")
            wire.share = 0.0
            camera.more(10)
            assert camera.state == "running"


# ---- timestamps


@pytest.mark.parametrize("library", LIBRARIES)
def test_timestamps_that_jump_back_and_hours_ahead_disturb_nothing(
    watched: Callable[..., Watched], library: str
) -> None:
    need_module("av")
    pieces = [transport_stream(start_s) for start_s in (100, 5, 40_000, 0, 90_000)]

    class Sends(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                for piece in itertools.cycle(pieces):
                    for start in range(0, len(piece), 188 * 7):
                        self.wfile.write(piece[start : start + 188 * 7])
                        time.sleep(0.01)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Sends)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        camera = watched(f"http://{HOST}:{server.server_port}/ts", library=library)
        camera.more(1)
        losses = camera.source._stream.losses
        moments = [camera.more(10).mono_ns for _ in range(12)]
        assert moments == sorted(moments) and moments[-1] <= time.monotonic_ns()
        assert camera.source._stream.losses == losses, "it went on through every jump"
    finally:
        server.shutdown()
        server.server_close()


def transport_stream(start_s: int) -> bytes:
    """A second of MPEG-TS whose clock starts there."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height = 320, 240
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        stream.time_base = Fraction(1, 25)
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(
                grey(40 + number * 5, width=320, height=240), format="bgr24"
            )
            frame.pts = start_s * 25 + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


# ---- a thousand times


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_thousand_reconnects_leave_nothing_behind(library: str) -> None:
    with HttpCamera(fps=1000) as server:
        server.pictures, server.mode = 4, "ragged"
        figures = reconnect(f"{server.address}/stream", library, 1000)
    print(f"mjpeg ({library}) | 1000 reconnects | losses, MB, threads, descriptors: {figures}")


def test_rtsp_reconnects_leave_nothing_behind(tmp_path: Path) -> None:
    with RtspServer(tmp_path, fps="50") as server, Wire(server.port) as wire:
        done = threading.Event()

        def cut_and_mend() -> None:
            while not done.wait(2.0):
                wire.cut()
                time.sleep(0.1)
                wire.mend()

        cutting = threading.Thread(target=cut_and_mend, daemon=True)
        cutting.start()
        figures = reconnect(wire.url.replace("mqtt", "rtsp") + "/cam", "pyav", 8)
        done.set()
        cutting.join(5)
    print(f"rtsp (pyav) | 8 reconnects | losses, MB, threads, descriptors: {figures}")


def reconnect(url: str, library: str, losses: int) -> list[list[float]]:
    """What reconnects.py says, held to it: no more memory, threads or descriptors at the end."""
    need_module("av" if library == "pyav" else "cv2")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("reconnects.py"), url, library, str(losses)],
        capture_output=True, text=True, timeout=100, env=ENV, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    figures: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    _, (_, half_mb, *half), (_, end_mb, *end) = figures
    assert end_mb - half_mb < 5, figures
    assert all(at_end <= at_half + 4 for at_half, at_end in zip(half, end, strict=True)), figures
    return figures


# ---- the whole command


@pytest.mark.parametrize("library", LIBRARIES)
def test_two_stuck_cameras_leave_the_others_alone_and_ctrl_c_is_immediate(
    tmp_path: Path, library: str
) -> None:
    need_module("av" if library == "pyav" else "cv2")
    auth = {"user": "viewer", "password": "s3cret"}
    with (
        RtspServer(tmp_path, fps="30", **auth) as one,
        RtspServer(tmp_path, fps="30", **auth) as two,
    ):
        cameras = [
            of(
                f'type = "camera", url = "{server.url}", library = "{library}", stale_s = 2.0',
                bundle="builtin:meter_reader",
                more="roi = [90, 60, 200, 80]",
            ).replace('"one"', f'"{name}"')
            for name, server in (("left", one), ("right", two))
        ]
        config = write_config(tmp_path, *cameras, wrist(), jsonl())
        agent = Running(config, "-v")
        try:
            wait_until(lambda: "sink jsonl: connected" in agent.output, 20)
            time.sleep(3)
            one.stop()
            two.stop()
            wait_until(lambda: agent.output.count(": lost: ") >= 2, 20, "both are noticed")
            events = tmp_path / "events.jsonl"
            before = events.stat().st_size
            wait_until(lambda: events.stat().st_size > before + 2000, 10, "the third goes on")
            began_s = time.monotonic()
            ended = agent.end(signal.SIGINT)
            print(
                f"edge run ({library}) | Ctrl-C while two readers are stuck | ended in"
                f" {time.monotonic() - began_s:.1f} s"
            )
            assert ended.code == 0 and time.monotonic() - began_s < 5
            assert "s3cret" not in ended.out + ended.err
            assert "terminate" not in ended.err, "a reader that came back late aborted it"
        finally:
            agent.kill_tree()
            one.go_on()
            two.go_on()
