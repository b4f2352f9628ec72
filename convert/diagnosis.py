"""Why two ways to the same model disagree: hypotheses, tried on real samples.

A number says that something is wrong; these functions find out what, by putting it right and
looking whether the answers come back. A cause is only named when they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from convert.agreement import MATCH_IOU, agreement
from convert.parity import Traits
from convert.recipe import prepare
from edge.errors import EdgeError
from edge.golden import box_iou, range_error
from edge.manifest import ImagePreprocess, Preprocess
from edge.types import Array, Classification, Detections, Geometry, Prediction, TensorSpec

Run = Callable[[Array], Mapping[str, Array]]
Decode = Callable[[dict[str, Array], Geometry | None], Prediction]

BETTER = 0.1
"""How much better the answers must become for a cause to be named."""
FOLLOWED = 0.8
"""The share of all answers that must follow a permutation of the classes."""
SAME = 0.02
"""Outputs nearer to each other than this part of their range are taken for the same."""
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out beside the numbers. Each text names a cause, or is empty.

    `traits`: by output. `preprocessing`: the change that restores the answers of the recipe's own
    predict. `permutation`: the classes that are answered as others. `transposed`: what must be done
    to the variant's input for it to answer as the original does. `calibration`: how the
    calibration's ranges differ from the evaluation's. `unsteady`: the same input gives other
    outputs each time.
    """

    traits: dict[str, Traits] = field(default_factory=dict)
    preprocessing: str = ""
    permutation: str = ""
    transposed: str = ""
    calibration: str = ""
    unsteady: bool = False


def preprocessing(
    preprocess: Preprocess,
    spec: TensorSpec,
    run: Run,
    decode: Decode,
    samples: Sequence[tuple[Array, Prediction]],
) -> str:
    """The change of preprocessing with which the model gives the wanted predictions, or "".

    `samples` are raw inputs with what is wanted for them.
    """
    if not isinstance(preprocess, ImagePreprocess) or not samples:
        return ""
    wanted = [prediction for _, prediction in samples]

    def share(change: ImagePreprocess, turned: bool) -> float:
        maker = prepare(change, spec)
        found = []
        for raw, _ in samples:
            picture = np.ascontiguousarray(raw.transpose(1, 0, 2)) if turned else raw
            tensor, geometry = maker(picture)
            prediction = decode(dict(run(tensor)), geometry)
            found.append(_turned(prediction) if turned else prediction)
        return _share(wanted, found)

    try:
        best = share(preprocess, False) + BETTER
        name = ""
        for title, change, turned in _changes(preprocess, spec):
            reached = share(change, turned)
            if reached > best + 1e-9:
                best, name = reached, f"{title} gives {reached:.0%} agreement"
    except EdgeError:
        return ""  # a guess that cannot be run explains nothing
    return name


def permutation(reference: Sequence[Prediction], found: Sequence[Prediction]) -> str:
    """Which classes are answered as which others, where that explains the answers; or ""."""
    pairs = Counter(pair for a, b in zip(reference, found, strict=True) for pair in _pairs(a, b))
    total = sum(pairs.values())
    mapped: dict[int, int] = {}
    for (wanted, answered), _ in reversed(pairs.most_common()):
        mapped[wanted] = answered  # the most common one is written last
    moved = {wanted: answered for wanted, answered in mapped.items() if wanted != answered}
    if not moved or len(set(mapped.values())) < len(mapped):
        return ""
    followed = sum(
        count for (wanted, answered), count in pairs.items() if mapped[wanted] == answered
    )
    plain = sum(count for (wanted, answered), count in pairs.items() if wanted == answered)
    if followed < FOLLOWED * total or followed < plain + BETTER * total:
        return ""
    labels = getattr(reference[0], "labels", ())
    listed = [f"{labels[a]!r} is answered as {labels[b]!r}" for a, b in sorted(moved.items())]
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return ", ".join(listed[:4]) + more


def transposed(
    run: Run, variant: Run, pairs: Sequence[tuple[Array, Array]], target: TensorSpec
) -> str:
    """What has to be done to the variant's input for its outputs to be the original's, or "".

    `pairs` are the same inputs as the original and as the variant takes them; `target` is the
    variant's input.
    """

    def worst(change: Callable[[Array], Array]) -> float:
        errors = [
            range_error(found[name], wanted[name])
            for wanted, found in (
                (run(original), variant(np.array(change(tensor), order="C")))
                for original, tensor in pairs
            )
            for name in wanted
        ]
        return max(errors, default=0.0)

    try:
        if worst(lambda tensor: tensor) < BETTER:
            return ""
        for title, change in _rearrangements(target):
            if worst(change) < SAME:
                return title
    except (EdgeError, ValueError, KeyError):
        pass  # a guess that cannot be run explains nothing
    return ""


