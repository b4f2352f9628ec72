"""Tiny models of every kind that people bring, trained for seconds on data drawn here.

Trained, since the error of quantised random weights means nothing: what a layer has learned decides
which of its values matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.importers import ModelSource
from edge.types import Array, TensorSpec

CALIBRATION, EVALUATION = 32, 96
CLASSES = 4
COLOURS = np.array([[0.9, 0.1, 0.1], [0.1, 0.3, 0.9]], np.float32)


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A trained model on disk and what it is fed with, [1, …] each, in the model's own layout.

    `input` and `outputs` are stated for torch alone; the other files know their own.
    """

    source: ModelSource
    calibration: list[Array]
    evaluation: list[Array]
    input: TensorSpec | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of the table. What is unrolled over time takes a minute, and is `slow`."""

    title: str
    make: Callable[[Path], Specimen]
    slow: bool = False


# ---- data


def pictures(count: int, seed: int) -> tuple[Array, Array]:
    """Stripes, upright or lying, red or blue, in noise: float32 [N, 3, 32, 32] in 0..1, classes."""
    rng = np.random.default_rng([seed, 1])
    classes = np.arange(count) % CLASSES
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    pitch = rng.uniform(4, 8, (count, 1, 1))
    place = np.arange(32, dtype=np.float32)
    along = np.where((classes % 2)[:, None, None] == 0, place[None, :, None], place[None, None, :])
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * along / pitch + phase)
    stripes = np.broadcast_to(stripes, (count, 32, 32))
    made = COLOURS[classes // 2][:, :, None, None] * stripes[:, None]
    made = made + rng.normal(0, 0.15, made.shape)
    return made.clip(0, 1).astype(np.float32), classes.astype(np.int64)


def waves(count: int, seed: int) -> tuple[Array, Array]:
    """Sines of four pitches on three channels, in noise: float32 [N, 32, 3], classes."""
    rng = np.random.default_rng([seed, 2])
    classes = np.arange(count) % CLASSES
    time = np.arange(32)[None, :, None]
    pitch = np.array([2.0, 4.0, 7.0, 11.0])[classes][:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 3))
    made = np.sin(2 * np.pi * time / 32 * pitch + phase) * rng.uniform(0.6, 1.4, (count, 1, 3))
    return (made + rng.normal(0, 0.2, made.shape)).astype(np.float32), classes.astype(np.int64)


def rows(count: int, seed: int) -> tuple[Array, Array]:
    """Four clouds of eight sensors: float32 [N, 8], classes."""
    rng = np.random.default_rng([seed, 3])
    centres = np.random.default_rng(0).normal(0, 1.5, (CLASSES, 8))
    classes = np.arange(count) % CLASSES
    return (
        (centres[classes] + rng.normal(0, 1, (count, 8))).astype(np.float32),
        classes.astype(np.int64),
    )


def squares(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Squares on a dark picture: float32 [N, 3, 64, 64], and what each cell of 8 has to say of
    the square whose middle lies in it: ltrb in pixels [N, 64, 4], scores [N, 64, 2]."""
    rng = np.random.default_rng([seed, 4])
    made = rng.uniform(0, 0.15, (count, 3, 64, 64)).astype(np.float32)
    ltrb = np.zeros((count, 64, 4), np.float32)
    scores = np.zeros((count, 64, 2), np.float32)
    for index in range(count):
        for cell in rng.permutation(16)[:3]:
            side = int(rng.integers(8, 15))
            x, y = (int(16 * v + rng.integers(0, 16 - side + 1)) for v in divmod(int(cell), 4))
            kind = int(rng.integers(2))
            made[index, :, y : y + side, x : x + side] += COLOURS[kind][:, None, None] * 0.8
            column, row = int((x + side / 2) // 8), int((y + side / 2) // 8)
            middle_x, middle_y = 8 * column + 4, 8 * row + 4
            place = 8 * row + column
            scores[index, place, kind] = 1
            ltrb[index, place] = (
                *(middle_x - x, middle_y - y),
                *(x + side - middle_x, y + side - middle_y),
            )
    return made.clip(0, 1), ltrb, scores


# ---- torch


def torch_module(name: str) -> Any:
    """An untrained module by the name of its kind."""
    import torch
    from torch import nn

    class Inverted(nn.Module):
        """MobileNet's block: widen, look around, squeeze; V3 weighs its channels in between."""

        def __init__(self, into: int, out: int, stride: int, *, v3: bool) -> None:
            super().__init__()
            wide = 4 * into
            act: type[nn.Module] = nn.Hardswish if v3 else nn.ReLU6
            self.widen = nn.Sequential(nn.Conv2d(into, wide, 1, bias=False), nn.BatchNorm2d(wide),
                act(), nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
                nn.BatchNorm2d(wide), act())  # fmt: skip
            self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 4, 1),
                nn.ReLU(), nn.Conv2d(wide // 4, wide, 1), nn.Hardsigmoid()) if v3 else None  # fmt: skip
            self.squeeze = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
            self.same = stride == 1 and into == out

        def forward(self, x: Any) -> Any:
            y = self.widen(x)
            y = y if self.weigh is None else y * self.weigh(y)
            y = self.squeeze(y)
            return x + y if self.same else y

    def mobilenet(v3: bool) -> nn.Module:
        stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)]
        blocks = [Inverted(8, 8, 1, v3=v3), Inverted(8, 16, 2, v3=v3), Inverted(16, 16, 1, v3=v3)]
        ends = [nn.Hardswish() if v3 else nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*stem, nn.ReLU6(), *blocks, *ends, nn.Linear(16, CLASSES))

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(*(layer for into, out in ((3, 16), (16, 24), (24, 32))
                for layer in (nn.Conv2d(into, out, 3, 2, 1), nn.BatchNorm2d(out), nn.ReLU())),
                nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())  # fmt: skip
            self.ltrb, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 2, 1)

        def forward(self, image: Any) -> Any:
            seen = self.trunk(image)
            maps = self.ltrb(seen), self.scores(seen).sigmoid()
            return tuple(found.flatten(2).transpose(1, 2) for found in maps)

    class Conv1d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(3, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(),
                nn.Conv1d(16, 24, 5, 2, 2), nn.BatchNorm1d(24), nn.ReLU(),
                nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, CLASSES))  # fmt: skip

        def forward(self, window: Any) -> Any:
            return self.net(window.transpose(1, 2))

    class Recurrent(nn.Module):
        def __init__(self, cell: type[nn.Module], *, both: bool = False) -> None:
            super().__init__()
            self.cell = cell(3, 16, batch_first=True, bidirectional=both)
            self.say = nn.Linear(32 if both else 16, CLASSES)

        def forward(self, window: Any) -> Any:
            return self.say(self.cell(window)[0][:, -1])

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(3, 16)
            self.place = nn.Parameter(torch.randn(1, 32, 16) * 0.1)
            self.look, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
            self.think = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            self.say = nn.Linear(16, CLASSES)

        def forward(self, window: Any) -> Any:
            x = self.enter(window) + self.place
            y = self.norm(x)
            x = x + self.look(y, y, y, need_weights=False)[0]
            return self.say((x + self.think(x)).mean(1))

    makers: dict[str, Callable[[], nn.Module]] = {
        "cnn": lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(16, CLASSES),
        ),
        "mobilenetv2": lambda: mobilenet(v3=False),
        "mobilenetv3": lambda: mobilenet(v3=True),
        "detector": Detector,
        "conv1d": Conv1d,
        "gru": lambda: Recurrent(nn.GRU),
        "lstm": lambda: Recurrent(nn.LSTM),
        "bilstm": lambda: Recurrent(nn.LSTM, both=True),
        "attention": Attention,
        "mlp": lambda: nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        ),
    }
    torch.manual_seed(0)
    return makers[name]()


