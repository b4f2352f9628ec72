from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from builders import Running, wait_until

from edge.status import SOCKET, StatusServer, ask

ANSWER = {"ok": True, "problems": [], "frames": 12}


@pytest.mark.parametrize("name", ["state", "state-in-a-folder-with-a-very-long-name/" * 5])
def test_a_running_agent_answers(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / SOCKET).write_text("left behind by an agent that was killed")
    with Running(StatusServer(folder, lambda: ANSWER).run):
        wait_until(lambda: (folder / SOCKET).is_socket())
        wait_until(lambda: stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600)
        assert [ask(folder) for _ in range(3)] == [ANSWER] * 3
    assert not (folder / SOCKET).exists()


def test_a_client_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    with Running(StatusServer(tmp_path, lambda: {"long": "x" * 500_000}).run):
        wait_until(lambda: (tmp_path / SOCKET).exists())
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / SOCKET))
        assert len(ask(tmp_path)["long"]) == 500_000


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / SOCKET))
    with pytest.raises(ConnectionRefusedError):
        ask(tmp_path)


def test_an_agent_that_hangs_or_breaks_off_is_no_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / SOCKET))
        server.listen(2)
        with pytest.raises(TimeoutError):
            ask(tmp_path, timeout_s=0.05)
        half, _ = server.accept()
        half.close()

        def answer_half(_: object) -> None:
            connection, _ = server.accept()
            connection.sendall(b'{"ok": tr')
            connection.close()

        with Running(answer_half), pytest.raises(OSError, match="not complete"):
            ask(tmp_path)


def test_an_agent_runs_without_its_socket(tmp_path: Path) -> None:
    (tmp_path / SOCKET).mkdir()
    with Running(StatusServer(tmp_path, lambda: ANSWER).run) as running:
        running.thread.join(10)
        assert not running.thread.is_alive()
