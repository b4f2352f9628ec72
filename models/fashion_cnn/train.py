"""Train fashion_cnn: `python models/fashion_cnn/train.py` writes model.keras beside itself.

The number of epochs is fixed and the last weights are kept: the test set takes no part in any
choice, it is only judged at the end.
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from types import ModuleType

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).resolve().parent
EPOCHS = 4


def _sibling(name: str) -> ModuleType:
    """Load `name`.py of this folder by its location, leaving sys.path alone."""
    spec = importlib.util.spec_from_file_location(f"fashion_cnn_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


model = _sibling("model")


def build() -> keras.Model:
    """float32 [N, 28, 28, 1] in 0..1 -> logits [N, 10]; strides in place of pooling."""

    def stage(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    image = keras.Input((model.SIZE, model.SIZE, 1), name="image")
    x = stage(stage(stage(image, 16), 32), 64)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def main() -> None:
    """Train, judge on all test pictures and write the model."""
    started = time.monotonic()
    keras.utils.set_random_seed(0)
    pictures, classes = model.read("train")
    inputs = pictures[..., None].astype(np.float32) / 255
    steps = EPOCHS * -(-len(inputs) // 128)
    module = build()
    module.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    module.fit(inputs, classes, batch_size=128, epochs=EPOCHS, verbose=2)
    # Without the optimiser, whose moments are twice the size of the weights.
    trained = keras.Model(module.input, module.output)
    trained.save(HERE / "model.keras")

    tests, truths = model.read("t10k")
    logits = module.predict(tests[..., None].astype(np.float32) / 255, verbose=0)
    right = logits.argmax(1) == truths
    print(
        f"{right.sum():,} of {len(right):,} test pictures right; {module.count_params():,}"
        f" parameters, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
