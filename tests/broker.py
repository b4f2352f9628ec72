"""A real mosquitto on a free port, a subscriber that counts, and a wire that can be cut."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from needs import need_program
from server import Server

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """Poll until `true()` is; its value. Fails loudly after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or true}"
        time.sleep(0.02)
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM files of a broker: its certificate and key, and the CA that signed it."""

    ca: Path
    cert: Path
    key: Path


class Mosquitto(Server):
    """A broker that keeps nothing; it can be killed and started again on the same port.

    With `users` only these may connect, by password; anonymous clients otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: Tls | None = None,
        users: dict[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self._program = need_program("mosquitto")
        self._folder = folder
        super().__init__()
        self.port = free_port()
        lines = [
            f"listener {self.port} {HOST}",
            "persistence false",
            "set_tcp_nodelay true",
            "user root",
            f"allow_anonymous {'false' if users else 'true'}",
            *more,
        ]
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
            subprocess.run([need_program("mosquitto_passwd"), "-U", passwords], check=True)
            lines.append(f"password_file {passwords}")
        if tls:
            lines += [f"cafile {tls.ca}", f"certfile {tls.cert}", f"keyfile {tls.key}"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        """Where it listens, without TLS."""
        return f"mqtt://{HOST}:{self.port}"

    def start(self) -> None:
        """Listen."""
        log = open(self._folder / "mosquitto.log", "ab")  # noqa: SIM115 - the child holds it
        with log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._folder / "mosquitto.conf"), "-v"],
                stdout=log,
                stderr=log,
            )

        def listens() -> bool:
            assert self._process is not None and self._process.poll() is None, self.log()
            try:
                socket.create_connection((HOST, self.port), 1.0).close()
            except OSError:
                return False
            return True

        wait_until(listens, what="mosquitto listens")

    def log(self) -> str:
        """What it wrote, with one line a packet."""
        return (self._folder / "mosquitto.log").read_text()


class Subscriber:
    """Listens to `topic` over a connection of its own and keeps what arrives, in order."""

    def __init__(
        self,
        port: int,
        topic: str,
        *,
        host: str = HOST,
        ca: Path | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        from paho.mqtt import client as paho

        self.messages: list[tuple[str, bool, bytes]] = []
        """Topic, whether it was retained, payload."""
        self._subscribed = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=f"test-{free_port()}"
        )
        self._client.reconnect_delay_set(0.05, 0.1)
        if ca:
            self._client.tls_set(ca_certs=str(ca))
        if user:
            self._client.username_pw_set(*user)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _, __, m: self.messages.append(
            (m.topic, m.retain, m.payload)
        )
        self._client.connect(host, port)
        self._client.loop_start()
        self.wait_subscribed()

    def wait_subscribed(self) -> None:
        """Wait for the (new) broker's answer to the subscription."""
        assert self._subscribed.wait(10), "the subscriber is not let in"

    def on(self, topic_part: str) -> list[dict[str, Any]]:
        """The decoded messages whose topic contains `topic_part`."""
        return [json.loads(data) for topic, _, data in list(self.messages) if topic_part in topic]

    def events(self) -> list[dict[str, Any]]:
        """The decoded events, duplicates included."""
        return self.on("/event/")

    def seqs(self) -> set[int]:
        """The numbers of the events that arrived; they must be of one device and epoch."""
        keys = {(event["device"], event["epoch"], event["seq"]) for event in self.events()}
        assert len({key[:2] for key in keys}) <= 1, keys
        return {key[2] for key in keys}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Wire:
    """A TCP relay to `port` that can be cut: connections die, and new ones are refused.

    With `swallow` set, what the far end answers is lost on the way.
    """

    def __init__(self, port: int) -> None:
        self.swallow = False
        self._target = port
        self._open: list[socket.socket] = []
        self._server: socket.socket | None = None
        self.port = free_port()
        self.mend()

    @property
    def url(self) -> str:
        """The broker's address by way of this wire."""
        return f"mqtt://{HOST}:{self.port}"

    def mend(self) -> None:
        """Let connections through (again)."""
        self.swallow = False
        server = self._server = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._server is not None:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        while self._open:
            end = self._open.pop()
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by its owner
                pass
            end.close()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
                far = socket.create_connection((HOST, self._target), 1.0)
            except OSError:
                if self._server is not server:
                    return
                near.close()
                continue
            far.settimeout(None)
            self._open += [near, far]
            for source, target, answers in ((near, far, False), (far, near, True)):
                threading.Thread(
                    target=self._relay, args=(source, target, answers), daemon=True
                ).start()

    def _relay(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if not (answers and self.swallow):
                    target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()
