"""Real processes on one stage: a broker that keeps nothing, ingests, devices; and the reckoning.

Every process can be killed and started again. The reckoning trusts nobody alone: the ledger must
explain everything, every stored payload must be what the device's own file says byte for byte, and
the events of each of a device's lives must be there without a hole.
"""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from broker import Mosquitto, wait_until

from edge.config import OutboxConfig
from edge.ranges import Ranges

from .device import Plan

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
"""Processes run the code beside these tests, wherever they are started."""
FLEET = [sys.executable, "-m", "edge.fleet"]
DEVICE = [sys.executable, str(Path(__file__).with_name("device.py"))]
BRISK = OutboxConfig(resend_s=1.0, backlog_per_s=20_000, max_pending_events=2000)
"""What is otherwise waited for, in a hurry."""


class Program:
    """A process that is killed and started again; its output goes to `<name>.log`."""

    def __init__(
        self, folder: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.env = dict(env or {})
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**ENV, **self.env},
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def terminate(self) -> None:
        """Ask it to end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.output[-3000:]}") from None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Device(Program):
    """One device.py; `plan` may be changed between two starts."""

    def __init__(self, folder: Path, plan: Plan, name: str = "") -> None:
        name = name or plan.device
        self.file = folder / f"{name}.json"
        super().__init__(folder, name, [*DEVICE, str(self.file)])
        self.plan = plan
        self._lives = 0

    def start(self) -> Self:
        self.file.write_bytes(msgspec.json.encode(self.plan))
        self._lives = self.output.count("run ")
        return super().start()

    def terminate(self) -> None:
        """Ask it to end, as soon as it listens to that."""
        self._born()
        super().terminate()

    def finish(self, timeout_s: float = 60.0) -> None:
        """Let it deliver everything and end."""
        self.terminate()
        assert self.wait(timeout_s) == 0, self.output[-3000:]

    def revive(self) -> Self:
        """Start it again, and wait until its outbox is open."""
        self.start()
        self._born()
        return self

    def _born(self) -> None:
        wait_until(lambda: self._lived or not self.alive, 20, f"{self.name} lives")
        assert self._lived, self.output[-3000:]

    @property
    def _lived(self) -> bool:
        """Whether its outbox was open since the last start."""
        return self.output.count("run ") > self._lives

    @property
    def last_seq(self) -> int:
        """What it said at its end."""
        return int(re.findall(r"^ended \w+ (\d+)$", self.output, re.M)[-1])


class Stage:
    """A broker, and what is put beside it; everything ends with it."""

    def __init__(self, folder: Path, *, broker: Mosquitto | None = None) -> None:
        self.folder = folder
        self.broker = broker or Mosquitto(folder)
        self.programs: list[Program] = []

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for program in self.programs:
            program.kill()
        self.broker.kill()

    def ingest(self, name: str = "ingest", *, url: str = "", more: Sequence[str] = ()) -> Program:
        """An ingest on the stage's one database."""
        command = ["ingest", "--broker", url or self.broker.url, "--db", str(self.db), *more]
        program = Program(self.folder, name, [*FLEET, *command])
        self.programs.append(program)
        program.start()
        before = program.output.count("listening")
        wait_until(lambda: program.output.count("listening") > before, 20, "the ingest listens")
        return program

    def plan(self, **changes: Any) -> Plan:
        """A device at this broker whose truth is kept; see Plan."""
        device = changes.pop("device", "gate-07")
        return Plan(
            **{
                "device": device,
                "state": str(self.folder / device),
                "url": self.broker.url,
                "truth": str(self.folder / f"{device}.jsonl"),
                "outbox": BRISK,
                **changes,
            }
        )

    def device(self, *, start: bool = True, **changes: Any) -> Device:
        """A device at this broker, started."""
        device = Device(self.folder, self.plan(**changes))
        self.programs.append(device)
        return device.start() if start else device

    @property
    def db(self) -> Path:
        return self.folder / "fleet.db"

    def stored(self) -> int:
        """How many events the database holds now."""
        try:
            return int(self.ask("SELECT coalesce(sum(high - low + 1), 0) FROM stored")[0][0])
        except sqlite3.OperationalError:  # not made yet
            return 0

    def more(self, count: int, timeout_s: float = 40.0) -> None:
        """Wait until so many more events are stored than now."""
        target = self.stored() + count
        wait_until(
            lambda: self.stored() >= target, timeout_s, f"{count} more events than {target - count}"
        )

    def ask(self, query: str, *values: object) -> list[Any]:
        """Read the database beside its owners."""
        db = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=20)
        try:
            return db.execute(query, values).fetchall()
        finally:
            db.close()

    def ledger(self) -> dict[str, Any]:
        """What `edge fleet ledger --json` says."""
        done = subprocess.run(
            [*FLEET, "ledger", "--db", str(self.db), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=ENV,
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if answer["unexplained"] else 0), done.stderr
        return answer

    def reckon(self, *devices: Device) -> dict[str, Any]:
        """Hold the database against the ledger and against what the devices know; the ledger."""
        ledger = self.ledger()
        assert ledger["unexplained"] == 0, ledger["devices"]
        assert ledger["captured"] == ledger["stored"] + ledger["declared"]
        for device in devices:
            if device.plan.truth:
                self._reckon_one(device, ledger)
        return ledger

    def _reckon_one(self, device: Device, ledger: dict[str, Any]) -> None:
        name = device.plan.device
        truth = lines_of(Path(device.plan.truth))
        stored = {
            (epoch, seq): payload
            for epoch, seq, payload in self.ask(
                "SELECT epoch, seq, payload FROM event WHERE device = ?", name
            )
        }
        changed = [key for key in stored.keys() & truth.keys() if stored[key] != truth[key]]
        assert not changed, f"{name}: stored bytes are not those that were committed: {changed[:9]}"
        declared = declared_of(stored.values())
        lost = [key for key in truth.keys() - stored.keys() if key[1] not in declared[key[0]]]
        assert not lost, f"{name}: committed, and neither stored nor declared: {sorted(lost)[:9]}"
        captured = {a["epoch"]: a["captured"] for a in ledger["devices"] if a["device"] == name}
        last: collections.Counter[str] = collections.Counter()
        for epoch, seq in truth:
            last[epoch] = max(last[epoch], seq)
        for epoch, seq in last.items():
            assert captured[epoch] >= seq, (name, epoch, captured, seq)
        if not any(len(ranges) for ranges in declared.values()):
            assert_without_holes(stored.values())


def lines_of(file: Path) -> dict[tuple[str, int], bytes]:
    """The events of a JSON lines file by epoch and seq; one number never stands for two."""
    events: dict[tuple[str, int], bytes] = {}
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:  # the last line before a kill
            continue
        key = (event["epoch"], event["seq"])
        assert events.setdefault(key, line) == line, f"{key} stands for two events"
    return events


def declared_of(payloads: Any) -> collections.defaultdict[str, Ranges]:
    """What gap events declare lost, by epoch."""
    declared: collections.defaultdict[str, Ranges] = collections.defaultdict(Ranges)
    for payload in payloads:
        event = json.loads(payload)
        if event["kind"] == "gap":
            for low, high in event["data"]["ranges"]:
                declared[event["data"]["epoch"]].add(low, high)
    return declared


def assert_without_holes(payloads: Any) -> None:
    """Each life of a device numbered its events from 0; a kill costs only the end of the row."""
    lives: collections.defaultdict[str, set[int]] = collections.defaultdict(set)
    for payload in payloads:
        event = json.loads(payload)
        if event["kind"] == "detections":
            life, _, number = event["data"]["labels"][0].partition("/")
            lives[life].add(int(number))
    for life, numbers in lives.items():
        assert numbers == {*range(len(numbers))}, f"life {life} has holes"
