"""A network that is nothing but loopback, and a real broker with TLS and a subscriber in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PORT = 8883


class Network:
    """A network namespace of its own with only `lo` in it, so that nothing can be reached."""

    def __init__(self) -> None:
        self._name = f"edge-test-{os.getpid()}"
        self.path = Path("/run/netns", self._name)

    def command(self, *words: str) -> list[str]:
        """A command that runs inside of it."""
        return ["ip", "netns", "exec", self._name, *words]

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self._name], check=True)
        subprocess.run(["ip", "-n", self._name, "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        subprocess.run(["ip", "netns", "delete", self._name], check=True)


class Broker:
    """mosquitto with a certificate for localhost; `received` is what a subscriber got."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ca = folder / "ca.pem"
        _certificates(folder)
        (folder / "mosquitto.conf").write_text(
            f"listener {PORT} 127.0.0.1\nallow_anonymous true\nuser root\n"
            "persistence false\nset_tcp_nodelay true\n"
            f"certfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
        )

    def start(self) -> None:
        """Listen, and subscribe to everything."""
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") or "mosquitto"
        log = self._folder / "mosquitto.log"
        self._spawn([program, "-c", str(self._folder / "mosquitto.conf")], log)
        subscriber = ["mosquitto_sub", "-h", "localhost", "-p", str(PORT), "--cafile",
                      str(self.ca), "-q", "1", "-t", "edge/v1/#", "-F", "%t %p"]  # fmt: skip
        retry = f"until {' '.join(map(_quoted, subscriber))}; do sleep 0.1; done"
        self._spawn(["sh", "-c", f"exec 2>/dev/null; {retry}"], self._folder / "received")

    def stop(self) -> None:
        """End both."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            os.killpg(process.pid, 9)
            process.wait(10)

    def received(self, kind: str = "event") -> list[dict[str, Any]]:
        """The payloads under `kind/…` so far, oldest first, also over a restart."""
        file = self._folder / "received"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        pairs = [line.partition(" ") for line in lines if line.endswith("\n")]
        return [json.loads(body) for topic, _, body in pairs if f"/{kind}" in topic]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _spawn(self, command: list[str], output: Path) -> None:
        with output.open("ab") as file:
            self._processes.append(
                subprocess.Popen(
                    self._network.command(*command),
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )


def _certificates(folder: Path) -> None:
    """A CA for this test, and a certificate for localhost signed by it."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca = ["-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-subj", "/CN=test"]
    server = ["-keyout", folder / "server.key", "-out", folder / "server.pem", "-subj",
              "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
              "-addext", "basicConstraints=critical,CA:FALSE",
              "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key"]  # fmt: skip
    for options in (ca, server):
        subprocess.run(
            ["openssl", "req", "-x509", *key, *map(str, options)], check=True, capture_output=True
        )


def _quoted(word: str) -> str:
    return f"'{word}'"
