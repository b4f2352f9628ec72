"""The peers: a file each, run by worker.py in an environment of its own; README.md says how to
install them.

Invariant: a peer gets the same model file, pictures and threshold as everybody else, and its ratio
is to a bare session in its own process. Standard library alone, as the workers import this too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from answers import Found, difference
from measuring import Row, absent, paired

NAMES = ("supervision", "ultralytics", "model_api", "inference_models")
_HERE = Path(__file__).resolve().parent
_TIMEOUT_S = 240


def python_of(name: str) -> str | None:
    """The python that has a peer: $EDGE_PEER_<NAME>, .peers/<name>, or this one."""
    named = os.environ.get(f"EDGE_PEER_{name.upper()}")
    if named:
        return named
    own = _HERE.parent.parent / ".peers" / name / "bin" / "python"
    if own.exists():
        return str(own)
    return sys.executable if importlib.util.find_spec(name) else None


def rows(
    case: str,
    *,
    model: Path,
    pictures: Sequence[Path],
    expected: Sequence[Sequence[Found]],
    threshold: float,
    rounds: int,
) -> list[Row]:
    """A row a peer, those that are not installed too."""
    request = {
        "model": str(model), "pictures": [str(path) for path in pictures],
        "threshold": threshold, "rounds": rounds,
    }  # fmt: skip
    found = []
    for name in NAMES:
        if not (_HERE / f"{name}.py").exists():
            found.append(absent(case, name, "no adapter; see bench/README.md"))
            continue
        python = python_of(name)
        if python is None:
            found.append(absent(case, name, "not installed; see bench/README.md"))
            continue
        answer = _ask(python, name, request)
        if isinstance(answer, str):
            found.append(absent(case, name, answer))
            continue
        said = [[Found(tuple(box), score, label) for box, score, label in one]
                for one in answer["answers"]]  # fmt: skip
        wrong = difference(said, expected, threshold=threshold)
        found.append(
            paired(
                case, "one frame", answer["version"], answer["peer"], "bare session, its own",
                answer["bare"], answers=f"wrong: {wrong}" if wrong else "same",
            )
        )  # fmt: skip
    return found


def _ask(python: str, name: str, request: dict[str, Any]) -> Any:
    """The worker's answer, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "YOLO_CONFIG_DIR": folder}
        try:
            done = subprocess.run(
                [python, str(_HERE / "worker.py"), name, str(file)],
                env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"did not answer: {error}"
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"failed: {last[:120]}"
    return json.loads(done.stdout)
