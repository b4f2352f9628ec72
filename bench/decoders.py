"""What decoding costs: our YOLOX decoder against a plain loop, on YOLOX-nano's own output.

`EDGE_ASSETS=… python bench/decoders.py [--runs 300]`. The plain loop is the best one that we know
by hand: objectness first, then the boxes of what is left, then OpenCV's suppression. Both are run
by turns on the same output, and the ratio of the medians is what counts. Also: what recognition
adds to loading a model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edge
from edge.recognize.bundles import recognize_file
from edge.types import Array, Geometry


def plain_loop(output: Array, geometry: Geometry, min_score: float) -> list[Any]:
    """Boxes, scores and classes in source pixels, with nothing checked and nothing kept."""
    table = output[0]
    (rows,) = np.nonzero(table[:, 4] >= min_score)
    found = table[rows]
    scores = found[:, 5:] * found[:, 4:5]
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(rows)), classes]
    kept = best >= min_score
    found, rows, best, classes = found[kept], rows[kept], best[kept], classes[kept]
    cells, strides = GRID
    centres = (found[:, :2] + cells[rows]) * strides[rows, None]
    sizes = np.exp(found[:, 2:4]) * strides[rows, None]
    corner_size = np.concatenate([centres - sizes / 2, sizes], axis=1)
    keep = cv2.dnn.NMSBoxesBatched(
        corner_size.tolist(), best.tolist(), classes.tolist(), min_score, 0.5
    )
    boxes = corner_size[keep]
    boxes[:, 2:] += boxes[:, :2]
    scale = geometry.matrix[0, 0]
    limit = [geometry.width, geometry.height] * 2
    return [np.clip(boxes * scale, 0, limit), best[keep], classes[keep]]


def grid() -> tuple[Array, Array]:
    """Column and row of each cell of YOLOX at 416, and its stride."""
    places, strides = [], []
    for stride in (8, 16, 32):
        side = 416 // stride
        y, x = np.mgrid[0:side, 0:side]
        places.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full(side * side, stride))
    return np.concatenate(places), np.concatenate(strides)


GRID = grid()


def by_turns(runs: int, *actions: Callable[[], object]) -> list[float]:
    """Median microseconds of each, run by turns."""
    taken: list[list[float]] = [[] for _ in actions]
    for number in range(runs + 10):
        for times, action in zip(taken, actions, strict=True):
            start = time.perf_counter_ns()
            action()
            if number >= 10:
                times.append((time.perf_counter_ns() - start) / 1e3)
    return [statistics.median(times) for times in taken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    assets = Path(os.environ.get("EDGE_ASSETS", ""))
    file = assets / "models" / "yolox_nano_coco_416.onnx"
    if not file.is_file():
        print("set EDGE_ASSETS to the folder that holds models/", file=sys.stderr)
        return 2
    start = time.perf_counter()
    recognition, bundle = recognize_file(file)
    recognised_s = time.perf_counter() - start
    with edge.Model(bundle) as model:
        for name in ("dog.jpg", "bus.jpg"):
            shown = np.asarray(cv2.imread(str(assets / "images" / name)))
            tensor, geometry = model.preprocess(shown)
            raw = model.infer(tensor)
            assert geometry is not None
            output, score = raw["output"], recognition.thresholds.score
            ours = model.postprocess(raw, geometry)
            theirs = plain_loop(output, geometry, score)
            np.testing.assert_allclose(ours.boxes, theirs[0], atol=1e-2)
            one, other = by_turns(
                runs,
                lambda raw=raw, place=geometry: model.postprocess(raw, place),
                lambda out=output, place=geometry, least=score: plain_loop(out, place, least),
            )
            print(
                f"{name}: {len(ours)} boxes; ours {one:.0f} us, plain loop {other:.0f} us,"
                f" ratio {one / other:.2f}"
            )
    print(f"recognition of {file.name}: {recognised_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
