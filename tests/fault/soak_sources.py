"""Four cameras and four sensors in one `edge run`, with faults at random, and the accounts of it.

    python tests/fault/soak_sources.py [--minutes 30] [--seed 1] [--table]

Every source has its own clockwork of faults, from one seed. At the end all are silenced, so that
nothing is under way, and then every frame and every event must be accounted for. The last line is
a JSON object: see `Soak.result`. `--table` prints before it how long it took until each kind of
fault was seen in the state on the wire, which is sent once a second, and until it was mended there.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # as a program, the tests' own modules are found like pytest finds them
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "fault"

from broker import Mosquitto, Subscriber, wait_until
from e2e.running import Running, committed, write_config
from e2e.running import mqtt as mqtt_sink

from .soak_parts import PARTS, Part, pipeline
from .stage import Stage

PAUSE_S = (3.0, 15.0)
HOLD_S = (0.5, 8.0)
WARM_UP = 0.25
"""Of the time, what is left out of the slope of the memory."""

# ---- what is seen of the agent


class Observer:
    """Reads the state and telemetry of the agent from the broker, and its size from /proc."""

    def __init__(self, broker: Mosquitto, agent: Running) -> None:
        self._subscriber = Subscriber(broker.port, "edge/v1/gate-07/+")
        wait_until(lambda: agent.children, 20, "the parent has started the agent")
        self.pid = agent.children[0]
        self.sizes: list[tuple[float, float, int, int]] = []
        """Seconds, megabytes, threads, descriptors."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self.states: dict[str, str] = {}
        self.telemetry: dict[str, Any] = {}

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            for topic_, retained, payload in self._subscriber.messages:
                if topic_.endswith("/state"):
                    pipelines = json.loads(payload).get("pipelines", {})
                    self.states = {n: p["source"]["state"] for n, p in pipelines.items()}
                elif topic_.endswith("/telemetry") and not retained:
                    self.telemetry = json.loads(payload)
            self._subscriber.messages.clear()
            if not self.sizes or time.monotonic() - self.sizes[-1][0] >= 1:
                self.sizes.append((time.monotonic(), *self._size()))

    def _size(self) -> tuple[float, int, int]:
        proc = Path(f"/proc/{self.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        threads = len(list((proc / "task").iterdir()))
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, len(os.listdir(proc / "fd"))

    def close(self) -> None:
        self._done.set()
        self._thread.join(5)
        self._subscriber.__exit__(None, None, None)


class Soak:
    """A device under faults, from its start to the reckoning."""

    def __init__(self, folder: Path, *, seconds: float, seed: int) -> None:
        self._folder = folder
        self._seconds = seconds
        self._seed = seed
        self._done = threading.Event()
        self.faults: collections.Counter[str] = collections.Counter()
        self.times: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {}

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        parts = {}
        for name, make in PARTS.items():
            (self._folder / name).mkdir()
            parts[name] = make(self._folder / name)
        with Stage(self._folder) as stage:
            config = write_config(
                self._folder,
                *(pipeline(name, part) for name, part in parts.items()),
                mqtt_sink(stage.broker.url, 'confirm = "ingest"'),
                "\n[outbox]\nresend_s = 1.0\n",
                device="telemetry_s = 1.0\ndrain_s = 60.0",
            )
            ingest = stage.ingest()
            agent = Running(config)
            observer = Observer(stage.broker, agent)
            try:
                self._all_run(observer)
                self._hurt(parts, observer, stage, agent, say)
                self._all_run(observer)
                pipelines = self._silenced(parts, observer)
            finally:
                self._done.set()
                for part in parts.values():
                    part.silence()
                observer.close()
                ended = agent.end(timeout_s=90) if agent.process.poll() is None else agent.wait()
            assert ended.code == 0, ended.err[-3000:]
            assert "starting it again" not in ended.err, "the agent died on the way"
            assert "s3cret" not in ended.out + ended.err
            ingest.terminate()
            assert ingest.wait(30) == 0
            ledger = stage.reckon()
            assert "s3cret" not in str(stage.ask("SELECT payload FROM event WHERE kind = 'alarm'"))
        return self.result(observer, pipelines, ledger, committed(self._folder))

    def _all_run(self, observer: Observer) -> None:
        wait_until(
            lambda: (
                len(observer.states) == len(PARTS)
                and all(state == "running" for state in observer.states.values())
            ),
            60,
            f"all run: {observer.states}",
        )

    def _hurt(
        self,
        parts: dict[str, Part],
        observer: Observer,
        stage: Stage,
        agent: Running,
        say: Callable[[str], None],
    ) -> None:
        threads = [
            threading.Thread(target=self._faults, args=(name, part, observer), daemon=True)
            for name, part in parts.items()
        ]
        for thread in threads:
            thread.start()
        began_s = time.monotonic()
        told_s = began_s
        while time.monotonic() - began_s < self._seconds:
            time.sleep(1)
            assert agent.process.poll() is None, agent.output[-3000:]
            if time.monotonic() - told_s >= 30:
                told_s = time.monotonic()
                _, megabytes, count, files = observer.sizes[-1]
                say(
                    f"{told_s - began_s:.0f} s: {self.faults.total()} faults, {stage.stored()}"
                    f" events stored, {megabytes:.0f} MB, {count} threads, {files} descriptors"
                )
        self._done.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a fault was not mended"

    def _faults(self, name: str, part: Part, observer: Observer) -> None:
        rng = random.Random(f"{self._seed} {name}")
        while not self._done.wait(rng.uniform(*PAUSE_S)):
            what = rng.choice(sorted(part.faults))
            hold_s = rng.uniform(*HOLD_S)
            hurt, mend = part.faults[what]
            hurt()
            noticed_s = self._until(lambda: observer.states.get(name) == "lost", hold_s)
            if noticed_s is not None:
                self._done.wait(max(0.0, hold_s - noticed_s))
            mend()
            recovered_s = None
            if noticed_s is not None:
                recovered_s = self._until(lambda: observer.states.get(name) == "running", 60.0)
            self.faults[f"{name}: {what}"] += 1
            self.times.setdefault((name, what), []).append((noticed_s, recovered_s))

    @staticmethod
    def _until(true: Callable[[], bool], timeout_s: float) -> float | None:
        began_s = time.monotonic()
        while not true():
            if time.monotonic() - began_s > timeout_s:
                return None
            time.sleep(0.05)
        return time.monotonic() - began_s

    def _silenced(self, parts: dict[str, Part], observer: Observer) -> dict[str, Any]:
        """The counters when nothing is under way any more: two telemetries that say the same."""
        for part in parts.values():
            part.silence()

        def counters() -> dict[str, Any]:
            keys = ("received", "frames", "drops", "bad_frames", "idle", "source")
            return {
                name: {key: one.get(key, 0) for key in keys}
                for name, one in observer.telemetry.get("pipelines", {}).items()
            }

        last: list[dict[str, Any]] = [{}]

        def stands_still() -> bool:
            before, last[0] = last[0], counters()
            time.sleep(2.5)
            return before == counters() != {} and before == last[0]

        wait_until(stands_still, 60, "nothing is under way")
        return counters()

    def result(
        self,
        observer: Observer,
        pipelines: dict[str, Any],
        ledger: dict[str, Any],
        last_seq: int,
    ) -> dict[str, Any]:
        """`memory_mb_per_h` is the slope after the warm-up. Each pipeline's `unaccounted` is
        received - frames - drops - bad_frames - idle: what became of each frame that the source
        gave; and of what reached the source, samples or pictures, all is in its own counts."""
        sizes = np.array(observer.sizes)
        warm = sizes[int(len(sizes) * WARM_UP) :]
        hours = (warm[:, 0] - warm[0, 0]) / 3600
        slope = float(np.polyfit(hours, warm[:, 1], 1)[0])
        for one in pipelines.values():
            one["unaccounted"] = one["received"] - sum(
                one[key] for key in ("frames", "drops", "bad_frames", "idle")
            )
            source = one["source"]
            if "pictures" in source:
                one["unaccounted"] += source["pictures"] - source["dropped"] - one["received"]
            else:
                one["unaccounted"] += source["samples"] - sum(
                    source[key] for key in ("used", "late", "duplicate", "bad")
                )
        return {
            "seed": self._seed,
            "minutes": round(self._seconds / 60, 1),
            "faults": self.faults.total(),
            "memory_mb_per_h": round(slope, 1),
            "memory_mb": [round(float(warm[0, 1]), 1), round(float(warm[-1, 1]), 1)],
            "threads": [int(warm[0, 2]), int(sizes[-1, 2])],
            "descriptors": [int(warm[0, 3]), int(sizes[-1, 3])],
            "pipelines": pipelines,
            "unaccounted": sum(abs(one["unaccounted"]) for one in pipelines.values()),
            "events": last_seq,
            "stored": ledger["stored"],
            "declared": ledger["declared"],
        }

    def table(self) -> Iterator[str]:
        """A line a source and fault: how often, medians of seconds until noticed and mended."""
        yield "| source | fault | times | noticed | recovered |"
        yield "| --- | --- | --- | --- | --- |"
        for (name, what), times in sorted(self.times.items()):
            columns = [
                _median([one[column] for one in times if one[column] is not None])
                for column in (0, 1)
            ]
            yield f"| {name} | {what} | {len(times)} | {columns[0]} | {columns[1]} |"


def _median(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    return f"{statistics.median(known):.1f} s ({len(known)}×)" if known else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), seconds=options.minutes * 60, seed=options.seed)
        result = soak.run(lambda line: print(line, flush=True))
    if options.table:
        print(*soak.table(), sep="\n")
    print(json.dumps(result))
    sys.exit(
        result["unaccounted"] != 0 or result["stored"] + result["declared"] != result["events"]
    )


if __name__ == "__main__":
    main()
