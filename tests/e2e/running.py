"""The real command in real processes, each bounded in time and held to the same manners."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker import wait_until

EDGE = [sys.executable, "-m", "edge"]
METER_ROI = "roi = [90, 100, 460, 160]"


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines that the command says of itself, without its log."""
        return [line for line in self.err.splitlines() if line.startswith(("edge: ", "Error: "))]


def edge(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
    program: list[str] | None = None,
) -> Ended:
    """Run a command to its end. Never a traceback, whatever it was given."""
    done = subprocess.run(
        [*(program or EDGE), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in ended.out + ended.err, ended.err
    return ended


class Running:
    """An `edge run` under way; its standard output and error go to files."""

    def __init__(self, config: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._files = [config.with_suffix(f".{name}") for name in ("out", "err")]
        with open(self._files[0], "ab") as out, open(self._files[1], "ab") as err:
            self.process = subprocess.Popen(
                [*EDGE, "run", str(config), *arguments],
                cwd=config.parent,
                env={**os.environ, **(env or {})},
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def children(self) -> list[int]:
        """The processes that it started."""
        pid = self.process.pid
        try:
            return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    @property
    def output(self) -> str:
        """Everything that it has written so far."""
        return "".join(file.read_text() for file in self._files)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 15.0) -> Ended:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> Ended:
        """Wait for the end."""
        self.process.wait(timeout_s)
        ended = Ended(self.process.returncode, *(file.read_text() for file in self._files))
        assert "Traceback" not in ended.out + ended.err, ended.err
        return ended

    def kill_tree(self) -> None:
        """SIGKILL for the parent and its child, as when the power goes."""
        pids = [self.process.pid, *self.children]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(10)
        for pid in pids[1:]:
            wait_until(lambda pid=pid: not alive(pid), what=f"{pid} ends")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wrist(*, windows: int = 0, speed: float = 1000.0, more: str = "") -> str:
    """A pipeline of rendered wrist samples: `speed` / 5 events a second."""
    return f"""
[[pipeline]]
name = "wrist"
bundle = "builtin:wrist_activity"
rule = []
{more}
source = {{ type = "demo-wrist", windows = {windows}, speed = {speed} }}
"""


def of(source: str, *, bundle: str = "builtin:wrist_activity", more: str = "") -> str:
    """A pipeline of any source; `source` is the inside of its table."""
    return f"""
[[pipeline]]
name = "one"
bundle = "{bundle}"
{more}
source = {{ {source} }}
"""


def jsonl(path: str = "events.jsonl") -> str:
    """A sink that appends to a file."""
    return f'\n[[sink]]\ntype = "jsonl"\npath = "{path}"\n'


def mqtt(url: str, more: str = "") -> str:
    """A sink at a broker."""
    return f'\n[[sink]]\ntype = "mqtt"\nurl = "{url}"\n{more}\n'


def write_config(folder: Path, *tables: str, device: str = "") -> Path:
    """An edge.toml of a device called gate-07."""
    path = folder / "edge.toml"
    path.write_text(f'[device]\nid = "gate-07"\n{device}\n' + "".join(tables))
    return path


def committed(folder: Path) -> int:
    """The newest seq in the outbox of an agent that has ended."""
    return int(_ask(folder, "SELECT value FROM meta WHERE key = 'last_seq'"))


def waiting(folder: Path) -> int:
    """How many events an agent that has ended left in its outbox."""
    return int(_ask(folder, "SELECT count(*) FROM event"))


def _ask(folder: Path, query: str) -> Any:
    db = sqlite3.connect(folder / "edge-state" / "outbox.db")
    try:
        return db.execute(query).fetchone()[0]
    finally:
        db.close()


def python_start_s() -> float:
    """How long the interpreter takes here and now until it runs a first line of anybody's."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - started_s