def trained(name: str, data: Callable[[int, int], tuple[Array, ...]], steps: int = 150) -> Any:
    """The module after some steps of Adam, in evaluation mode."""
    import torch
    from torch.nn import functional

    module = torch_module(name).train()
    inputs, *wanted = (torch.from_numpy(array) for array in data(512, 0))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        picked = torch.randperm(len(inputs), generator=generator)[:64]
        found = module(inputs[picked])
        if len(wanted) == 1:
            loss = functional.cross_entropy(found, wanted[0][picked])
        else:
            (ltrb, scores), (boxes, truth) = found, (part[picked] for part in wanted)
            there = truth.sum(2, keepdim=True)
            loss = functional.binary_cross_entropy(scores, truth)
            loss = loss + ((ltrb - boxes).abs() * there).sum() / there.sum() / 20
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def _torch(
    name: str,
    data: Callable[[int, int], tuple[Array, ...]],
    spec: TensorSpec,
    outputs: tuple[str, ...] = ("logits",),
    steps: int = 150,
) -> Callable[[Path], Specimen]:
    def make(folder: Path) -> Specimen:
        from safetensors.torch import save_file

        path = folder / f"{name}.safetensors"
        save_file(trained(name, data, steps).state_dict(), path)
        return Specimen(
            source=ModelSource(kind="torch", path=path, factory=lambda: torch_module(name)),
            input=spec,
            outputs=outputs,
            **_fed(data),
        )

    return make


