"""From the start of a process to its first result, and what it holds in memory.

    python bench/startup.py [--rounds 7] [--json]

`edge run` with a bundle, one picture and a JSON-lines sink, from exec to the first line in the
file, by turns with the plain loop from exec to its first printed line: YOLOX-nano, one thread each,
caches warm on both sides. Processor time is told too: a busy machine stretches the wall clock's.
Memory is that of parent and child after twenty frames, on one core, since a second lane has
activations of its own: resident, and proportional (what is shared counts by share). Needs
EDGE_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring import Row, absent, paired
from subjects import assets

from edge.recognize.bundles import recognize_file, save

_PLAIN = Path(__file__).with_name("plain_loop.py")
_TICKS = os.sysconf("SC_CLK_TCK")
_TIMEOUT_S = 60.0
_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_CONFIG = """
[device]
id = "bench"
[[pipeline]]
name = "one"
bundle = "{bundle}"
threads = 1
rule = []
source = {{ type = "images", path = "{picture}", loop = {loop} }}
{more}
[[sink]]
type = "jsonl"
path = "events.jsonl"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = rows(rounds=arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    for row in found:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def rows(*, rounds: int) -> list[Row]:
    """Start and memory; one row of absence without EDGE_ASSETS."""
    folder = assets()
    if folder is None:
        return [absent("start", "edgewright", "EDGE_ASSETS is not set")]
    model = folder / "models" / "yolox_nano_coco_416.onnx"
    picture = folder / "images" / "dog.jpg"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        save(recognize_file(model)[1], work / "bundle")
        return [*_starts(work, model, picture, rounds), *_memory(work, model, picture)]


# ---- the start


def _starts(work: Path, model: Path, picture: Path, rounds: int) -> list[Row]:
    sides = {"a bundle": work / "bundle", "a model file": model}
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], **{side: [] for side in sides}}
    for number in range(rounds + 1):
        pass_ = {"plain": _plain_s(model, picture)}
        pass_ |= {side: _edge_s(work / side, path, picture) for side, path in sides.items()}
        if number:  # the first one makes byte code and caches
            for side, took in pass_.items():
                taken[side].append(took)
    found = []
    for index, metric in enumerate(("start to first result", "start, processor time")):
        plain = [took[index] for took in taken["plain"]]
        for side in sides:
            ours = [took[index] for took in taken[side]]
            found.append(
                paired(f"yolox_nano as {side}", metric, "edgewright", ours, "plain loop", plain,
                       unit="s")
            )  # fmt: skip
    return found


def _plain_s(model: Path, picture: Path) -> tuple[float, float]:
    began = time.perf_counter()
    with _plain(model, picture) as process:
        assert process.stdout is not None
        process.stdout.readline()
        took = time.perf_counter() - began
        return took, _processor_s([process.pid])


def _edge_s(work: Path, bundle: Path, picture: Path) -> tuple[float, float]:
    events = work / "events.jsonl"
    events.unlink(missing_ok=True)
    began = time.perf_counter()
    with _running(work, bundle, picture, loop=False) as process:
        while not (events.exists() and events.stat().st_size):
            _check(process, began)
            time.sleep(0.001)
        took = time.perf_counter() - began
        return took, _processor_s(_family(process.pid))


# ---- memory


def _memory(work: Path, model: Path, picture: Path) -> list[Row]:
    with _plain(model, picture, one_core=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        plain = _memory_mb(process.pid)
    began, events = time.perf_counter(), work / "bundle-loop" / "events.jsonl"
    with _running(work / "bundle-loop", work / "bundle", picture, loop=True) as process:
        while not (events.exists() and events.read_bytes().count(b"\n") >= 20):
            _check(process, began)
            time.sleep(0.05)
        parent, child = (_memory_mb(pid) for pid in _family(process.pid)[:2])
    figures = [
        ("memory, agent, resident", child[0], plain[0]),
        ("memory, agent and parent, resident", child[0] + parent[0], plain[0]),
        ("memory, agent and parent, proportional", child[1] + parent[1], plain[1]),
        ("memory, parent, proportional", parent[1], plain[1]),
    ]
    return [
        paired("yolox_nano as a bundle", metric, "edgewright", [ours], "plain loop", [theirs],
               unit="MB")
        for metric, ours, theirs in figures
    ]  # fmt: skip


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional, in 10^6 bytes."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        values[name] = int(value.split()[0]) * 1024 / 1e6
    return values["Rss"], values["Pss"]


# ---- processes


@contextmanager
def _plain(
    model: Path, picture: Path, *, one_core: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(_PLAIN), str(model), str(picture), "--stay"],
        env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        preexec_fn=_to_one_core if one_core else None,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _running(
    work: Path, bundle: Path, picture: Path, *, loop: bool
) -> Iterator[subprocess.Popen[bytes]]:
    work.mkdir(exist_ok=True)
    config = work / "edge.toml"
    config.write_text(
        _CONFIG.format(
            bundle=bundle, picture=picture, loop=str(loop).lower(),
            more="max_fps = 20" if loop else "",
        )
    )  # fmt: skip
    with open(work / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge", "run", str(config)],
            cwd=work, env=_ENVIRONMENT, stdout=log, stderr=log,
            preexec_fn=_to_one_core if loop else None,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _to_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _check(process: subprocess.Popen[bytes], began: float) -> None:
    if process.poll() not in (None, 0) or time.perf_counter() - began > _TIMEOUT_S:
        raise SystemExit(f"edge run gave no event; exit code {process.poll()}: see its log")


def _family(pid: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *map(int, children)]


def _processor_s(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended in the meantime
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


if __name__ == "__main__":
    main()
