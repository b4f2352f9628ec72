"""A second model looks at what the first one found: boxes are cut out of the frame and predicted.

A stage is a bundle of its own, on an engine that pipelines share like any other. What it says
becomes an attribute of the detection; the detection itself stays as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Self

import numpy as np

from edge.config import StageConfig
from edge.engines.host import Hosts
from edge.errors import ConfigError
from edge.manifest import ImagePreprocess
from edge.model import Model, open_any
from edge.reading import main_row
from edge.types import Array, Attribute, Classification, Detections, Prediction

_FINDS_BOXES = ("detect", "instance", "keypoints", "oriented")


class Stage:
    """One second model of a pipeline. `labels` are those of the first."""

    def __init__(
        self, config: StageConfig, model: Model, *, labels: tuple[str, ...], first: str
    ) -> None:
        manifest = model.manifest
        if manifest.task not in ("classify", "detect") or not isinstance(
            manifest.preprocess, ImagePreprocess
        ):
            raise ConfigError(
                f"stage: {manifest.name} cannot look at boxes; it must classify or detect in"
                " pictures"
            )
        unknown = [name for name in config.classes if name not in labels]
        if unknown:
            raise ConfigError(
                f"stage: {first} has no class {', '.join(unknown)}; it has {', '.join(labels)}"
            )
        self.name = config.name or manifest.name
        self.model = model
        self._config = config
        self._wanted = np.array([not config.classes or name in config.classes for name in labels])

    @classmethod
    def open(
        cls, config: StageConfig, first: Model, *, hosts: Hosts | None, rotate: int = 0
    ) -> Self:
        """A stage behind `first`, from its table in edge.toml.

        BundleError, EngineError, or ConfigError when the two models do not go together.
        """
        if first.manifest.task not in _FINDS_BOXES:
            raise ConfigError(f"stage: {first.manifest.name} finds no boxes to look at")
        model = Model(
            open_any(config.bundle),
            hosts=hosts,
            variant=config.variant,
            accelerator=config.accelerator,
            threads=config.threads,
            min_score=config.min_score,
            rotate=rotate,
        )
        try:
            manifest = first.manifest
            return cls(config, model, labels=manifest.labels, first=manifest.name)
        except ConfigError:
            model.close()
            raise

    def lane(self) -> Self:
        """The same stage for another thread."""
        lane = copy.copy(self)
        lane.model = self.model.lane()
        return lane

    def __call__(self, picture: Array, found: Detections) -> Detections:
        """The same detections with one more attribute: of the wanted classes the best
        `max_crops` are looked at."""
        labels, scores = [""] * len(found), np.zeros(len(found), np.float32)
        order = np.argsort(-found.scores, kind="stable")
        asked = [index for index in order if self._wanted[found.classes[index]]]
        for index in asked[: self._config.max_crops]:
            crop = cut(picture, found.boxes[index], margin=self._config.margin)
            if crop.size:
                labels[index], scores[index] = self._say(self.model.predict(crop))
        attribute = Attribute(self.name, tuple(labels), scores)
        return dataclasses.replace(found, attributes=(*found.attributes, attribute))

    def _say(self, prediction: Prediction) -> tuple[str, float]:
        """Label and score of one crop; an empty label when there is nothing sure to say."""
        if isinstance(prediction, Classification):
            sure = prediction.score >= (self._config.min_score or 0.0)
            return (prediction.label, prediction.score) if sure else ("", 0.0)
        if not isinstance(prediction, Detections) or not len(prediction):
            return "", 0.0
        row = main_row(prediction)
        between = "" if all(len(name) == 1 for name in row.names) else " "
        return between.join(row.names), float(row.scores.min())


def cut(picture: Array, box: Array, *, margin: float) -> Array:
    """The part of a picture (uint8 [H, W, 3]) in a box xyxy, `margin` of its size wider on each
    side. A view; empty for a box without area."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    wider, higher = (x2 - x1) * margin, (y2 - y1) * margin
    left, right = max(0, round(x1 - wider)), min(width, round(x2 + wider))
    top, bottom = max(0, round(y1 - higher)), min(height, round(y2 + higher))
    return picture[top : max(top, bottom), left : max(left, right)]
