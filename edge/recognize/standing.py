"""A decoder that was named on the command line, with its parameters put together by hand."""

from __future__ import annotations

import msgspec

from edge import seams
from edge.errors import ConfigError
from edge.hints import Hints
from edge.manifest import Task
from edge.recognize.facts import Facts
from edge.recognize.reading import SAID, Reading

TASKS: dict[str, Task] = {
    "anomaly": "anomaly", "depth": "depth", "embedding": "embed", "heatmaps": "keypoints",
    "movenet": "keypoints", "regression": "regress", "scores": "classify", "semantic": "segment",
    "sigmoid": "classify", "softmax": "classify", "yolo_oriented": "oriented",
    "yolo_pose": "keypoints", "yolo_segment": "instance",
}  # fmt: skip
"""What the decoders are for; all others detect."""


def names() -> list[str]:
    """The decoders that there are, installed packages included."""
    return seams.names("decoders")


def by_hand(facts: Facts, hints: Hints) -> Reading:
    """The reading that the hints alone make. ConfigError when the decoder is not known or its
    parameters are incomplete."""
    adapter = seams.find("decoders", hints.decoder)
    params = dict(hints.params)
    fields = {field.name for field in msgspec.structs.fields(adapter.Params)}
    if "output" in fields and len(facts.answers) == 1:
        params.setdefault("output", facts.answers[0].name)
    if hints.points and "points" in fields:
        params.setdefault("points", list(hints.points))
    try:
        msgspec.convert(params, adapter.Params)
    except msgspec.ValidationError as error:
        outputs = "; ".join(map(str, facts.answers))
        raise ConfigError(
            f"--decoder {hints.decoder}: {error}; set it with --param NAME=VALUE (parameters:"
            f" {', '.join(sorted(fields))}; outputs: {outputs})"
        ) from error
    task = hints.task or TASKS.get(hints.decoder, "detect")
    return Reading(
        task=task, decoder=hints.decoder, params=params, strength=SAID, why="given",
        classes=0 if task in ("embed", "depth", "anomaly") else (len(hints.labels) or None),
    )  # fmt: skip
