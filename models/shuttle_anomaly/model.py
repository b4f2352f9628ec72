"""Shuttle anomaly: normal or not, from one row of nine sensor readings.

Invariant: rows are read from the package river, never copied; training and test rows never mix.
The estimator sees readings as they come: what has to be scaled, the pipeline scales itself.
`models/shuttle_trees` uses this file too.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LABELS = ("normal", "anomaly")
TEST_SHARE = 0.3


@functools.cache
def rows() -> tuple[Array, Array]:
    """The 49,097 rows of river's shuttle data: readings float32 [N, 9], classes int64 [N].

    No two rows are alike, so that a random split keeps the test rows apart. The text is read
    directly: importing river would need pandas and more. FileNotFoundError without river.
    """
    found = importlib.util.find_spec("river")  # locates it, imports nothing
    folder = Path(found.origin).parent if found and found.origin else Path("river")
    path = folder / "datasets" / "shuttle.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: shuttle_anomaly is trained and judged on rows that the package river"
            " carries; install it with: pip install --no-deps river"
        )
    with gzip.open(path, "rt", encoding="utf-8") as text:
        table = np.loadtxt(text, delimiter=",", skiprows=1, dtype=np.int64)
    return table[:, :9].astype(np.float32), table[:, 9]


def split() -> tuple[Array, Array]:
    """Numbers of the rows to train on and of those to judge on."""
    count = len(rows()[0])
    order = np.random.default_rng(0).permutation(count)
    held = round(TEST_SHARE * count)
    return order[held:], order[:held]


def predict(module: Any, raw: Array) -> dict[str, Array]:
    """The reference: one row, float32 [1, 9] -> {"scores": float32 [2]}."""
    return {"scores": module.predict_proba(raw)[0].astype(np.float32)}


def calibration(count: int, seed: int) -> Iterator[Array]:
    """Rows of the training part."""
    readings, _ = rows()
    training, _ = split()
    for index in np.random.default_rng(seed).permutation(training)[:count]:
        yield readings[index][None]


def evaluation(count: int, seed: int) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Rows of the test part, normal ones and anomalies in turn, and {"class": int}.

    In the data 7 % are anomalies; a few hundred rows drawn as they come would hold too few.
    """
    readings, classes = rows()
    _, test = split()
    rng = np.random.default_rng(seed)
    by_class = [rng.permutation(test[classes[test] == kind]) for kind in range(len(LABELS))]
    for index in range(count):
        kind = index % len(LABELS)
        yield readings[by_class[kind][index // len(LABELS)]][None], {"class": kind}


def golden(count: int) -> Iterator[Array]:
    """Test rows, free to redistribute (CC BY 4.0)."""
    for raw, _ in evaluation(count, 1):
        yield raw


def metrics(predictions: list[dict[str, Any]], truths: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the anomalies that were found, and of the normal rows that were left alone."""
    said = np.array([int(np.argmax(prediction["scores"])) for prediction in predictions])
    true = np.array([truth["class"] for truth in truths])
    return {
        "found": float((said[true == 1] == 1).mean()),
        "calm": float((said[true == 0] == 0).mean()),
    }
