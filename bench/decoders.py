"""What decoding costs: our YOLOX decoder against a plain loop, on YOLOX-nano's own output.

`EDGE_ASSETS=… python bench/decoders.py [--runs 100]`. The plain loop is the best one that we know
by hand (bench/plain_loop.py): both are run by turns on the same output. Also: what recognition
adds to loading a model.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import measuring
import numpy as np
from plain_loop import PlainLoop

import edge
from edge.recognize.bundles import recognize_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    assets = Path(os.environ.get("EDGE_ASSETS", ""))
    file = assets / "models" / "yolox_nano_coco_416.onnx"
    if not file.is_file():
        print("set EDGE_ASSETS to the folder that holds models/", file=sys.stderr)
        return 2
    start = time.perf_counter()
    recognition, bundle = recognize_file(file)
    recognised_s = time.perf_counter() - start
    loop = PlainLoop(str(file), score=recognition.thresholds.score)
    with edge.Model(bundle) as model:
        for name in ("dog.jpg", "bus.jpg"):
            shown = np.asarray(cv2.imread(str(assets / "images" / name)))
            tensor, geometry = model.preprocess(shown)
            raw = model.infer(tensor)
            assert geometry is not None
            place = (float(geometry.matrix[0, 0]), geometry.width, geometry.height)
            ours, theirs = model.postprocess(raw, geometry), loop.decode(raw["output"][0], *place)
            np.testing.assert_allclose(ours.boxes, theirs[0], atol=1e-2)
            took = measuring.by_turns(
                {
                    "ours": lambda raw=raw, there=geometry: model.postprocess(raw, there),
                    "plain": lambda table=raw["output"][0], at=place: loop.decode(table, *at),
                },
                rounds=runs,
                block_s=0.005,
            )
            row = measuring.paired(name, "decode", "ours", took["ours"], "plain", took["plain"])
            print(
                f"{name}: {len(ours)} boxes; ours {row['ours'] * 1e3:.0f} us, plain loop"
                f" {row['reference'] * 1e3:.0f} us, ratio {row['ratio']:.2f}"
            )
    print(f"recognition of {file.name}: {recognised_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
