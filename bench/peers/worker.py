"""One peer in an environment of its own: asked for its answers, then timed against a bare session.

    PYTHON bench/peers/worker.py NAME REQUEST.json

Writes one JSON object to standard output. Imports nothing of edge: the peer's environment has its
own versions of everything.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

# In the place of this folder, whose files are called as the peers are.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from measuring import by_turns  # noqa: E402


def main() -> None:
    name, request_file = sys.argv[1:]
    request = json.loads(Path(request_file).read_text())
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what a peer prints is not our answer
    cv2.setNumThreads(1)
    peer = importlib.import_module(f"peers.{name}").Peer(request["model"], request["threshold"])
    pictures = [cv2.imread(path) for path in request["pictures"]]
    answers = [peer.found(picture) for picture in pictures]
    turn = itertools.cycle(pictures)
    took = by_turns(
        {"bare": bare(request["model"]), "peer": lambda: peer(next(turn))},
        rounds=request["rounds"],
    )
    answer = {"version": peer.version, "answers": answers, **took}
    os.write(answer_to, json.dumps(answer).encode())


def bare(model: str) -> Any:
    """One call of a session on one thread, with a kept input."""
    session, feed = session_of(model), {}
    for given in session.get_inputs():
        feed[given.name] = np.zeros(given.shape, np.float32)
    return lambda: session.run(None, feed)


def session_of(model: str) -> Any:
    """As every user of ONNX Runtime here makes it: one thread, that does not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
