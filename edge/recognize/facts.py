"""What is known of a model before anything is assumed: tensors, graph, and what it answers.

It is run twice, on noise and on a smooth picture: the outputs have shapes then, where the file
leaves them open, and value ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from edge import seams
from edge.errors import ConfigError, EngineError
from edge.hints import Hints
from edge.manifest import StatePair
from edge.recognize.graph import Graph, literal, read
from edge.state import find_state
from edge.types import Array, TensorSpec

MAX_SIDE = 8192
_PICTURE_DTYPES = ("float32", "float16", "uint8", "int8", "int32")
_TRIALS = ("noise", "smooth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """One model: its main input (a picture or a window), other inputs, outputs as the trial gave
    them. `trials` hold every output as float64, by name.
    """

    format: str
    graph: Graph
    input: TensorSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StatePair, ...]
    trials: tuple[Mapping[str, Array], ...]

    @property
    def picture(self) -> bool:
        """Whether the main input is a picture."""
        return self.input.layout in ("nchw", "nhwc")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        shape = self.input.shape
        height, width = shape[2:] if self.input.layout == "nchw" else shape[1:3]
        return width, height

    @property
    def answers(self) -> tuple[TensorSpec, ...]:
        """The outputs that are no state, nor there for training only."""
        kept = {pair.output for pair in self.states}
        told = tuple(
            spec
            for spec in self.outputs
            if spec.name not in kept and not spec.name.lower().startswith("aux")
        )
        # Exporters of detection transformers leave hidden states beside what is asked for.
        named = {spec.name: spec for spec in told}
        if {"logits", "pred_boxes"} <= named.keys():
            return (named["logits"], named["pred_boxes"])
        return told or self.outputs

    def values(self, name: str) -> list[Array]:
        """One output in every trial."""
        return [trial[name] for trial in self.trials]

    def maker(self, name: str) -> str:
        """The type of operator that an output comes from; "" when that cannot be told."""
        known = self.graph.outputs
        if name not in known and len(known) == 1:
            name = known[0]
        return self.graph.maker(name)


def find(model: bytes, format: str, hints: Hints) -> Facts:
    """Load and try the model. EngineError when the runtime refuses it; ConfigError with the flag
    to set when its input cannot be told."""
    graph = read(model, format)
    engine: seams.Engine = seams.find("engines", format)(model)
    try:
        states, main = _roles(engine.inputs, engine.outputs, hints)
        spec = _main_input(main, format, graph, hints)
        inputs = tuple(spec if one.name == main.name else _settled(one, 1) for one in engine.inputs)
        raw = [engine.run(_trial_inputs(inputs, spec, kind, hints)) for kind in _TRIALS]
        outputs = tuple(
            _output(one, [answers[one.name] for answers in raw]) for one in engine.outputs
        )
        trials = tuple(
            {one.name: _real(answers[one.name], one) for one in outputs} for answers in raw
        )
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{format}: a trial run of the model failed: {error}") from error
    finally:
        engine.close()
    if not outputs:
        raise EngineError(f"{format}: the model has no outputs")
    return Facts(
        format=format,
        graph=graph,
        input=spec,
        inputs=inputs,
        outputs=outputs,
        states=states,
        trials=trials,
    )


def _roles(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], hints: Hints
) -> tuple[tuple[StatePair, ...], TensorSpec]:
    """Which inputs are the state that an output gives back, and the one that is for the frame."""
    if not inputs:
        raise ConfigError("the model has no input")
    names = [spec.name for spec in inputs]
    unknown = sorted(set(hints.constants) - set(names))
    if unknown:
        raise ConfigError(f"--constant {unknown[0]}: there are the inputs {', '.join(names)}")
    states = find_state(inputs, outputs)
    given = {pair.input for pair in states} | set(hints.constants)
    left = [spec for spec in inputs if spec.name not in given]
    pictures = [spec for spec in left if len(spec.shape) == 4 and _channels_at(spec)]
    main = (pictures or left or [inputs[0]])[0]
    for spec in left:
        if spec.name != main.name:
            raise ConfigError(
                f"the model has the inputs {'; '.join(map(str, left))}: one is for the frame, what"
                f" are the others? Name their values: --constant {spec.name}=NUMBER"
            )
    return states, main


def _channels_at(spec: TensorSpec) -> list[int]:
    """The axes of a picture that may be its colours; the first one where all are left open."""
    axes = [axis for axis in (1, 3) if spec.shape[axis] in (1, 3)]
    return axes or ([1] if set(spec.shape[1:]) == {-1} else [])


def _settled(spec: TensorSpec, size: int) -> TensorSpec:
    """The spec with `size` for every size that the file leaves open."""
    shape = tuple(size if side < 0 else side for side in spec.shape)
    return TensorSpec(
        name=spec.name, shape=shape, dtype=spec.dtype, layout=spec.layout,
        quantization=spec.quantization,
    )  # fmt: skip


def _main_input(spec: TensorSpec, format: str, graph: Graph, hints: Hints) -> TensorSpec:
    """The main input with a static shape and a layout. ConfigError when that needs a flag."""
    if len(spec.shape) == 4:
        return _picture(spec, format, graph, hints)
    if spec.dtype != "float32":
        raise ConfigError(
            f"input {spec}: pictures are [1, C, H, W] or [1, H, W, C], windows of samples float32"
            " [1, T, C] or [1, N]; this is neither"
        )
    if len(spec.shape) not in (2, 3) or spec.shape[0] not in (1, -1):
        raise ConfigError(
            f"input {spec}: windows of samples are [1, T, C] or [1, N], one at a time"
        )
    shape = [1, *spec.shape[1:]]
    if shape[1] < 0 and hints.length:
        shape[1] = hints.length * (1 if len(shape) == 3 else max(1, len(hints.channels)))
    if min(shape) < 1:
        raise ConfigError(f"input {spec} has no fixed length; name it: --length SAMPLES")
    if len(shape) == 3 and shape[1] < shape[2] and not hints.channels:
        raise ConfigError(
            f"input {spec}: windows are [1, T, C], time first; is this {shape[2]} channels? Then"
            " name them with --channels, else export the model with the transposition inside"
        )
    return TensorSpec(
        name=spec.name, shape=tuple(shape), dtype=spec.dtype,
        layout="ntc" if len(shape) == 3 else "nc",
    )  # fmt: skip


def _picture(spec: TensorSpec, format: str, graph: Graph, hints: Hints) -> TensorSpec:
    axes = _channels_at(spec)
    if not axes or spec.shape[0] not in (1, -1):
        raise ConfigError(
            f"input {spec}: pictures are [1, C, H, W] or [1, H, W, C] with C of 1 (grey) or 3;"
            " this model takes something else"
        )
    if spec.dtype not in _PICTURE_DTYPES:
        raise ConfigError(f"input {spec}: pictures are {', '.join(_PICTURE_DTYPES)}")
    axis = axes[0] if len(axes) == 1 else (1 if format == "onnx" else 3)
    shape = [1, *spec.shape[1:]]
    shape[axis] = 3 if shape[axis] < 1 else shape[axis]
    sides = (2, 3) if axis == 1 else (1, 2)
    if any(shape[side] < 1 for side in sides):
        size = hints.size or _noted_size(graph)
        if size is None:
            raise ConfigError(
                f"input {spec} is open in size; name one that the model was made for:"
                " --size WIDTHxHEIGHT"
            )
        for side, given in zip(sides, (size[1], size[0]), strict=True):
            shape[side] = given if shape[side] < 1 else shape[side]
    if max(shape) > MAX_SIDE:
        raise ConfigError(f"input {spec}: no side may be longer than {MAX_SIDE}")
    return TensorSpec(
        name=spec.name, shape=tuple(shape), dtype=spec.dtype,
        layout="nchw" if axis == 1 else "nhwc", quantization=spec.quantization,
    )  # fmt: skip


def _noted_size(graph: Graph) -> tuple[int, int] | None:
    """Width and height that Ultralytics' exporter noted: imgsz is [height, width]."""
    noted = literal(graph.metadata.get("imgsz", ""))
    if isinstance(noted, int) and 0 < noted <= MAX_SIDE:
        return noted, noted
    if (
        isinstance(noted, list | tuple)
        and len(noted) == 2
        and all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in noted)
    ):
        return noted[1], noted[0]
    return None


