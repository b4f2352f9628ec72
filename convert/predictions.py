"""Predictions as recipes write them (dicts of arrays) and as edge has them (its own types)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.errors import ConversionError
from edge.manifest import Task
from edge.types import (
    Anomaly,
    Array,
    Classification,
    Depth,
    Detections,
    Embedding,
    Prediction,
    Regression,
    Segmentation,
)


def from_recipe(task: Task, answer: Mapping[str, Any], labels: tuple[str, ...]) -> Prediction:
    """What the recipe's predict gave. ConversionError when it is not of the task's form.

    All tasks that find objects are held to their boxes.
    """
    try:
        match task:
            case "classify":
                scores = np.asarray(answer["scores"], np.float32)
                if scores.shape != (len(labels),):
                    raise ValueError(f"scores {scores.shape} for {len(labels)} labels")
                return Classification(scores, labels)
            case "segment":
                return Segmentation(np.asarray(answer["map"], np.int16), labels)
            case "regress":
                return Regression(np.asarray(answer["values"], np.float32).reshape(-1), labels)
            case "anomaly":
                return Anomaly(score=float(answer["score"]), threshold=float(answer["threshold"]))
            case "depth":
                return Depth(map=np.asarray(answer["map"], np.float32))
            case "embed":
                return Embedding(np.asarray(answer["vector"], np.float32).reshape(-1))
        return Detections(
            np.asarray(answer["boxes"], np.float32).reshape(-1, 4),
            np.asarray(answer["scores"], np.float32),
            np.asarray(answer["classes"], np.int64),
            labels,
        )
    except KeyError as error:
        raise ConversionError(f"the recipe's predict() gave no {error}") from error
    except (ValueError, TypeError) as error:
        raise ConversionError(f"the recipe's predict(): {error}") from error


def to_recipe(prediction: Prediction) -> dict[str, Array]:
    """A prediction in the form that the recipe's metrics take."""
    match prediction:
        case Classification():
            return {"scores": prediction.scores}
        case Segmentation():
            return {"map": prediction.classes}
        case Regression():
            return {"values": prediction.values}
        case Anomaly():
            found = {"score": prediction.score, "threshold": prediction.threshold}
            return {name: np.asarray(value) for name, value in found.items()}
        case Depth():
            return {"map": prediction.map}
        case Embedding():
            return {"vector": prediction.vector}
    return {
        "boxes": prediction.boxes,
        "scores": prediction.scores,
        "classes": prediction.classes,
    }
