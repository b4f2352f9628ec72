"""The disk fills up, cannot be written, or gives back something else than was written."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import wait_until
from needs import missing, need_program

from edge.config import OutboxConfig
from edge.outbox import Outbox, reserve

from .stage import Stage, declared_of


@contextlib.contextmanager
def mounted(folder: Path, *, size_mb: int) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir()
    done = subprocess.run(
        [need_program("mount"), "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        missing(f"the right to mount a tmpfs ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.timeout(120)
def test_a_full_disk_keeps_what_was_before_and_declares_what_was_dropped(stage: Stage) -> None:
    """No ingest for a while: the outbox fills the disk; more comes; then space returns."""
    with mounted(stage.folder / "gate-07", size_mb=12) as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(2 << 20))
        device = stage.device(per_s=3000.0, block_s=0.0, truth="")
        wait_until(lambda: "cannot be written" in device.output, 30, "the disk is full")
        time.sleep(1.5)  # a live source goes on; what cannot wait is dropped
        filler.unlink()
        wait_until(lambda: "takes writes again" in device.output, 30)
        stage.ingest()
        device.finish()
        ledger = stage.reckon(device)
    assert ledger["captured"] == device.last_seq
    assert ledger["declared"] > 0, "drops have numbers, and are declared"
    reasons = {reason for (reason,) in stage.ask("SELECT DISTINCT reason FROM declared")}
    assert reasons == {"not written"}


@pytest.mark.timeout(120)
def test_a_device_that_is_killed_on_a_full_disk_starts_again_on_it(stage: Stage) -> None:
    with mounted(stage.folder / "gate-07", size_mb=12) as disk:
        device = stage.device(per_s=3000.0, block_s=0.0, truth="")
        wait_until(lambda: "cannot be written" in device.output, 30, "the disk is full")
        device.kill()
        free = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
        device.start()
        stage.ingest()
        wait_until(lambda: stage.stored() > 100, 20, "what is there is sent, full or not")
        (disk / "filler").unlink()
        device.finish()
        stage.reckon(device)


def test_a_state_dir_that_cannot_be_written_is_refused_in_words(stage: Stage) -> None:
    with mounted(stage.folder / "gate-07", size_mb=12) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        device = stage.device()
        assert device.wait(20) == 1
        assert "OutboxError" in device.output
        assert "Read-only file system" in device.output or "readonly" in device.output
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        device.start()
        stage.ingest()
        stage.more(10)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=False)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=False)
        device.finish()
        stage.reckon(device)


def test_the_second_agent_on_an_outbox_is_refused(stage: Stage) -> None:
    stage.ingest()
    device = stage.device()
    stage.more(10)
    twin = stage.device(start=False)
    twin.log = stage.folder / "twin.log"
    assert twin.start().wait(20) == 1
    assert "another agent runs on this state_dir" in twin.output
    device.finish()
    stage.reckon(device)


Harm = Callable[[Path, random.Random], None]


def zeroed(state: Path, _: random.Random) -> None:
    for file in (state / "outbox.db", state / "outbox.db-wal"):
        file.write_bytes(bytes(file.stat().st_size))


def zeroed_but_for_the_wal(state: Path, _: random.Random) -> None:
    file = state / "outbox.db"
    file.write_bytes(bytes(file.stat().st_size))


def emptied(state: Path, _: random.Random) -> None:
    (state / "outbox.db").write_bytes(b"")


def truncated(state: Path, rng: random.Random) -> None:
    file = state / "outbox.db"
    os.truncate(file, rng.randrange(1, max(2, file.stat().st_size)))
    wal_deleted(state, rng)


def garbage(state: Path, rng: random.Random) -> None:
    for file in (state / "outbox.db", state / "outbox.db-wal", state / "outbox.db-shm"):
        file.write_bytes(rng.randbytes(20_000))


def deleted(state: Path, _: random.Random) -> None:
    (state / "outbox.db").unlink()


def wal_deleted(state: Path, _: random.Random) -> None:
    (state / "outbox.db-wal").unlink(missing_ok=True)


def wal_truncated(state: Path, rng: random.Random) -> None:
    file = state / "outbox.db-wal"
    os.truncate(file, rng.randrange(file.stat().st_size))


def all_deleted(state: Path, _: random.Random) -> None:
    for file in (state / "outbox.db", state / "outbox.db-wal", state / "outbox.db-shm"):
        file.unlink(missing_ok=True)


def reserve_deleted(state: Path, _: random.Random) -> None:
    (state / reserve.FILE).unlink()


def reserve_and_store_spoilt(state: Path, rng: random.Random) -> None:
    """Nothing on the device knows what it owed then: all must be delivered before."""
    flipped_in(state / reserve.FILE, rng)
    deleted(state, rng)


def mark_deleted(state: Path, _: random.Random) -> None:
    (state / reserve.MARK).unlink()


def set_back(state: Path, _: random.Random) -> None:
    """The copy of yesterday is put in place of the store."""
    for file in (state / "outbox.db", state / "outbox.db-wal", state / "outbox.db-shm"):
        file.unlink(missing_ok=True)
    shutil.copy(state / "yesterday", state / "outbox.db")


def flipped_in(file: Path, rng: random.Random) -> None:
    """One bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


