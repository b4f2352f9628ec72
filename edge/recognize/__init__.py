"""Any model runs: what an .onnx or .tflite file is for, how its pictures are prepared, how its
outputs are decoded, and what of that was assumed.

Invariant: an assumption is never silent, and where two readings are possible nothing is guessed:
`recognize` raises a ConfigError that lists them with the flags that choose.

    recognition = recognize(Path("yolo11n.onnx").read_bytes(), format="onnx")
    print(recognition.task, recognition.decoder.name)
    for assumption in recognition.assumptions:
        print(assumption.key, assumption.value, assumption.why, assumption.flag)
"""

from __future__ import annotations

import dataclasses
from hashlib import sha256
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from edge import postprocess, preprocess
from edge.errors import BundleError, ConfigError, FrameError
from edge.hints import NORMALISATIONS as NORMALISATIONS
from edge.hints import Hints as Hints
from edge.manifest import (
    FORMAT,
    Decoder,
    FileEntry,
    Manifest,
    Precision,
    Preprocess,
    StatePair,
    Task,
    Thresholds,
    Variant,
)
from edge.recognize import detectors, inputs, others, standing
from edge.recognize.facts import Facts, find
from edge.recognize.reading import SAID, Reading
from edge.types import Geometry, TensorSpec

Format = Literal["onnx", "tflite"]


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the file does not say for certain: `flag` overrides it."""

    key: str
    value: str
    why: str
    flag: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a model was recognised as, in the words of the manifest, and what was assumed of it.

    The first of `inputs` is for the frame.
    """

    format: Format
    precision: Precision
    task: Task
    preprocess: Preprocess
    decoder: Decoder
    labels: tuple[str, ...]
    thresholds: Thresholds
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StatePair, ...]
    constants: dict[str, float]
    assumptions: tuple[Assumption, ...]

    @property
    def rules(self) -> tuple[dict[str, Any], ...]:
        """What is worth an event where nobody says so: frames with detections, classes that
        change, and of a single chance the frames in which it is more likely than not."""
        if self.task == "classify" and len(self.labels) == 1:
            return ({"type": "filter", "min_score": 0.5},)
        return _RULES.get(self.task, ())

    def manifest(self, *, name: str, model: bytes) -> Manifest:
        """The manifest of a bundle whose one variant is this model."""
        place = f"{self.format}-{self.precision}"
        variant = Variant(
            name=place, format=self.format, precision=self.precision,
            file=f"variants/{place}.{self.format}", inputs=self.inputs, outputs=self.outputs,
            state=self.state, constants=self.constants,
        )  # fmt: skip
        return Manifest(
            format=FORMAT, name=name, version="0",
            requires=("state",) if self.state or self.constants else (),
            task=self.task, labels=self.labels, preprocess=self.preprocess,
            decoder=self.decoder, thresholds=self.thresholds, variants=(variant,),
            rules=self.rules,
            files={variant.file: FileEntry(size=len(model), sha256=sha256(model).hexdigest())},
        )  # fmt: skip


_RULES: dict[Task, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(get_args(Task), ()),
    **dict.fromkeys(("detect", "instance", "keypoints", "oriented"), ({"type": "filter"},)),
    "classify": ({"type": "on_change"},),
    "anomaly": ({"type": "on_change"},),
}
_EVENTS = {"filter": "frames in which something is found", "on_change": "what has changed"}


def recognize(model: bytes, *, format: Format, hints: Hints | None = None) -> Recognition:
    """Recognise a model file; `hints` override whatever would be assumed.

    EngineError when the runtime refuses the file. ConfigError when nothing, or more than one
    thing, fits: it lists the choices and the flags that make them.
    """
    hints = hints or Hints()
    facts = find(model, format, hints)
    reading = _choose(facts, hints)
    assumed = [
        Assumption(
            key="task",
            value=f"{reading.task}, decoded by {reading.decoder}",
            why=reading.why,
            flag="--task, --decoder",
        )
    ]
    params = {**reading.params, **hints.params}
    labels = _labels(facts, reading, hints, params, assumed)
    prepared = inputs.prepare(facts, reading, hints)
    assumed += [Assumption(key=k, value=v, why=w, flag=f) for k, v, w, f in prepared.assumed]
    score = reading.score if hints.score is None else hints.score
    if reading.task not in ("classify", "regress", "embed", "depth"):
        assumed.append(
            Assumption(
                key="min_score",
                value=f"{score:g}",
                why="given" if hints.score is not None else "usual for such models",
                flag="--min-score",
            )
        )
    for pair in facts.states:
        assumed.append(
            Assumption(
                key="state",
                value=f"{pair.output} of one frame is {pair.input} of the next",
                why="their names, shapes and dtypes",
                flag="--constant",
            )
        )
    recognition = Recognition(
        format=format,
        precision=_precision(facts),
        task=reading.task,
        preprocess=prepared.preprocess,
        decoder=Decoder(name=reading.decoder, params=params),
        labels=labels,
        thresholds=Thresholds(score=score),
        # The picture or window comes first, whatever the order in the file.
        inputs=(facts.input, *(spec for spec in facts.inputs if spec.name != facts.input.name)),
        outputs=facts.outputs,
        state=facts.states,
        constants=hints.constants,
        assumptions=tuple(assumed),
    )
    _try(recognition, facts)
    notes = tuple(
        Assumption(
            key="events", value=_EVENTS[rule["type"]], why="no rules are given", flag="[[rule]]"
        )
        for rule in recognition.rules
    )
    return dataclasses.replace(recognition, assumptions=(*recognition.assumptions, *notes))


