"""Is the picture any good: false alarms on photographs that were changed harmlessly, true ones on
photographs that were spoiled, and what a look costs.

`EDGE_ASSETS=… python bench/quality.py [--scenes 6]`. Scenes are the demo's counter, the photographs
in EDGE_ASSETS and those that scikit-image brings, at 960 x 540. Each is looked at once a
second with the default settings: a minute to learn it, then every change for eight seconds and the
scene itself for eight. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.motion import MotionConfig, MotionGate
from edge.quality import QualityConfig
from edge.quality.pictures import PictureQuality
from edge.sources.synthetic import DemoMeter
from edge.types import Array, Frame

Change = Callable[[Array], Array]
WIDTH, HEIGHT = 960, 540
RNG = np.random.default_rng(0)
GRAIN = [RNG.normal(0, 16, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(6)]
S = 10**9


def noisy(picture: Array, sigma: float = 2.0) -> Array:
    grain = np.roll(GRAIN[RNG.integers(len(GRAIN))], int(RNG.integers(HEIGHT)), 0)
    return cv2.add(picture, cv2.multiply(grain, sigma / 16), dtype=cv2.CV_8U)


def light(gain: float, offset: float = 0.0, noise: float = 2.0) -> Change:
    return lambda p: noisy(cv2.convertScaleAbs(p, alpha=gain, beta=offset), noise)


def gamma(power: float) -> Change:
    table = (255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    return lambda p: noisy(cv2.LUT(p, table))


def jpeg(quality: int, before: Change = noisy) -> Change:
    def change(picture: Array) -> Array:
        done = cv2.imencode(".jpg", before(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(done, cv2.IMREAD_COLOR))

    return change


def shifted(x: float, y: float = 0.0, degrees: float = 0.0) -> Change:
    """By shares of the width and height; what comes into the picture is its mirror image."""
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, 1)
    matrix[:, 2] += (x * WIDTH, y * HEIGHT)
    size = (WIDTH, HEIGHT)
    return lambda p: noisy(cv2.warpAffine(p, matrix, size, borderMode=cv2.BORDER_REFLECT))


def sway(picture: Array) -> Array:
    return shifted(*RNG.normal(0, 0.002, 2), float(RNG.normal(0, 0.1)))(picture)


def blurred(pixels_of_1080p: float, after: Change = noisy) -> Change:
    sigma = pixels_of_1080p * WIDTH / 1920
    return lambda p: after(cv2.GaussianBlur(p, (0, 0), sigma))


def thing(share: float, other: Array) -> Change:
    """Something else covers a share of the picture."""
    width, height = (round(side * share**0.5) for side in (WIDTH, HEIGHT))

    def change(picture: Array) -> Array:
        here = picture.copy()
        here[-height:, 40 : 40 + width] = cv2.resize(other, (width, height))
        return noisy(here)

    return change


def infrared(picture: Array) -> Array:
    """Another spectrum, and a lamp of its own in the middle."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    lamp = 1.1 * np.exp(-((x / 1.2) ** 2 + (y / 1.4) ** 2))
    grey = (picture @ np.array([-0.1, 0.5, 0.6], np.float32)).clip(0, 255) * lamp
    return noisy(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2), 4)


