"""An image run the way a device should run it: everything that can be taken away is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loopback import Network

USER = 65532
_PODMAN = ["podman", "--runtime", "runc", "--log-level=fatal"]
HARDENED = [
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--ulimit=nofile=4096:4096",
    "--ulimit=nproc=4096:4096",
]


def once(image: str, *arguments: str, cpu: str, timeout_s: float = 240) -> str:
    """What a command of the image prints, run without any network. Fails unless it succeeds."""
    process = subprocess.run(
        ["timeout", "-k5", str(timeout_s), *_PODMAN, "run", "--rm", "--pull=never",
         "--platform=linux/arm64", "--network=none", *HARDENED, f"--env=QEMU_CPU={cpu}",
         image, *arguments],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


class Container:
    """One container after another on the same volume; `config` is mounted at /etc/edgewright."""

    def __init__(self, image: str, network: Network, folder: Path) -> None:
        self._image = image
        self._network = network
        self._name = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "container.log"
        self.config, self.state = folder / "config", folder / "state"
        self.config.mkdir()
        self.state.mkdir(mode=0o700)
        os.chown(self.state, USER, USER)

    def start(self, *, cpu: str) -> None:
        """Start what the image starts by itself; its standard input stays open for `feed`."""
        if self._name:
            _podman("rm", "--force", self._name)
        self._name = f"edge-{uuid.uuid4().hex[:12]}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["timeout", "-k5", "380", *_PODMAN, "run", "--name", self._name,
                 "--interactive", "--pull=never", "--platform=linux/arm64",
                 f"--network=ns:{self._network.path}", *HARDENED, f"--env=QEMU_CPU={cpu}",
                 f"--volume={self.config}:/etc/edgewright:ro",
                 f"--volume={self.state}:/var/lib/edgewright", self._image],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def feed(self, text: str) -> None:
        """Write to its standard input."""
        assert self._process and self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def execute(self, *command: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a command inside, beside the agent."""
        return _podman("exec", self._name, *command, timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        """What `edge status --json` says inside."""
        answer = self.execute("edge", "status", "/etc/edgewright/edge.toml", "--json")
        status: dict[str, Any] = json.loads(answer.stdout or '{"ok": false}')
        return status

    def healthy(self) -> bool:
        """One run of the image's HEALTHCHECK."""
        return _podman("healthcheck", "run", self._name).returncode == 0

    def process_status(self) -> dict[str, str]:
        """/proc/PID/status of the agent, as the host sees it."""
        pid = _podman("inspect", "--format={{.State.Pid}}", self._name).stdout.strip()
        lines = Path("/proc", pid, "status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def kill(self, signal: str) -> None:
        """Send a signal to the agent."""
        answer = _podman("kill", f"--signal={signal}", self._name)
        assert answer.returncode == 0, answer.stderr

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; the exit code."""
        assert self._process
        return self._process.wait(timeout_s)

    def end_of_input(self) -> None:
        """Close its standard input."""
        assert self._process and self._process.stdin
        self._process.stdin.close()

    def log(self) -> str:
        """What all of them wrote so far."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process and self._process.poll() is None:
            _podman("kill", self._name)
            self._process.wait(20)
        if self._name:
            _podman("rm", "--force", self._name)


def wait_for(true: Any, what: str, timeout_s: float = 120) -> Any:
    """Poll until `true()` is; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)
    return value


def _podman(*arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_PODMAN, *arguments], capture_output=True, text=True, timeout=timeout_s)
