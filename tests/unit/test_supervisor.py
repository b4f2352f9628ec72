from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import wait_until

from edge import supervisor

CHILD = """#!/bin/sh
echo "$@" >> {folder}/calls
code=$(sed -n "$(wc -l < {folder}/calls)p" {folder}/codes)
[ "$code" = crash ] && kill -9 $$
[ "$code" = work ] && exec sleep 60
exit $code
"""


class House:
    """A supervisor over a child that ends as told, time after time."""

    def __init__(self, folder: Path) -> None:
        self.stub = folder / "agent"
        self.stub.write_text(CHILD.format(folder=folder))
        self.stub.chmod(0o755)
        self.told: list[str] = []
        self._calls = folder / "calls"
        self._codes = folder / "codes"

    def run(self, *codes: int | str) -> int:
        self._codes.write_text("".join(f"{code}\n" for code in codes))
        ended = supervisor.run(self.told.append)
        if ended is None:  # this is the child, in which nothing of the test may go on
            os.execv(self.stub, [str(self.stub), f"start {supervisor.start}"])
        return ended

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def terminate_when(self, starts: int) -> None:
        def later() -> None:
            wait_until(lambda: len(self.calls) == starts)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=later, daemon=True).start()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(supervisor, "_BACKOFF_S", (0.01, 0.02))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield House(tmp_path)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6, 7, 130])
def test_what_a_restart_would_meet_again_is_not_restarted(house: House, code: int) -> None:
    assert house.run(code) == code
    assert house.calls == ["start 1"]
    assert not house.told


def test_a_child_that_dies_is_started_again(house: House) -> None:
    assert house.run(1, "crash", 0) == 0
    assert house.calls == ["start 1", "start 2", "start 3"]
    assert ["exit code 1" in house.told[0], "SIGKILL" in house.told[1]] == [True, True]


def test_an_error_after_a_crash_may_pass(house: House) -> None:
    assert house.run("crash", 5, 4, 0) == 0
    assert len(house.calls) == 4


def test_a_mistake_is_never_restarted(house: House) -> None:
    assert house.run("crash", 2) == 2
    assert len(house.calls) == 2


def test_an_engine_that_fails_late_is_started_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_EARLY_S", 0.0)
    assert house.run(5, 0) == 0
    assert len(house.calls) == 2


def test_an_agent_without_its_bad_engine_is_started_again_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_backoff_s", lambda *_: pytest.fail("it waits"))
    assert house.run(9, 9, 0) == 0
    assert len(house.calls) == 3


def test_a_stop_reaches_the_child(house: House) -> None:
    house.terminate_when(starts=1)
    assert house.run("work") == 0
    assert len(house.calls) == 1


def test_a_stop_while_waiting_to_start_again_ends_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_BACKOFF_S", (60.0, 60.0))
    house.terminate_when(starts=1)
    assert house.run("crash") == 0
    assert len(house.calls) == 1
