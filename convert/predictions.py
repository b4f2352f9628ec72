"""Predictions as recipes write them (dicts of arrays) and as edge has them (its own types)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convert.errors import ConversionError
from edge.types import Array, Classification, Detections, Prediction


def from_recipe(task: str, answer: Mapping[str, Array], labels: tuple[str, ...]) -> Prediction:
    """What the recipe's predict gave. ConversionError when it is not of the task's form."""
    try:
        scores = np.asarray(answer["scores"], np.float32)
        if task == "classify":
            if scores.shape != (len(labels),):
                raise ValueError(f"scores {scores.shape} for {len(labels)} labels")
            return Classification(scores, labels)
        return Detections(
            np.asarray(answer["boxes"], np.float32).reshape(-1, 4),
            scores,
            np.asarray(answer["classes"], np.int64),
            labels,
        )
    except KeyError as error:
        raise ConversionError(f"the recipe's predict() gave no {error}") from error
    except ValueError as error:
        raise ConversionError(f"the recipe's predict(): {error}") from error


def to_recipe(prediction: Prediction) -> dict[str, Array]:
    """A prediction in the form that the recipe's metrics take."""
    if isinstance(prediction, Classification):
        return {"scores": prediction.scores}
    if not isinstance(prediction, Detections):
        raise ConversionError(f"recipes know no {type(prediction).__name__.lower()} yet")
    return {
        "boxes": prediction.boxes,
        "scores": prediction.scores,
        "classes": prediction.classes,
    }
