"""The power goes between any two writes: what was said to be committed is there afterwards."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from needs import need_program

from edge.config import OutboxConfig
from edge.outbox import Outbox
from edge.outbox.journal import checksum

from .device import Plan
from .stage import Device

CUT = 99
"""The exit code of a process whose power went."""


@pytest.fixture(scope="session")
def powercut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim of powercut.c."""
    library = tmp_path_factory.mktemp("shim") / "powercut.so"
    source = Path(__file__).with_name("powercut.c")
    command = [need_program("gcc"), "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    command.append("-ldl")
    subprocess.run(command, check=True)
    return library


class Socket:
    """A device whose power goes; `pledged` is the newest number that it called committed."""

    def __init__(self, folder: Path, shim: Path, *, synchronous: str = "FULL") -> None:
        self.state = folder / "state"
        self.device = Device(
            folder,
            Plan(
                state=str(self.state),
                per_s=100_000,
                pledge=True,
                synchronous=synchronous,
                outbox=OutboxConfig(commit_ms=0.5, max_pending_events=20, max_mb=1e3),
            ),
        )
        self._shim = shim
        self.pledged: dict[str, int] = {}

    def cut(self, after: int, *, chance: int = 0) -> None:
        """Run until the power goes at the `after`-th write or sync."""
        self.device.env |= {
            "LD_PRELOAD": str(self._shim),
            "POWERCUT_DIR": str(self.state),
            "POWERCUT_AFTER": str(after),
            "POWERCUT_SEED": str(chance),
        }
        assert self.device.start().wait(60) == CUT, self.device.output[-2000:]
        for epoch, seq in re.findall(r"^committed (\w+) (\d+)$", self.device.output, re.M):
            self.pledged[epoch] = int(seq)

    def lost(self) -> list[str]:
        """What was pledged and is not in the store, or not as it was written."""
        if not self.pledged:
            return []
        epoch, pledged = [*self.pledged.items()][-1]
        # Opened by the real thing, so that what a start repairs is repaired.
        Outbox(self.state, ["nobody"], device="gate-07").close()
        db = sqlite3.connect(self.state / "outbox.db")
        try:
            rows = {
                seq: checksum(seq, pipeline, payload) == crc
                and f'"epoch":"{epoch}"' in str(payload)
                for seq, pipeline, crc, payload in db.execute(
                    "SELECT seq, pipeline, crc, payload FROM event"
                )
            }
        finally:
            db.close()
        return [f"{epoch} {seq}" for seq in range(1, pledged + 1) if not rows.get(seq)]


@pytest.mark.timeout(240)
def test_what_was_committed_outlives_every_power_cut(tmp_path: Path, powercut: Path) -> None:
    rng = random.Random(2026)
    socket = Socket(tmp_path, powercut)
    for number in range(60):
        reach = rng.choice([30, 120, 600])
        socket.cut(rng.randint(1, reach), chance=rng.choice([0, number + 1]))
        assert not socket.lost(), f"after cut {number}"
    (pledged,) = socket.pledged.values()
    assert pledged > 1000, "the cuts came too early to show anything"


@pytest.mark.timeout(240)
def test_without_waiting_for_the_disk_the_same_cuts_do_lose(tmp_path: Path, powercut: Path) -> None:
    """So that the test above is known to be able to fail."""
    rng = random.Random(2026)
    losses = 0
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        socket = Socket(folder, powercut, synchronous="NORMAL")
        socket.cut(rng.randint(200, 600))
        losses += bool(socket.lost())
    assert losses >= 2  # the others fell right behind a checkpoint, which does wait
