"""A classifier whose weights are written down, not trained: the channel with the largest mean."""

import numpy as np
import torch
from torch import nn

MEAN = np.array([1.0, -2.0, 3.0], np.float32)


class Beeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.rectify = nn.Conv1d(3, 6, 1)
        self.sum = nn.Linear(6, 3)
        eye = torch.eye(3)
        self.rectify.weight.data = torch.cat([eye, -eye])[:, :, None]
        self.sum.weight.data = 4 * torch.cat([eye, eye], dim=1)
        for layer in (self.rectify, self.sum):
            layer.bias.data.zero_()

    def forward(self, window):
        loud = self.rectify(window.transpose(1, 2)).relu()
        return self.sum(loud.mean(dim=2))


def build():
    return Beeps()


def predict(module, raw):
    with torch.no_grad():
        logits = module(torch.from_numpy((raw - MEAN) / 2)[None])
    return {"scores": logits.softmax(1)[0].numpy()}


def _window(rng, loud):
    sizes = np.full(3, 0.4)
    sizes[loud] = 3.0
    return (MEAN + rng.normal(size=(32, 3)) * sizes).astype(np.float32)


def calibration(count, seed):
    rng = np.random.default_rng([seed, 1])
    for index in range(count):
        yield _window(rng, index % 3)


def evaluation(count, seed):
    rng = np.random.default_rng([seed, 2])
    for index in range(count):
        yield _window(rng, index % 3), {"class": index % 3}


def golden(count):
    rng = np.random.default_rng(3)
    for index in range(count):
        yield _window(rng, index % 3)
