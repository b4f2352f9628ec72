"""A server that a test starts, stops and kills: a process of its own."""

from __future__ import annotations

import signal
import subprocess
from types import TracebackType
from typing import Any, Self


class Server:
    """Started by `start` of its class, or by `with`, which kills it in the end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Any:
        """Start it, and wait until it answers."""
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGSTOP: it holds its connections and says nothing."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, whatever it is doing: what it had not passed on is lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
