"""Train both shuttle models: `python models/shuttle_anomaly/train.py`.

Writes pipeline.skops here and trees.skops into ../shuttle_trees, and judges both on the rows that
neither has seen.
"""

from __future__ import annotations

import importlib.util
import time
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent


def _sibling(name: str) -> ModuleType:
    """Load `name`.py of this folder by its location, leaving sys.path alone."""
    spec = importlib.util.spec_from_file_location(f"shuttle_anomaly_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


model = _sibling("model")


def main() -> None:
    """Train, judge and write both."""
    readings, classes = model.rows()
    training, test = model.split()
    network = MLPClassifier((16, 8), max_iter=40, n_iter_no_change=40, random_state=0)
    estimators = {
        HERE / "pipeline.skops": Pipeline([("scale", StandardScaler()), ("network", network)]),
        HERE.parent / "shuttle_trees" / "trees.skops": RandomForestClassifier(
            10, max_depth=8, random_state=0
        ),
    }
    for path, estimator in estimators.items():
        started = time.monotonic()
        estimator.fit(readings[training], classes[training])
        said = estimator.predict(readings[test])
        if path.name == "pipeline.skops":
            del network._optimizer  # its moments are of use to training alone
        skops.io.dump(estimator, path, compression=zipfile.ZIP_DEFLATED, compresslevel=9)
        wrong = int(np.sum(said != classes[test]))
        measured = {
            "precision": precision_score(classes[test], said),
            "recall": recall_score(classes[test], said),
            "F1": f1_score(classes[test], said),
        }
        figures = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
        print(f"{path.name}: {wrong} of {len(test):,} test rows wrong, {figures}")
        print(f"  {path.stat().st_size / 1000:.0f} kB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
