"""Cameras for tests: real servers that are started, killed, stopped and changed."""

from __future__ import annotations

import http.server
import itertools
import os
import random
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from broker import HOST, Wire, free_port, wait_until
from needs import missing, need_program
from server import Server

from edge.types import Array

SYSTEM_PYTHON = "/usr/bin/python3"
_GSTREAMER = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
    " from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    " assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'jpegenc')))"
)


def need_gstreamer() -> None:
    """Debian's GStreamer with its RTSP server, as /usr/bin/python3 finds it; see needs.missing."""
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run(
            [SYSTEM_PYTHON, "-c", _GSTREAMER], capture_output=True, check=False
        ).returncode
    ):
        missing(
            "GStreamer is not installed: apt install python3-gi python3-gst-1.0"
            " gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good,bad,ugly}"
        )


class RtspServer(Server):
    """tests/rtsp_server.py on one port for its whole life, which may have several parts."""

    def __init__(self, folder: Path, *, host: str = HOST, inside: str = "", **options: str) -> None:
        need_gstreamer()
        super().__init__()
        self.port = free_port()
        self._log = folder / f"rtsp-{self.port}.log"
        self._host = host
        self._prefix = [need_program("ip"), "netns", "exec", inside] if inside else []
        self._options = options

    @property
    def url(self) -> str:
        """The address of its stream."""
        user = self._options.get("user")
        who = f"{user}:{self._options['password']}@" if user else ""
        return f"rtsp://{who}{self._host}:{self.port}/cam"

    def start(self, **options: str) -> Self:
        """Listen; `options` change what it serves from now on."""
        self._options |= options
        given = [text for key, value in self._options.items() for text in (f"--{key}", value)]
        lines = self._said()
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, SYSTEM_PYTHON, Path(__file__).with_name("rtsp_server.py"),
                 "--host", self._host, "--port", str(self.port), *given],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

        def listens() -> bool:
            assert self._process is not None and self._process.poll() is None, self._log.read_text()
            return self._said() > lines

        wait_until(listens, 20, "the RTSP server listens")
        return self

    def _said(self) -> int:
        return self._log.read_text().count("listening") if self._log.exists() else 0


def grey(level: int, *, width: int = 64, height: int = 48) -> Array:
    """A picture of one grey."""
    return np.full((height, width, 3), level, np.uint8)


def jpeg(picture: Array) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


class HttpCamera:
    """A camera by HTTP in this process: MJPEG at /stream, one picture at /shot.jpg.

    `mode` is what it does with each picture: "good"; "hang": nothing more comes; "noise": bytes
    that are no picture; "ragged": these now and then; "drip": a byte now and then; "endless": a
    picture without an end. It hangs up after `pictures` of them, and asks for basic or digest
    `authentication`.
    """

    def __init__(self, *, fps: float = 50.0, authentication: str = "") -> None:
        self.mode = "good"
        self.pictures = 0
        self.fps = fps
        self.size = (64, 48)
        self.authentication = authentication
        self.connections = 0
        self.port = free_port()
        self._server: _Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, with the password that it never asks for where it asks for none."""
        return f"http://viewer:s3cret@{HOST}:{self.port}"

    def start(self) -> Self:
        """Listen."""
        self._server = _Server((HOST, self.port), _Handler)
        self._server.camera = self
        self._server.gone = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def kill(self) -> None:
        """Hang up, and listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.gone.set()
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 100
    camera: HttpCamera
    gone: threading.Event


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        camera, gone = self.server.camera, self.server.gone
        camera.connections += 1
        if "missing" in self.path:
            self.send_error(404)
        elif not self._let_in(camera.authentication):
            self.send_response(401)
            self.send_header("WWW-Authenticate", _CHALLENGES[camera.authentication])
            self.end_headers()
        else:
            try:
                if self.path == "/stream":
                    self._stream(camera, gone)
                else:
                    self._shot(camera, gone)
            except OSError:
                pass  # who asked has hung up

    def _let_in(self, authentication: str) -> bool:
        given = self.headers.get("Authorization", "")
        if authentication == "basic":
            return given == "Basic dmlld2VyOnMzY3JldA=="
        if authentication == "digest":
            return given.startswith("Digest ") and _digest_is_right(given, self.path)
        return True

    def _stream(self, camera: HttpCamera, gone: threading.Event) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in itertools.count():
            if gone.wait(1 / camera.fps) or (camera.pictures and number >= camera.pictures):
                return
            while camera.mode == "hang" and not gone.wait(0.05):
                pass
            data = self._picture(camera, number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")

    def _shot(self, camera: HttpCamera, gone: threading.Event) -> None:
        data = self._picture(camera, camera.connections)
        while camera.mode == "hang" and not gone.wait(0.05):
            pass
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        if camera.mode == "drip":
            for byte in data:
                self.wfile.write(bytes([byte]))
                if gone.wait(0.05):
                    return
        while camera.mode == "endless" and not gone.is_set():
            self.wfile.write(bytes(1 << 20))
        self.wfile.write(data)

    def _picture(self, camera: HttpCamera, number: int) -> bytes:
        if camera.mode == "noise" or (camera.mode == "ragged" and number % 4 == 2):
            return os.urandom(700)
        width, height = camera.size
        return jpeg(grey(20 + 40 * (number % 5), width=width, height=height))

    def log_message(self, *_: object) -> None:
        pass


_CHALLENGES = {
    "basic": 'Basic realm="camera"',
    "digest": 'Digest realm="camera", nonce="0123456789abcdef", qop="auth", algorithm=MD5',
}


def _digest_is_right(given: str, path: str) -> bool:
    """RFC 7616's answer for viewer and s3cret."""
    import hashlib
    import re

    fields = dict(re.findall(r'(\w+)="?([^",]*)"?', given))

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    wanted = md5(
        ":".join(
            [md5("viewer:camera:s3cret"), fields["nonce"], fields["nc"], fields["cnonce"],
             fields["qop"], md5(f"GET:{path}")]
        )
    )  # fmt: skip
    return fields["response"] == wanted


class Flipping(Wire):
    """Now and then a byte of what the far end sends is another one."""

    share = 0.0

    def _relay(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        wire = self
        rng = random.Random(3)

        class Flipped:
            def sendall(self, data: bytes) -> None:
                if answers and wire.share:
                    changed = bytearray(data)
                    for _ in range(max(1, int(len(data) * wire.share))):
                        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
                    data = bytes(changed)
                target.sendall(data)

            def shutdown(self, how: int) -> None:
                target.shutdown(how)

        super()._relay(source, Flipped(), answers)  # type: ignore[arg-type]
