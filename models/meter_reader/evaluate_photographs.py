"""Judge the meter reader on photographs: `EDGE_ASSETS=… python evaluate_photographs.py [--bundle]`.

Without `--bundle` the trained model is judged, with it every variant of the bundle, through edge.

$EDGE_ASSETS/meter_digits holds photographs of single digits by others. They are read here and
nowhere else: never trained on, never copied. Five crops, each at
its own shape and 100 px high, are laid side by side, and the strip is read as any other picture; a
digit is found when a box's centre lies in its crop, and read by the surest such box.

The label is what the file's name starts with. Plain digits are "3_…", "3.jpg", "3-1.jpg", "3.0_…".
NaN is a wheel between digits, or nothing readable at all. Names with two numbers ("0 - 0_1_…",
"5-10_5_…") disagree with themselves or carry another reader's answer: they are left out.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], tuple[Array, Array]]  # picture -> boxes [N, 4], classes [N], best first
CROP_HEIGHT = 100
STRIP = 5
MISSED = -1
ROUNDS = 3  # every photograph is seen in this many strips, with different neighbours
PLAIN = re.compile(r"(\d)(_.*|(-[12])?\.jpg|\.0_.*)")


def _sibling(name: str) -> ModuleType:
    """Load NAME.py that lies beside this file, once."""
    key = f"meter_reader_{name}"
    if key not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[key]


model = _sibling("model")


def photographs(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Files with their class, and the names that were left out."""
    kept, left_out = [], []
    for path in sorted(folder.glob("*.jpg")):
        if path.name.startswith("NaN"):
            kept.append((path, model.BETWEEN))
        elif match := PLAIN.fullmatch(path.name):
            kept.append((path, int(match[1])))
        else:
            left_out.append(path.name)
    return kept, left_out


def strips(
    files: list[tuple[Path, int]], rng: np.random.Generator
) -> list[tuple[Array, Array, list[int]]]:
    """Strips of STRIP crops: image uint8 BGR, the crops' edges along x (px), their classes."""
    order = rng.permutation(len(files))
    made = []
    for first in range(0, len(order), STRIP):
        crops, classes = [], []
        for index in order[first : first + STRIP]:
            with Image.open(files[index][0]) as opened:
                width = max(1, round(opened.width * CROP_HEIGHT / opened.height))
                crop = opened.convert("RGB").resize((width, CROP_HEIGHT), Image.Resampling.BILINEAR)
            crops.append(np.asarray(crop)[:, :, ::-1])
            classes.append(files[index][1])
        edges = np.cumsum([0] + [crop.shape[1] for crop in crops])
        made.append((np.concatenate(crops, axis=1), edges, classes))
    return made


def read(predict: Predict, files: list[tuple[Path, int]]) -> tuple[Counter[tuple[int, int]], int]:
    """How often a crop of a class was read as which class (or MISSED), and all further boxes."""
    rng = np.random.default_rng(0)
    pairs: Counter[tuple[int, int]] = Counter()
    extra = 0
    for _ in range(ROUNDS):
        for image, edges, classes in strips(files, rng):
            boxes, kinds = predict(image)
            middles = (boxes[:, 0] + boxes[:, 2]) / 2
            crop_of = np.searchsorted(edges, middles, side="right") - 1
            for index, kind in enumerate(classes):
                inside = np.flatnonzero(crop_of == index)  # the surest box comes first
                pairs[kind, int(kinds[inside[0]]) if len(inside) else MISSED] += 1
                extra += max(len(inside) - 1, 0)
    return pairs, extra


def shares(pairs: Counter[tuple[int, int]], extra: int) -> dict[str, float]:
    """Shares of the crops that were read right, missed, called between; further boxes a crop."""
    total = pairs.total()
    return {
        "right": sum(n for (kind, said), n in pairs.items() if said == kind) / total,
        "missed": sum(n for (_, said), n in pairs.items() if said == MISSED) / total,
        "called between": sum(n for (_, said), n in pairs.items() if said == model.BETWEEN) / total,
        "extra boxes per crop": extra / total,
    }


def judge(predict: Predict, files: list[tuple[Path, int]]) -> dict[str, float]:
    """The `shares` of what is read in these files."""
    return shares(*read(predict, files))


def confusions(pairs: Counter[tuple[int, int]]) -> Iterator[str]:
    """Lines that say what was read as what, the commonest first; "-" is missed."""
    names = {**dict(enumerate(model.RECIPE["labels"])), MISSED: "-"}
    for kind in sorted({kind for kind, _ in pairs}):
        wrong = [
            f"{names[said]} x{count}"
            for (true, said), count in pairs.most_common()
            if true == kind != said
        ]
        total = sum(count for (true, _), count in pairs.items() if true == kind)
        yield f"{names[kind]:8s} {total:4d} crops, wrong: {', '.join(wrong) or 'none'}"


def trained() -> Predict:
    """The recipe's own predict."""
    module = model.load()

    def predict(image: Array) -> tuple[Array, Array]:
        found = model.predict(module, image)
        return found["boxes"], found["classes"]

    return predict


def variants() -> Iterator[tuple[str, Predict]]:
    """Every variant of the bundle beside this file, on this machine's engines."""
    from edge import Bundle, Model

    bundle = Bundle.open(Path(__file__).with_name("bundle"))
    for variant in bundle.manifest.variants:
        with Model(bundle, variant=variant.name) as ready:

            def predict(image: Array, ready: Model = ready) -> tuple[Array, Array]:
                found = ready.predict(image)
                return found.boxes, found.classes

            yield variant.name, predict


def main() -> int:
    """Print the numbers for plain digits and for wheels between digits."""
    assets = os.environ.get("EDGE_ASSETS")
    if not assets:
        print("set EDGE_ASSETS to the folder that holds meter_digits/")
        return 2
    files, left_out = photographs(Path(assets) / "meter_digits")
    judged = variants() if "--bundle" in sys.argv[1:] else [("trained model", trained())]
    plain = [(path, kind) for path, kind in files if kind != model.BETWEEN]
    rest = [(path, kind) for path, kind in files if kind == model.BETWEEN]
    for who, predict in judged:
        for title, chosen in (("plain digits", plain), ("between (NaN)", rest)):
            print(f"{who}, {title}: {len(chosen)} photographs, each in {ROUNDS} strips of {STRIP}")
            pairs, extra = read(predict, chosen)
            for name, value in shares(pairs, extra).items():
                print(f"  {name:22s} {100 * value:6.2f} %")
            for line in confusions(pairs):
                print(f"  {line}")
    print(f"left out: {len(left_out)} with odd names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