# ---- others


def _rows_of(name: str) -> Callable[[Path], Specimen]:
    """scikit-learn, saved by skops, and xgboost, saved by itself."""

    def make(folder: Path) -> Specimen:
        inputs, classes = rows(512, 0)
        if name == "boosting":
            from xgboost import XGBClassifier

            model = XGBClassifier(n_estimators=12, max_depth=4, random_state=0, n_jobs=1)
            model.fit(inputs, classes)
            path = folder / "boosting.json"
            model.save_model(path)
            return Specimen(source=ModelSource(kind="boosting", path=path), **_fed(rows))
        import skops.io
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        model = {
            "linear": lambda: make_pipeline(StandardScaler(), LogisticRegression(random_state=0)),
            "forest": lambda: RandomForestClassifier(16, max_depth=6, random_state=0),
            "svm": lambda: make_pipeline(StandardScaler(), SVC(random_state=0)),
        }[name]()
        path = folder / f"{name}.skops"
        skops.io.dump(model.fit(inputs, classes), path)
        return Specimen(source=ModelSource(kind="sklearn", path=path), **_fed(rows))

    return make


def _keras(folder: Path) -> Specimen:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    def fed(count: int, seed: int) -> tuple[Array, ...]:
        made, classes = pictures(count, seed)
        return np.ascontiguousarray(made.transpose(0, 2, 3, 1)), classes

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((32, 32, 3), name="image"),
            *(layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()),
            layers.MaxPooling2D(),
            *(layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D()),
            *(layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, name="logits")),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    model.fit(*fed(512, 0), batch_size=64, epochs=8, verbose=0)
    path = folder / "model.keras"
    model.save(path)
    return Specimen(source=ModelSource(kind="keras", path=path), **_fed(fed))


def _fed(data: Callable[[int, int], tuple[Array, ...]]) -> dict[str, list[Array]]:
    def singles(arrays: Iterable[Array]) -> list[Array]:
        return [np.ascontiguousarray(array[None]) for array in arrays]

    return {
        "calibration": singles(data(CALIBRATION, 1)[0]),
        "evaluation": singles(data(EVALUATION, 2)[0]),
    }


_IMAGE = TensorSpec(name="image", shape=(1, 3, 32, 32), layout="nchw")
_LARGE = TensorSpec(name="image", shape=(1, 3, 64, 64), layout="nchw")
_WINDOW = TensorSpec(name="window", shape=(1, 32, 3), layout="ntc")
_ROW = TensorSpec(name="row", shape=(1, 8), layout="nc")

KINDS: dict[str, Kind] = {
    "cnn": Kind(title="CNN", make=_torch("cnn", pictures, _IMAGE)),
    "mobilenetv2": Kind(title="MobileNetV2-like", make=_torch("mobilenetv2", pictures, _IMAGE)),
    "mobilenetv3": Kind(title="MobileNetV3-like", make=_torch("mobilenetv3", pictures, _IMAGE)),
    "detector": Kind(
        title="detector", make=_torch("detector", squares, _LARGE, ("ltrb", "scores"), 300)
    ),
    "conv1d": Kind(title="conv1d", make=_torch("conv1d", waves, _WINDOW)),
    "gru": Kind(title="GRU", make=_torch("gru", waves, _WINDOW, steps=300), slow=True),
    "lstm": Kind(title="LSTM", make=_torch("lstm", waves, _WINDOW, steps=300), slow=True),
    "bilstm": Kind(
        title="bidirectional LSTM", make=_torch("bilstm", waves, _WINDOW, steps=300), slow=True
    ),
    "attention": Kind(title="attention block", make=_torch("attention", waves, _WINDOW)),
    "mlp": Kind(title="MLP", make=_torch("mlp", rows, _ROW)),
    "linear": Kind(title="linear (scikit-learn)", make=_rows_of("linear")),
    "forest": Kind(title="forest (scikit-learn)", make=_rows_of("forest")),
    "boosting": Kind(title="boosting (XGBoost)", make=_rows_of("boosting")),
    "svm": Kind(title="SVM (scikit-learn)", make=_rows_of("svm")),
    "keras": Kind(title="Keras CNN", make=_keras),
}
