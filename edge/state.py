"""Recurrent models: which tensors are their state, and the state of one stream.

A state tensor is an output that the next call takes as an input. It begins as zeros, belongs to the
stream and never to the engine, which other streams share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.errors import BundleError, FrameError
from edge.finite import all_finite
from edge.manifest import StatePair, Variant
from edge.types import Array, Frame, TensorSpec

_BEFORE = ("in", "input", "prev", "previous", "past", "past_key_values", "old", "initial", "init")
_AFTER = ("out", "output", "new", "next", "present", "updated", "final", "last", "current")
_GLUED = {"before": ("in", "i", "0"), "after": ("out", "o", "n")}
_STATE_WORD = re.compile(
    r"(states?|hidden|cell|carry|memory|mem|caches?|buffer|context|key|value|gru|lstm|rnn"
    r"|h|c|hx|cx|r)\d*"
)


class State:
    """The inputs that a model takes beside the frame: its state, and its constants."""

    def __init__(self, variant: Variant) -> None:
        specs = {spec.name: spec for spec in variant.inputs}
        outputs = {spec.name: spec for spec in variant.outputs}
        self._pairs = variant.state
        self._inputs: dict[str, Array] = {}
        for pair in variant.state:
            into, out = specs.get(pair.input), outputs.get(pair.output)
            if into is None or out is None or (into.shape, into.dtype) != (out.shape, out.dtype):
                raise BundleError(
                    f"{variant.name}: state {pair.input} <- {pair.output}: there must be an input"
                    f" and an output of these names, of one shape and dtype, not {into} and {out}"
                )
        for name, value in variant.constants.items():
            if name not in specs:
                raise BundleError(f"{variant.name}: constant {name} is no input of the model")
            self._inputs[name] = _constant(variant.name, specs[name], value)
        self._zeros = {
            pair.input: _constant(variant.name, specs[pair.input], 0) for pair in variant.state
        }
        rest = [name for name in specs if name not in self._inputs and name not in self._zeros]
        if len(rest) != 1:
            raise BundleError(
                f"{variant.name}: one input is for the frame, the others must be state or"
                f" constants; left are {', '.join(rest) or 'none'}"
            )
        self.frame_input = specs[rest[0]]
        self.reset()

    def inputs(self, tensor: Array) -> dict[str, Array]:
        """Everything that the engine is to be given with a frame's tensor."""
        return {self.frame_input.name: tensor, **self._inputs}

    def keep(self, outputs: Mapping[str, Array]) -> None:
        """Take over the state that the engine gave.

        FrameError when it is not finite: it would never be again, so that it starts anew.
        """
        for pair in self._pairs:
            if not all_finite(outputs[pair.output]):
                self.reset()
                raise FrameError(f"the model's state {pair.output} is not finite; it starts anew")
            self._inputs[pair.input] = outputs[pair.output]

    def reset(self) -> None:
        """Start anew."""
        self._inputs.update(self._zeros)

    def __bool__(self) -> bool:
        return bool(self._pairs)


class Gaps:
    """Whether a stream's frames follow one another. `gap_s` 0: however long they take."""

    def __init__(self, gap_s: float) -> None:
        self._gap_ns = round(gap_s * 1e9)
        self._last: Frame | None = None
        self._missed = False

    def before(self, frame: Frame) -> bool:
        """Whether something is missing between this frame and the last one that was given here."""
        last, self._last = self._last, frame
        missed, self._missed = self._missed, False
        if last is None:
            return False
        paused = 0 < self._gap_ns < frame.mono_ns - last.mono_ns
        return missed or paused or frame.number != last.number + 1

    def missed(self) -> None:
        """The last frame that was given here could not be used."""
        self._missed = True


def find_state(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[StatePair, ...]:
    """The state tensors of a graph: an input that is named like a state, with the output of its
    shape and dtype that is named like it (h and hn, state and stateN, h_in and h_out, prev_c and
    new_c) or is the only one. Sizes that the graph leaves free (-1) fit any other.

    Nothing is found where the names do not say it for sure: a model without state may well have an
    output of its input's shape. One input at least is left for the frame.
    """
    wanted = [spec for spec in inputs if any(map(_names_state, _stems(spec.name, "before")))]
    free, pairs = list(outputs), {}
    for by_name in (True, False):
        for into in wanted:
            fitting = [out for out in free if _alike(into, out)]
            if by_name:
                fitting = [out for out in fitting if _named_alike(into.name, out.name)]
            rivals = [other for other in wanted if other.name not in pairs and _alike(into, other)]
            if into.name not in pairs and len(fitting) == 1 and (by_name or len(rivals) == 1):
                free.remove(fitting[0])
                pairs[into.name] = StatePair(input=into.name, output=fitting[0].name)
    found = tuple(pairs[spec.name] for spec in inputs if spec.name in pairs)
    return found if len(found) < len(inputs) and free else ()


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    same_rank = one.dtype == other.dtype and len(one.shape) == len(other.shape)
    return same_rank and all(
        a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True)
    )


def _named_alike(into: str, out: str) -> bool:
    return any(_names_state(stem) for stem in _stems(into, "before") & _stems(out, "after"))


def _stems(name: str, role: str) -> set[str]:
    """What a name may mean without the part that says whether it comes before or after a step."""
    name = name.lower().removeprefix("serving_default_").partition(":")[0]
    found = {name}
    for word in _BEFORE if role == "before" else _AFTER:
        for separator in "_.-/":
            found.add(name.removeprefix(word + separator))
            found.add(name.removesuffix(separator + word))
            found.add(name.replace(f"{separator}{word}{separator}", separator))
    for end in _GLUED[role]:
        found.add(name.removesuffix(end))
    return {stem.strip("_.-/") for stem in found}


def _names_state(stem: str) -> bool:
    return any(_STATE_WORD.fullmatch(word) for word in re.split(r"[_.\-/]", stem))


def _constant(variant: str, spec: TensorSpec, value: Any) -> Array:
    try:
        return np.broadcast_to(np.array(value, spec.dtype), spec.shape).copy()
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BundleError(f"{variant}: {value!r} does not fit the input {spec}: {error}") from error