def _choose(facts: Facts, hints: Hints) -> Reading:
    """The one reading that most speaks for. ConfigError when there is none, or several."""
    found = [*detectors.readings(facts, hints), *others.readings(facts, hints)]
    fitting = [
        reading
        for reading in found
        if hints.task in (None, reading.task) and hints.decoder in ("", reading.decoder)
    ]
    if not fitting and hints.decoder:
        return standing.by_hand(facts, hints)
    if not fitting:
        outputs = "; ".join(map(str, facts.answers))
        wanted = f" as {hints.task}" if hints.task else ""
        instead = ", ".join(sorted({f"--task {one.task}" for one in found}))
        raise ConfigError(
            f"the model's outputs ({outputs}) cannot be recognised{wanted};"
            + (f" they can with {instead}" if instead else "")
            + " name a decoder with --decoder and its parameters with --param NAME=VALUE"
            f" (decoders: {', '.join(standing.names())})"
        )
    best = max(reading.strength for reading in fitting)
    strongest = _different([reading for reading in fitting if reading.strength == best])
    if len(strongest) == 1:
        return strongest[0]
    raise ConfigError(
        [
            f"the model's outputs ({'; '.join(map(str, facts.answers))}) can be read in"
            f" {len(strongest)} ways; choose one:",
            *(
                f"  --task {reading.task} --decoder {reading.decoder}"
                + (f" with {reading.classes} labels" if reading.classes else "")
                + f": {reading.why}"
                for reading in strongest
            ),
        ]
    )


def _different(found: list[Reading]) -> list[Reading]:
    kept: dict[Any, Reading] = {}
    for reading in found:
        kept.setdefault((reading.task, reading.decoder, reading.classes), reading)
    return list(kept.values())


_NO_OBJECT = ("???", "background", "__background__", "none of these")


def _labels(
    facts: Facts,
    reading: Reading,
    hints: Hints,
    params: dict[str, Any],
    assumed: list[Assumption],
) -> tuple[str, ...]:
    """The name of each class. ConfigError when names were given and are too few or too many."""
    classes = reading.classes
    names, why = hints.labels, "given"
    if not names and facts.graph.labels:
        names, why = facts.graph.labels, "a list of labels in the file"
    if not names and "names" in facts.graph.metadata and reading.strength == SAID:
        names, why = reading.labels, "from the file's metadata"
    given = hints.labels != ()
    if names and classes is not None and len(names) != classes:
        if len(names) == classes + 1 and names[0].lower() in _NO_OBJECT:
            names, why = names[1:], f"{why}, without {names[0]!r} for no object"
        elif len(names) == classes - 1 and reading.task == "classify":
            names, why = ("background", *names), f"{why}, behind a first class for background"
        elif given and reading.task != "embed":
            raise ConfigError(
                f"--labels: {len(names)} names for {classes} classes"
                if classes
                else f"--labels: {reading.task} has no classes to name"
            )
        else:
            names = ()
    elif names and classes is None and names[0].lower() in _NO_OBJECT:
        names, why = names[1:], f"{why}, without {names[0]!r} for no object"
    if classes == 0:
        return ()
    if not names and reading.labels:
        names, why = reading.labels, f"usual for {len(reading.labels)} classes of such a model"
    if not names and classes is None:
        raise ConfigError(
            f"nothing tells how many classes the model has ({reading.why}): give their names,"
            " one a line, with --labels FILE"
        )
    if not names:
        word = "value" if reading.task == "regress" else "class"
        names = tuple(f"{word} {index}" for index in range(classes or 0))
        why = "the file names no classes"
    shown = ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")
    assumed.append(Assumption(key="labels", value=shown, why=why, flag="--labels"))
    return tuple(names)


def _precision(facts: Facts) -> Precision:
    types = facts.graph.types
    if facts.input.dtype in ("uint8", "int8") and facts.input.quantization is not None:
        return "int8"
    if types & {"QLinearConv", "QLinearMatMul", "QuantizeLinear", "QUANTIZE"}:
        return "int8"
    if types & {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}:
        return "int8-dynamic"
    return "fp16" if facts.input.dtype == "float16" else "fp32"


def _try(recognition: Recognition, facts: Facts) -> None:
    """The steps that were chosen must fit the model; a mistake in a flag shows here."""
    manifest = recognition.manifest(name="model", model=b"")
    (variant,) = manifest.variants
    geometry = None
    if facts.picture:
        geometry = Geometry(np.array([[1, 0, 0], [0, 1, 0]], np.float32), *facts.size)
    try:
        preprocess.build(manifest, variant.inputs[0])
        decode = postprocess.build(manifest, variant)
        for trial in facts.trials:
            try:
                decode(
                    {name: values.astype(np.float32) for name, values in trial.items()}, geometry
                )
            except FrameError:  # noise may lead a model anywhere
                pass
    except (BundleError, ValueError, IndexError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{recognition.decoder.name} cannot decode this model: {error};"
            " --task, --decoder, --labels and --param choose otherwise"
        ) from error


__all__ = ["NORMALISATIONS", "Assumption", "Hints", "Recognition", "recognize"]