def ranges(
    calibration: Mapping[str, tuple[float, float]], evaluation: Mapping[str, tuple[float, float]]
) -> str:
    """How the original's outputs on the calibration's inputs differ from those on the
    evaluation's, as (low, high) by output; "" where they reach as far."""
    for name, (low, high) in evaluation.items():
        below, above = calibration.get(name, (low, high))
        if not high > low:
            continue
        covered = (min(high, above) - max(low, below)) / (high - low)
        if covered < 0.75:
            return (
                f"{name} lies in {below:.3g} to {above:.3g} on the calibration's inputs, and in"
                f" {low:.3g} to {high:.3g} on the evaluation's"
            )
        if above - below > 3 * (high - low):
            return (
                f"{name} spans {above - below:.3g} on the calibration's inputs, and only"
                f" {high - low:.3g} on the evaluation's"
            )
    return ""


def widen(ranges: dict[str, tuple[float, float]], outputs: Mapping[str, Array]) -> None:
    """Take the smallest and the largest value of each output into its range."""
    for name, value in outputs.items():
        low, high = ranges.get(name, (float("inf"), float("-inf")))
        ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))


def truth_as_prediction(truth: Mapping[str, Any], labels: tuple[str, ...]) -> Prediction | None:
    """The answer that a truth asks for; None for a task without classes."""
    if "class" in truth:
        scores = np.zeros(len(labels), np.float32)
        scores[int(truth["class"])] = 1.0
        return Classification(scores, labels)
    if "boxes" in truth:
        boxes = np.asarray(truth["boxes"], np.float32).reshape(-1, 4)
        return Detections(
            boxes,
            np.ones(len(boxes), np.float32),
            np.asarray(truth["classes"], np.int64).reshape(-1),
            labels,
        )
    return None


def _changes(
    given: ImagePreprocess, spec: TensorSpec
) -> Iterator[tuple[str, ImagePreprocess, bool]]:
    """Other preprocessings that people mean: its title, and whether the picture lies turned."""
    change = msgspec.structs.replace
    if given.color in ("rgb", "bgr"):
        other = "bgr" if given.color == "rgb" else "rgb"
        yield f"color = {other!r} in place of {given.color!r}", change(given, color=other), False
    yield "height and width exchanged (a transposed input)", given, True
    for resize in ("stretch", "letterbox", "crop"):
        if resize != given.resize:
            title = f"resize = {resize!r} in place of {given.resize!r}"
            yield title, change(given, resize=resize), False
    if spec.dtype == "uint8":
        return
    channels = len(given.mean)
    scales = [
        ("values in 0..1 (mean 0, std 255)", (0.0,) * channels, (255.0,) * channels),
        ("values in 0..255 (mean 0, std 1)", (0.0,) * channels, (1.0,) * channels),
        ("values in -1..1 (mean 127.5, std 127.5)", (127.5,) * channels, (127.5,) * channels),
    ]
    if channels == 3:
        scales.append(("ImageNet's mean and std", *IMAGENET))
    for title, mean, std in scales:
        if (mean, std) != (given.mean, given.std):
            yield title, change(given, mean=mean, std=std), False


def _rearrangements(target: TensorSpec) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    shape = target.shape
    if len(shape) == 4:
        height, width = (1, 2) if target.layout == "nhwc" else (2, 3)
        channel = 3 if target.layout == "nhwc" else 1
        if shape[height] == shape[width]:
            yield (
                "its height and width exchanged: the input was transposed on the way",
                lambda tensor: tensor.swapaxes(height, width),
            )
        yield (
            "its colours in the other order: the graph expects BGR for RGB, or RGB for BGR",
            lambda tensor: np.flip(tensor, channel),
        )
        other = (0, 3, 1, 2) if target.layout == "nhwc" else (0, 2, 3, 1)
        yield (
            "its numbers in the other layout (channels first for last, or last for first): the"
            " input was reshaped and not transposed",
            lambda tensor: tensor.transpose(other).reshape(shape),
        )
    if len(shape) == 3:
        yield (
            "time and channels exchanged: the input was transposed on the way",
            lambda tensor: tensor.swapaxes(1, 2).reshape(shape),
        )


def _share(wanted: Sequence[Prediction], found: Sequence[Prediction]) -> float:
    """The first measure of agreement: the share of equal classes, or of the boxes found."""
    return next(iter(agreement(wanted, found).values()))


def _turned(prediction: Prediction) -> Prediction:
    """What was found in a picture lying on its diagonal, back in the upright one."""
    if not isinstance(prediction, Detections):
        return prediction
    return Detections(
        prediction.boxes[:, [1, 0, 3, 2]],
        prediction.scores,
        prediction.classes,
        prediction.labels,
    )


def _pairs(a: Any, b: Any) -> list[tuple[int, int]]:
    """The classes that two predictions give to the same thing."""
    if isinstance(a, Classification):
        return [(a.index, b.index)]
    if not isinstance(a, Detections):
        return []
    overlaps = box_iou(a.boxes, b.boxes)
    found = []
    while overlaps.size and overlaps.max() >= MATCH_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        found.append((int(a.classes[row]), int(b.classes[column])))
        overlaps[row, :] = overlaps[:, column] = 0.0
    return found
