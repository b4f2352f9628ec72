"""Train the meter reader: render the data, train on two cores in minutes, judge, write the weights.

The weights in this folder come about in two steps, the second one as of now:

    python train.py --out base.safetensors
    python train.py --start base.safetensors --heads --scenes 4400 --steps 180 --rate 2e-3

They are not to be had again to the bit. Their base was trained on the rendering of before, which
had fewer faces, no marks beside the digits, and other limits of what is between. Their second step
stored what the layers before the heads said, so each scene was moved and coloured only once, and it
ran in float32. The seed fixes data and order; the last bits of the weights depend on the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray[Any, Any]
HERE = Path(__file__).resolve().parent
CHUNK = 200  # scenes that one call of a rendering process makes
BATCH = 32
AVERAGED = 0.1  # the weights are averaged over about the last tenth of the steps
HEIGHTS = {16: "< 16 px", 20: "16-20 px", 26: "20-26 px", 70: "26-70 px", math.inf: "> 70 px"}


def _sibling(name: str) -> ModuleType:
    """Load NAME.py that lies beside this file, once."""
    key = f"meter_reader_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, HERE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[key]


model = _sibling("model")


def letterbox(image: Array, boxes: Array) -> tuple[Array, Array]:
    """Fit a scene into the input: uint8 [128, 320, 3] RGB, boxes in its pixels."""
    height, width = image.shape[:2]
    scale = min(model.WIDTH / width, model.HEIGHT / height)
    new_w, new_h = round(width * scale), round(height * scale)
    left, top = (model.WIDTH - new_w) // 2, (model.HEIGHT - new_h) // 2
    out = np.full((model.HEIGHT, model.WIDTH, 3), 114, np.uint8)
    small = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    out[top : top + new_h, left : left + new_w] = small[:, :, ::-1]
    ratio = np.array([new_w / width, new_h / height] * 2, np.float32)
    return out, boxes * ratio + np.array([left, top] * 2, np.float32)


def render_chunk(job: tuple[int, int]) -> list[tuple[Array, Array, Array]]:
    """Scenes number first..first+CHUNK of a seed, letterboxed: image, boxes, classes."""
    seed, first = job
    cv2.setNumThreads(1)
    render = _sibling("render")
    made = []
    for i in range(first, first + CHUNK):
        scene = render.scene(np.random.default_rng((0, seed, i)))
        made.append((*letterbox(scene.image, scene.boxes), scene.classes))
    return made


def render_all(count: int, seed: int) -> list[tuple[Array, Array, Array]]:
    """All training scenes, by one process a core."""
    jobs = [(seed, first) for first in range(0, count, CHUNK)]
    scenes: list[tuple[Array, Array, Array]] = []
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for chunk in pool.imap(render_chunk, jobs):
            scenes += chunk
            taken = time.perf_counter() - start
            print(f"\rrendered {len(scenes)}/{count} scenes, {taken:.0f} s", end="", flush=True)
    print()
    return scenes


def targets(boxes: Array, classes: Array) -> tuple[Array, Array, Array]:
    """What the network should say: heat [640, 11], box of each cell [640, 4] (strides), weight.

    As in CenterNet (Zhou et al. 2019, arXiv:1904.07850): a class's heat is 1 in the cell nearest to
    a digit's centre and falls off as a Gaussian; the cells around the centre learn its box.
    """
    rows, columns = model.HEIGHT // model.STRIDE, model.WIDTH // model.STRIDE
    heat = np.zeros((model.CLASSES, rows, columns), np.float32)
    weight = np.zeros((rows, columns), np.float32)
    box_of = np.zeros((rows, columns, 4), np.float32)
    y, x = np.mgrid[:rows, :columns].astype(np.float32) + 0.5
    for box, kind in zip(boxes / model.STRIDE, classes, strict=True):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        spread_x = max(0.12 * (box[2] - box[0]), 0.35)
        spread_y = max(0.12 * (box[3] - box[1]), 0.35)
        away = ((x - cx) / spread_x) ** 2 + ((y - cy) / spread_y) ** 2
        near = np.exp(-(away - away.min()) / 2)
        np.maximum(heat[kind], near, out=heat[kind])
        closer = (near > 0.25) & (near > weight)
        weight[closer] = near[closer]
        box_of[closer] = box
    return heat.reshape(model.CLASSES, -1).T, box_of.reshape(-1, 4), weight.reshape(-1)


def batches(
    scenes: list[tuple[Array, Array, Array]], size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Shuffled passes without end; scenes move by a few pixels, channels are sometimes swapped."""
    passes = (rng.permutation(len(scenes)) for _ in itertools.count())
    orders = (
        order[first : first + size]
        for order in passes
        for first in range(0, len(order) - size + 1, size)
    )
    for chosen in orders:
        images, rest = [], []
        for index in chosen:
            image, boxes, classes = scenes[index]
            dx, dy = (int(v) for v in rng.integers(-4, 5, 2))
            image = np.roll(image, (dy, dx), (0, 1))
            if rng.random() < 0.5:
                image = image[:, :, rng.permutation(3)]
            boxes = boxes + np.array([dx, dy] * 2, np.float32)
            images.append(image)
            rest.append(targets(boxes, classes))
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        heat, box_of, weight = (
            torch.from_numpy(np.stack(part)) for part in zip(*rest, strict=True)
        )
        yield stacked.to(memory_format=torch.channels_last), heat, box_of, weight


