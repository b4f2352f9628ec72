"""Where the error of a model starts: one model against another, layer by layer.

A layer's own share is what its output's error has beyond that of its inputs. Memory is that of one
sample's tensors in both models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert import activations, graph
from convert.graph import Graph, Op
from convert.layouts import to_layout
from convert.original import Exported
from edge.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One layer. `layer` is what `keep_float` takes, `op` the op's type.

    `error` is the largest difference of its output relative to the range of the reference's;
    `added` is that less the largest error of its inputs.
    """

    layer: str
    op: str
    error: float
    added: float


def blame(reference: Exported, candidate: Exported, tensors: Sequence[Array]) -> list[LayerError]:
    """The layers of `reference` by the error that `candidate` adds in each, worst first.

    Both take the same inputs; `tensors` are in the layout of `reference.input`, and few are
    enough. Tensors belong together by name; where two converters named them differently, by op,
    shape and order. Empty where nothing matches, as in two models of different make or format.
    """
    if reference.format != candidate.format:
        return []
    expected = graph.read(reference.format, reference.model)
    found = graph.read(candidate.format, candidate.model)
    run_expected = activations.of(reference.format, reference.model)
    run_found = activations.of(candidate.format, candidate.model)
    pairs: dict[str, str] | None = None
    errors: dict[str, float] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for tensor in tensors:
        ours = run_expected(tensor)
        theirs = run_found(to_layout(tensor, reference.input, candidate.input))
        if pairs is None:
            pairs = _pairs(expected, found, ours, theirs)
        for name, other in pairs.items():
            a, b = ours.get(name), theirs.get(other)
            if a is None or b is None or a.size != b.size:
                continue
            difference = np.abs(a.reshape(-1).astype(np.float64) - b.reshape(-1))
            difference = difference[np.isfinite(difference)]
            worst = float(difference.max()) if difference.size else 0.0
            errors[name] = max(errors.get(name, 0.0), worst)
            low[name] = min(low.get(name, np.inf), float(a.min()))
            high[name] = max(high.get(name, -np.inf), float(a.max()))
    relative = {
        name: worst / (high[name] - low[name])
        for name, worst in errors.items()
        if 0 < high[name] - low[name] < np.inf
    }
    return _layers(expected, relative)


def _layers(seen: Graph, errors: Mapping[str, float]) -> list[LayerError]:
    """The error that each op adds to the largest one that reaches it."""
    producers = {name: op for op in seen.ops for name in op.outputs}
    # What reaches a tensor that has no error of its own is what reached the op before.
    reached = dict.fromkeys(seen.inputs, 0.0) | dict(errors)
    layers = []
    for op in seen.ops:
        incoming = max((reached.get(name, 0.0) for name in op.inputs), default=0.0)
        for name in op.outputs:
            reached.setdefault(name, incoming)
        known = [errors[name] for name in op.outputs if name in errors]
        if known and op.inputs:
            error = max(known)
            before = producers.get(op.inputs[0], op)
            alone = graph.kind(op.type) in graph.MERGED and op.inputs[0] not in errors
            layer = before if alone else op
            layers.append(
                LayerError(layer=layer.name, op=layer.type, error=error, added=error - incoming)
            )
    return sorted(layers, key=lambda layer: layer.added, reverse=True)


def _pairs(
    expected: Graph, found: Graph, ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> dict[str, str]:
    """Tensors of the one model -> those of the other that stand for them."""
    pairs = _by_name(expected, found, ours, theirs)
    inner = sum(len(op.outputs) for op in expected.ops if op.inputs)
    # Inputs and outputs have the same names in any two files of one model: no sign of kinship.
    if len(pairs) > max(2, inner // 4):
        return pairs
    return _by_order(expected, found, ours, theirs)


def _by_name(
    expected: Graph, found: Graph, ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> dict[str, str]:
    restored = _restored(found)
    after = _merged_activations(expected)
    pairs = {}
    for op in expected.ops:
        for name in op.outputs:
            if name not in ours or name not in theirs:
                continue
            # A convolution that took in the activation after it is judged behind that.
            behind = after.get(name, name)
            source = name if behind in theirs else behind
            if source in ours and ours[source].size == theirs[name].size:
                pairs[source] = restored.get(name, name)
    return pairs


def _restored(found: Graph) -> dict[str, str]:
    """Tensors that are quantised -> what is restored from them, with which the rest goes on."""
    producers = {name: op for op in found.ops for name in op.outputs}
    restored = {}
    for op in found.ops:
        if graph.kind(op.type) != "dequantizelinear" or not op.inputs:
            continue
        before = producers.get(op.inputs[0])
        if before is not None and graph.kind(before.type) == "quantizelinear" and before.inputs:
            restored[before.inputs[0]] = op.outputs[0]
    return restored


def _merged_activations(expected: Graph) -> dict[str, str]:
    """Tensors that one activation alone takes -> the output of that activation."""
    consumers: dict[str, list[Op]] = {}
    for op in expected.ops:
        for name in op.inputs:
            consumers.setdefault(name, []).append(op)
    return {
        name: ops[0].outputs[0]
        for name, ops in consumers.items()
        if len(ops) == 1 and graph.kind(ops[0].type) in graph.MERGED
    }


def _by_order(
    expected: Graph, found: Graph, ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> dict[str, str]:
    """Ops of the same type and shape, in the order in which they run."""
    pairs = {}
    waiting = [
        (graph.kind(op.type), name)
        for op in found.ops
        for name in op.outputs
        if op.inputs and name in theirs
    ]
    for op in expected.ops:
        for name in op.outputs:
            if not op.inputs or name not in ours:
                continue
            for place, (kind, other) in enumerate(waiting):
                if kind == graph.kind(op.type) and theirs[other].size == ours[name].size:
                    pairs[name] = other
                    del waiting[: place + 1]
                    break
    return pairs
