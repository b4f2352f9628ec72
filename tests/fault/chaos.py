"""Kill whatever runs, at random, again and again, and account for every event afterwards.

    python tests/fault/chaos.py [--kills 1000] [--events 1000000] [--devices 2] [--ingests 1]

The last line is a JSON object: events, kills, stored, declared, unexplained, duplicates_removed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program, the tests' own modules are found like pytest finds them
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "fault"

from .stage import Stage

WEIGHTS = {"device": 5, "ingest": 3, "broker": 2}


def chaos(
    folder: Path,
    *,
    kills: int,
    events: int,
    seed: int,
    devices: int = 2,
    ingests: int = 1,
    say: Callable[[str], None] = lambda _: None,
    **plan: Any,
) -> dict[str, int]:
    """At least so many kills and events, then a quiet end and the reckoning."""
    rng = random.Random(seed)
    began_s = time.monotonic()
    done = dict.fromkeys(WEIGHTS, 0)
    with Stage(folder) as stage:
        fleet = [stage.ingest(f"ingest-{number}") for number in range(ingests)]
        gates = [stage.device(device=f"gate-{number:02}", **plan) for number in range(devices)]
        while sum(done.values()) < kills or stage.stored() < events:
            if sum(done.values()) >= kills:
                time.sleep(1)
                continue
            time.sleep(rng.expovariate(1.4) if rng.random() < 0.8 else 0.02)
            kind = rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
            pause_s = rng.choice([0, 0, 0.1, 0.5])
            if kind == "broker":
                stage.broker.kill()
                time.sleep(pause_s)
                stage.broker.start()
            else:
                victim = rng.choice(gates if kind == "device" else fleet)
                assert victim.alive, f"{victim.name} ended by itself:\n{victim.output[-3000:]}"
                victim.kill()
                time.sleep(pause_s)
                victim.start()
            done[kind] += 1
            if sum(done.values()) % 20 == 0:
                say(f"{time.monotonic() - began_s:.0f} s: {done}, {stage.stored()} stored")
        say("the end: everything may be delivered")
        for gate in gates:
            gate.terminate()
        for gate in gates:
            assert gate.wait(300) == 0, gate.output[-3000:]
        for ingest in fleet:
            ingest.terminate()
            assert ingest.wait(30) == 0, ingest.output[-3000:]
        ledger = stage.reckon(*gates)
    captured = sum(gate.last_seq for gate in gates)
    assert ledger["captured"] == captured, "the ledger and the devices count differently"
    return {
        "events": captured,
        "kills": sum(done.values()),
        "stored": ledger["stored"],
        "declared": ledger["declared"],
        "unexplained": ledger["unexplained"],
        "duplicates_removed": sum(day["duplicates"] for day in ledger["days"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--ingests", type=int, default=1)
    parser.add_argument("--per-s", type=float, default=1000.0, help="events a second and device")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = chaos(Path(folder), **vars(options), say=lambda line: print(line, flush=True))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