def score_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's focal loss of [B, 640, 11], per digit."""
    score = logits.sigmoid()
    peak = heat > 0.999
    missed = functional.softplus(-logits) * (1 - score) ** 2 * peak
    made_up = functional.softplus(logits) * score**2 * (1 - heat) ** 4 * ~peak
    return (missed + made_up).sum() / peak.sum().clamp(min=1)


def box_loss(ltrb: Tensor, box_of: Tensor, weight: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630) of the weighted cells."""
    columns = model.WIDTH // model.STRIDE
    cell = torch.arange(ltrb.shape[1])
    centre = torch.stack([cell % columns, cell // columns], 1) + 0.5
    used = weight > 0
    centre = centre.expand(len(ltrb), -1, -1)[used]
    got = ltrb[used]
    want = torch.cat([centre - box_of[used][:, :2], box_of[used][:, 2:] - centre], 1)
    shared_side, hull_side = torch.minimum(got, want), torch.maximum(got, want)
    shared = (shared_side[:, :2] + shared_side[:, 2:]).clamp(min=0).prod(1)
    hull = (hull_side[:, :2] + hull_side[:, 2:]).prod(1)
    union = (got[:, :2] + got[:, 2:]).prod(1) + (want[:, :2] + want[:, 2:]).prod(1) - shared
    giou = shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
    distance = (got - want).abs().mean(1)
    return ((1 - giou + 0.2 * distance) * weight[used]).sum() / weight.sum().clamp(min=1)


def train(
    scenes: list[tuple[Array, Array, Array]],
    *,
    steps: int,
    rate: float,
    seed: int,
    start: Path | None,
    heads: bool,
) -> nn.Module:
    """Train from scratch, or on from `start`; returns the running average of the weights.

    `heads` leaves the layers before the merge as they are, their batch norms too.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    module = model.build()
    if start:
        module.load_state_dict(load_file(start))
    module = module.to(memory_format=torch.channels_last)
    for kept in (module.fine, module.coarse) if heads else ():
        kept.eval().requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(
        module,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(max(1 - 1 / (AVERAGED * steps), 0)),
    )
    average.use_buffers = True
    short = "AVX512" in torch.backends.cpu.get_cpu_capability()  # elsewhere bfloat16 is emulated
    learning = [value for value in module.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.1
    )
    began, shown = time.perf_counter(), np.zeros(2)
    numbered = zip(range(1, steps + 1), batches(scenes, BATCH, rng), strict=False)
    for step, (image, heat, box_of, weight) in numbered:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            ltrb, logits = module.raw(image)
        parts = score_loss(logits.float(), heat), box_loss(ltrb.float(), box_of, weight)
        optimiser.zero_grad()
        (parts[0] + 2 * parts[1]).backward()
        nn.utils.clip_grad_norm_(learning, 10.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(module)
        now = np.array([float(p.detach()) for p in parts])
        shown = now if step == 1 else 0.98 * shown + 0.02 * now
        if step % 50 == 0 or step == steps:
            taken = time.perf_counter() - began
            left = taken / step * (steps - step)
            print(
                f"\rstep {step}/{steps} score loss {shown[0]:.3f} box loss {shown[1]:.3f}, "
                f"{taken:.0f} s, {left:.0f} s left  ",
                end="",
                flush=True,
            )
        if not math.isfinite(shown[0]):
            raise ArithmeticError(f"the loss is not finite at step {step}")
    print()
    trained: nn.Module = average.module
    return trained.eval()


def evaluate(module: nn.Module, count: int, seed: int) -> dict[str, float]:
    """The recipe's metrics on rendered pictures that training has not seen."""
    predictions, truths = [], []
    for image, truth in model.evaluation(count, seed):
        predictions.append(model.predict(module, image))
        truths.append(truth | {"size": image.shape[:2]})
    scores: dict[str, float] = model.metrics(predictions, truths)
    return scores | by_height(predictions, truths)


def by_height(predictions: list[dict[str, Any]], truths: list[dict[str, Any]]) -> dict[str, float]:
    """Digits found and read right by their height in the input, and wheels called between."""
    right: dict[str, list[bool]] = {name: [] for name in (*HEIGHTS.values(), "between")}
    for found, truth in zip(predictions, truths, strict=True):
        height, width = truth["size"]
        scale = min(model.WIDTH / width, model.HEIGHT / height)
        for box, kind in zip(truth["boxes"], truth["classes"], strict=True):
            overlap = model.box_iou(box, found["boxes"])
            hit = [
                o >= model.MATCH_IOU and c == kind
                for o, c in zip(overlap, found["classes"], strict=True)
            ]
            limit = next(limit for limit in HEIGHTS if (box[3] - box[1]) * scale < limit)
            right["between" if kind == model.BETWEEN else HEIGHTS[limit]].append(any(hit))
    return {f"right {name}": float(np.mean(hits)) for name, hits in right.items() if hits}


def main() -> int:
    """Render, train, judge and write the weights; or only judge the ones that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24000)
    parser.add_argument("--steps", type=int, default=2250, help=f"batches of {BATCH} scenes")
    parser.add_argument("--rate", type=float, default=5e-3, help="the highest learning rate")
    parser.add_argument("--start", type=Path, help="weights to train on from, not from scratch")
    parser.add_argument("--heads", action="store_true", help="train the merge and the heads only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate", action="store_true", help="judge weights.safetensors only")
    parser.add_argument("--out", type=Path, default=HERE / model.RECIPE["model"]["weights"])
    options = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    missing = _sibling("glyphs").missing_packages(base_only=options.evaluate)
    if missing:
        print(f"fonts are missing; install them first: apt-get install {' '.join(missing)}")
        return 2
    start = time.perf_counter()
    if options.evaluate:
        module = model.load()
    else:
        scenes = render_all(options.scenes, options.seed)
        module = train(
            scenes,
            steps=options.steps,
            rate=options.rate,
            seed=options.seed,
            start=options.start,
            heads=options.heads,
        )
        state = {name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, options.out)
        print(f"wrote {options.out} after {time.perf_counter() - start:.0f} s")
    for name, value in evaluate(module, 1000, 1).items():
        print(f"{name:24s} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
