"""Train wrist_activity on BasicMotions and generated windows; writes weights.safetensors.

    python models/wrist_activity/train.py

The number of steps is fixed and the last weights are kept: the test set takes no part in any
choice, it is only judged at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
STEPS = 600
BATCH = 64
SYNTHETIC = 1200


def _sibling(name: str) -> ModuleType:
    """Load `name`.py of this folder by its location, leaving sys.path alone."""
    spec = importlib.util.spec_from_file_location(f"wrist_activity_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


model = _sibling("model")


def check_normalisation(windows: np.ndarray) -> None:
    """Stop unless recipe.toml carries the mean and std of these windows, float32 [N, T, C]."""
    for key, value in (("mean", windows.mean(axis=(0, 1))), ("std", windows.std(axis=(0, 1)))):
        line = f"{key} = {[round(float(one), 3) for one in value]}"
        print(line)
        if not np.allclose(model.RECIPE["preprocess"][key], value, atol=1e-3):
            raise SystemExit(f"recipe.toml, [preprocess]: put this line in and train again: {line}")


def rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A rotation matrix [3, 3] about a random axis by a normal angle (Rodrigues' formula)."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(rng.normal(0, degrees))
    turn: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def augment(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The window [100, 6] as another wearer might have given it: shifted in time (cyclically),
    with the watch sitting a little askew, stronger or weaker, and noisier."""
    turn = rotation(rng, degrees=8.0)
    shifted = np.roll(window, rng.integers(len(window)), axis=0)
    turned = np.concatenate([shifted[:, :3] @ turn.T, shifted[:, 3:] @ turn.T], axis=1)
    noise = rng.normal(0, 0.05, window.shape) * window.std(axis=0)
    worn: np.ndarray = turned * np.exp(rng.normal(0, 0.1)) + noise
    return worn


def train(module: nn.Module, *, share_synthetic: float, seed: int) -> None:
    """Train in place; every batch holds `share_synthetic` generated windows."""
    real, real_classes = model.basicmotions("TRAIN")
    made = list(model.synthetic(SYNTHETIC, use=model.TRAINING, seed=seed))
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=STEPS)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    generated = round(BATCH * share_synthetic)
    module.train()
    for step in range(1, STEPS + 1):
        from_real = rng.integers(len(real), size=BATCH - generated)
        from_made = rng.integers(len(made), size=generated)
        windows = [augment(real[i], rng) for i in from_real] + [made[i][0] for i in from_made]
        classes = [int(real_classes[i]) for i in from_real] + [made[i][1] for i in from_made]
        logits = module(torch.from_numpy(model.normalise(np.stack(windows))))
        loss = loss_of(logits, torch.tensor(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{STEPS}  loss {loss.item():.3f}", flush=True)


def judge_streams(module: nn.Module, *, wearers: int, seed: int) -> dict[str, float]:
    """Share of right windows, per label, along five-minute generated streams cut every hop."""
    hop = model.RECIPE["preprocess"]["hop"]
    rng = np.random.default_rng([seed, model.EVALUATION, wearers])
    result = {}
    for which, label in enumerate(model.LABELS):
        right = []
        for _ in range(wearers):
            stream = model.samples.window(label, 3000, rng)
            for start in range(0, len(stream) - model.LENGTH + 1, hop):
                scores = model.predict(module, stream[start : start + model.LENGTH])["scores"]
                right.append(int(scores.argmax()) == which)
        result[f"stream_{label}"] = float(np.mean(right))
    return result


def main() -> None:
    """Train, judge on evaluation() and write the weights next to this file."""
    parser = argparse.ArgumentParser(description="Train wrist_activity.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share-synthetic", type=float, default=0.5, help="of every batch, 0..1")
    parser.add_argument("--dry-run", action="store_true", help="train and judge, write nothing")
    options = parser.parse_args()

    started = time.monotonic()
    check_normalisation(model.basicmotions("TRAIN")[0])
    torch.manual_seed(options.seed)
    module = model.build()
    train(module, share_synthetic=options.share_synthetic, seed=options.seed)
    if not options.dry_run:
        save_file(module.state_dict(), HERE / model.RECIPE["model"]["weights"])
    windows, truths = zip(*model.evaluation(1040, options.seed), strict=True)
    scores = model.metrics([model.predict(module, window) for window in windows], list(truths))
    scores |= judge_streams(module, wearers=40, seed=options.seed)
    for name, value in scores.items():
        print(f"{name:24} {value:.4f}")
    parameters = sum(one.numel() for one in module.parameters())
    print(f"{parameters:,} parameters, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
