"""The status socket: a running agent answers one JSON line to whoever connects.

A Unix socket in the state directory, for its owner only.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import socket

SOCKET = "agent.sock"
_ACCEPT_S = 0.2
_ANSWER_S = 2.0
_MAX_ANSWER_BYTES = 1 << 20

log = logging.getLogger(__name__)


class StatusServer:
    """Serves what `status()` returns."""

    def __init__(self, folder: Path, status: Callable[[], dict[str, Any]]) -> None:
        self._folder = folder
        self._status = status

    def run(self, stop: threading.Event) -> None:
        """Answer until stopped; the socket is removed at the end."""
        import socket  # while the first frame is inferred, and not before

        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server,
            _short(self._folder) as folder,
        ):
            path = os.path.join(folder, SOCKET)
            try:
                _remove(path)
                server.bind(path)
                os.chmod(path, 0o600)
            except OSError as error:
                log.warning("%s: no status socket: %s", self._folder, error)
                return
            server.listen(4)
            server.settimeout(_ACCEPT_S)
            try:
                while not stop.is_set():
                    self._answer(server)
            finally:
                _remove(path)

    def _answer(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            return
        with connection:
            connection.settimeout(_ANSWER_S)
            try:
                connection.sendall(msgspec.json.encode(self._status()) + b"\n")
            except OSError:
                log.debug("a status client went away")


def ask(folder: Path, timeout_s: float = 5.0) -> dict[str, Any]:
    """The status of the agent that runs on this state directory.

    OSError (ConnectionRefusedError, FileNotFoundError, TimeoutError) when there is none.
    """
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short(folder) as short:
        client.settimeout(timeout_s)
        client.connect(os.path.join(short, SOCKET))
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
            if len(answer) > _MAX_ANSWER_BYTES:
                raise OSError("the answer is too long")
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise OSError("the answer is not complete") from error


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The folder by a name short enough for a socket's address, which holds 107 bytes."""
    if len(os.fsencode(folder)) < 90 or not os.path.isdir("/proc/self/fd"):
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