HARMS: list[Harm] = [
    zeroed,
    zeroed_but_for_the_wal,
    emptied,
    truncated,
    garbage,
    deleted,
    wal_deleted,
    wal_truncated,
    all_deleted,
    reserve_deleted,
    reserve_and_store_spoilt,
    mark_deleted,
    set_back,
]


@pytest.mark.timeout(240)
def test_whatever_happens_to_its_files_the_device_goes_on_and_all_is_explained(
    stage: Stage,
) -> None:
    """One harm after the other to the files of a device that was killed while it had a backlog."""
    rng = random.Random(2026)
    stage.ingest()
    device = stage.device(per_s=2000.0)
    state = Path(device.plan.state)
    stage.more(100)
    for harm in HARMS:
        stage.more(200)
        if harm is set_back:
            device.finish()
            shutil.copy(state / "outbox.db", state / "yesterday")
            device.revive()
            stage.more(500)
        if harm is reserve_and_store_spoilt:
            device.finish()
        else:
            device.kill()
        harm(state, rng)
        device.revive()
    stage.more(100)
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["declared"] > 0
    assert any(state.glob("outbox.db.damaged-*")), "a damaged store is kept for whoever asks"
    reasons = {reason for (reason,) in stage.ask("SELECT DISTINCT reason FROM declared")}
    assert reasons >= {"store lost", "store set back"}


@pytest.mark.timeout(240)
def test_flipped_bits_are_found_declared_and_never_sent(tmp_path: Path) -> None:
    """One bit a round anywhere in the store, many rounds, without processes: nothing that is sent
    differs from what was committed, and every other number is declared."""
    from builders import draft

    rng = random.Random(5)
    original = tmp_path / "original"
    outbox = Outbox(original, ["mqtt"], device="gate-07")
    for number in range(60):
        assert outbox.append(draft(f"{number:04}"), timeout_s=5)
    assert outbox.flush(10)
    committed = {e.seq: e.payload for e in outbox.lease("mqtt", 1000, timeout_s=0)}
    epoch = outbox.epoch
    outbox.confirm("mqtt", [(3, 9), (20, 21)])
    wait_until(lambda: not outbox._cursors.dirty)
    outbox.close()
    acknowledged = {*range(3, 10), 20, 21}
    found = 0
    for turn in range(100):
        state = tmp_path / f"flip-{turn}"
        shutil.copytree(original, state)
        flipped_in(state / "outbox.db", rng)
        outbox = Outbox(state, ["mqtt"], device="gate-07")
        sent = {e.seq: e.payload for e in outbox.lease("mqtt", 1000, timeout_s=0) if e.seq <= 60}
        outbox.append(draft("after"), timeout_s=5)
        assert outbox.flush(10)
        gaps = [e.payload for e in outbox.lease("mqtt", 1000, timeout_s=0)]
        gaps += [p for p in sent.values() if b'"gap"' in p]
        declared = declared_of(gaps)[epoch]
        if outbox.epoch == epoch:
            assert all(sent[seq] == committed[seq] for seq in sent), f"turn {turn}: a changed event"
            unexplained = set(committed) - set(sent) - acknowledged
            assert all(seq in declared for seq in unexplained), (turn, unexplained, declared)
        else:
            declared = declared_of([*gaps, *sent.values()])[epoch]
            assert all(seq in declared for seq in set(committed) - acknowledged), (turn, declared)
        found += bool(len(declared))
        outbox.close()
        shutil.rmtree(state)
    assert found > 33, "most flips hit something"


@pytest.mark.timeout(60)
def test_a_dead_sink_is_capped_and_what_goes_is_declared_lowest_priority_first(
    stage: Stage,
) -> None:
    limits = OutboxConfig(
        max_mb=0.2, commit_ms=5, resend_s=1.0, backlog_per_s=20_000, max_pending_events=2000
    )
    url = stage.broker.url
    stage.broker.kill()
    device = stage.device(per_s=2000.0, outbox=limits, truth="")
    state = Path(device.plan.state)
    sizes: list[int] = []

    def looked() -> int:
        db = sqlite3.connect(state / "outbox.db", timeout=10)
        try:
            size, last = db.execute("SELECT sum(length(payload)), max(seq) FROM event").fetchone()
        except sqlite3.OperationalError:
            return 0
        finally:
            db.close()
        sizes.append(size or 0)
        return last or 0

    wait_until(lambda: state.exists() and looked() > 3000, 30)
    assert max(sizes) <= 200_000 + 256 * 600, "never over the bound by more than a group"
    db = sqlite3.connect(state / "outbox.db", timeout=10)
    kept = dict(db.execute("SELECT priority, count(*) FROM event GROUP BY priority").fetchall())
    db.close()
    assert kept[2] > 3 * (kept.get(0, 0) + kept.get(1, 0)), kept
    stage.broker.start()
    assert stage.broker.url == url
    stage.ingest()
    device.finish()
    ledger = stage.reckon(device)
    assert ledger["declared"] > 1000
    assert {r for (r,) in stage.ask("SELECT DISTINCT reason FROM declared")} == {"store full"}