def _trial_inputs(
    inputs: tuple[TensorSpec, ...], main: TensorSpec, kind: str, hints: Hints
) -> dict[str, Array]:
    given = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs}
    for name, value in hints.constants.items():
        given[name][...] = value
    given[main.name] = trial_tensor(main, kind)
    return given


def trial_tensor(spec: TensorSpec, kind: str) -> Array:
    """Noise of 0..1, or a smooth picture of 0..255 (window: waves); the same ones every time."""
    if kind == "noise":
        values = np.random.default_rng(0).random(spec.shape, np.float32)
    else:
        values = np.zeros(spec.shape, np.float32)
        for axis, side in enumerate(spec.shape):
            steps = np.linspace(0, 3 + axis, side, dtype=np.float32)
            values += np.sin(steps + axis).reshape(
                [-1 if a == axis else 1 for a in range(values.ndim)]
            )
        values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
        if spec.layout in ("nchw", "nhwc") and np.dtype(spec.dtype).kind == "f":
            values *= 255
    if np.dtype(spec.dtype).kind in "iu":
        low = -128 if spec.dtype == "int8" else 0
        return (values * 255 + low).round().astype(spec.dtype)
    return values.astype(spec.dtype)


def _output(spec: TensorSpec, answers: list[Array]) -> TensorSpec:
    """The spec with the shape that the trials gave: -1 where they differ."""
    first, second = (answer.shape for answer in answers)
    shape = first
    if first != second:
        if len(first) != len(second):
            shape = ()
        else:
            shape = tuple(a if a == b else -1 for a, b in zip(first, second, strict=True))
    return TensorSpec(
        name=spec.name, shape=tuple(map(int, shape)), dtype=spec.dtype,
        quantization=spec.quantization,
    )  # fmt: skip


def _real(stored: Array, spec: TensorSpec) -> Array:
    if stored.dtype.kind not in "fiub":
        return np.zeros(0)
    values = stored.astype(np.float64)
    if spec.quantization is not None and stored.dtype.kind in "iu":
        values = (values - spec.quantization.zero_point) * spec.quantization.scale
    return values