def shadow(picture: Array) -> Array:
    mask = np.ones((HEIGHT, WIDTH), np.float32)
    edge = np.array([[0, 0], [WIDTH // 2, 0], [WIDTH // 3, HEIGHT], [0, HEIGHT]])
    cv2.fillPoly(mask, [edge], 0.45)
    mask = cv2.GaussianBlur(mask, (0, 0), 2)[..., None]
    return noisy((picture * mask).astype(np.uint8))


def rain(picture: Array) -> Array:
    wet = picture.copy()
    for x, y in RNG.integers(0, (WIDTH, HEIGHT), (400, 2)).tolist():
        cv2.line(wet, (x, y), (x + 3, y + 25), (200, 200, 200), 1)
    return noisy(cv2.addWeighted(picture, 0.6, wet, 0.4, 0))


def harmless(other: Array) -> dict[str, Change]:
    return {
        "noise 6": light(1, noise=6), "light × 1.6": light(1.6), "light × 0.5": light(0.5),
        "dusk: light × 0.25": light(0.25, noise=3), "night: × 0.25, noise 10": light(0.25, 0, 10),
        "gamma 0.5": gamma(0.5), "gamma 2": gamma(2), "fog 0.5": light(0.5, 105),
        "fog 0.75": light(0.25, 157), "JPEG 40": jpeg(40), "JPEG 15": jpeg(15),
        "night in JPEG 25": jpeg(25, light(0.25, 0, 10)), "infrared": infrared, "sway": sway,
        "a thing on 20 %": thing(0.2, other), "a thing on 40 %": thing(0.4, other), "rain": rain,
        "a shadow": shadow, "denoised": lambda p: cv2.bilateralFilter(p, 7, 25, 5),
    }  # fmt: skip


def harmful(other: Array) -> dict[str, tuple[str, Change]]:
    return {
        **{f"blur of {s} px": ("blurred", blurred(s)) for s in (2, 3, 5, 8, 16)},
        "blur of 4 px at night": ("blurred", blurred(4, light(0.4, noise=6))),
        "blur of 4 px in JPEG 40": ("blurred", blurred(4, jpeg(40))),
        **{f"moved by {d:.0%}": ("moved", shifted(d, d / 2)) for d in (0.03, 0.05, 0.08, 0.15)},
        "turned by 5°": ("moved", shifted(0, 0, 5)),
        "turned by 12°": ("moved", shifted(0, 0, 12)),
        "another scene": ("moved", lambda _: noisy(other)),
        "paper": ("covered", lambda p: noisy(np.full_like(p, 180))),
        "tape": ("covered", lambda p: noisy(np.full_like(p, 60), 4)),
        "spray": ("covered", blurred(40, light(0.3, 84, 3))),
        "a cap, with gain": ("dark", lambda p: noisy(np.full_like(p, 8), 6)),
        "light × 0.1": ("dark", light(0.1)),
        "light × 8": ("overexposed", light(8, 80)),
    }


def scenes() -> Iterator[tuple[str, Array]]:
    yield "the demo's counter", _cut(DemoMeter(DemoMeter.Config(), name="m").picture(5))
    assets = Path(os.environ.get("EDGE_ASSETS", "")) / "images"
    files = [assets / name for name in ("cat_1080p.jpg", "bus.jpg", "dog.jpg", "fd_3.jpg")]
    found = importlib.util.find_spec("skimage")
    if found and found.origin:
        names = (
            "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png"
            " gravel.png motorcycle_left.png rocket.jpg moon.png retina.jpg page.png"
        )
        files += [Path(found.origin).parent / "data" / name for name in names.split()]
    for file in files:
        picture = cv2.imread(str(file))
        if picture is not None:
            yield file.name, _cut(np.asarray(picture))


def _cut(picture: Array) -> Array:
    """The middle of it, 16:9."""
    height, width = picture.shape[:2]
    high = min(height, round(width * 9 / 16))
    top = (height - high) // 2
    return cv2.resize(picture[top : top + high], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


class Watched:
    """One scene before one camera, looked at once a second."""

    def __init__(self, picture: Array) -> None:
        self.picture = picture
        self.quality = PictureQuality(QualityConfig(), live=True)
        self.second = 0
        self.shows(sway, 65)

    def shows(self, change: Change, seconds: int) -> list[str]:
        began = []
        for _ in range(seconds):
            self.second += 1
            told = self.quality.look(change(self.picture), self.second * S)
            began += [data.problem for data in told if data.state == "began"]
        return began


def cost() -> dict[str, float]:
    """Median milliseconds of a look at 1080p and, by turns, of the motion gate's."""
    pictures = [RNG.integers(0, 255, (1080, 1920, 3), np.uint8) for _ in range(4)]
    quality, gate = PictureQuality(QualityConfig(), live=True), MotionGate(MotionConfig())
    taken: dict[str, list[float]] = {"look_ms": [], "motion_gate_ms": []}
    for number in range(300):
        picture = pictures[number % 4]
        frame = Frame(data=picture, source="s", number=0, mono_ns=number * S, wall_ns=0)
        for name, action in (
            ("look_ms", lambda p=picture, n=number: quality.look(p, n * S)),
            ("motion_gate_ms", lambda f=frame: gate.passes(f)),
        ):
            start = time.perf_counter_ns()
            action()
            taken[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: round(statistics.median(times[70:]), 3) for name, times in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=6, help="at most so many")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    chosen = list(scenes())[: options.scenes]
    looks, false = 0, collections.Counter[str]()
    seen: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for index, (name, picture) in enumerate(chosen):
        other = chosen[(index + 1) % len(chosen)][1]
        camera = Watched(picture)
        for what, change in harmless(other).items():
            for problem in [*camera.shows(change, 8), *camera.shows(sway, 8)]:
                false[problem] += 1
                print(f"false alarm: {name}, {what}: {problem}", flush=True)
            looks += 16
        for what, (problem, change) in harmful(other).items():
            began = camera.shows(change, 8)
            camera.shows(sway, 8)
            seen[what][", ".join(began) or "nothing"] += 1
            seen[what]["right"] += began == [problem]
    for what, counts in seen.items():
        others = ", ".join(f"{n} {said}" for said, n in counts.items() if said != "right")
        print(f"{what:26} right {counts['right']:2} of {len(chosen)}; said: {others}")
    result = {
        "scenes": len(chosen),
        "harmless_changes": len(chosen) * len(harmless(chosen[0][1])),
        "looks": looks,
        "false_alarms": dict(false),
        "seen": {what: counts["right"] for what, counts in seen.items()},
        **cost(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
