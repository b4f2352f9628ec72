"""Tree ensembles -> a torch module of matrix products, and by that to TFLite.

The GEMM strategy of Hummingbird (Nakandala et al., "A Tensor Compiler for Unified Machine Learning
Prediction Serving", OSDI 2020, section 4.1): all decisions of a tree are taken at once; a leaf is
the one whose path agrees with all of them. With a tree's inner nodes i and leaves l, for a row x:

    d[i] = x[feature[i]] <= threshold[i]                          0 or 1
    s[l] = sum_i d[i] * C[i, l]       C: +1 where l lies on the true side of i, -1 on the false side
    leaf l holds  <=>  s[l] == number of true sides on its path
    y = sum over trees of sum_l [leaf l] * value[l]

Sums of 0 and 1 are exact, so that the result is that of the trees. Not-a-number never arrives: edge
refuses samples that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from convert.errors import CannotConvert
from edge.types import Array

LARGEST_BYTES = 32_000_000
"""The matrices grow with nodes x leaves: a forest of 30 trees of depth 8 has 3 MB (0.6 as ONNX)."""
_CLASSIFIER, _REGRESSOR = "TreeEnsembleClassifier", "TreeEnsembleRegressor"
_PASSING = {"Identity", "Cast", "Mul"}
"""What exporters put behind the trees without changing a number (Mul by one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree. Inner node i: x[feature[i]] <= threshold[i] leads to `true[i]`, else `false[i]`.

    A child below 0 is leaf -child - 1. `values` [leaves, outputs]. A single leaf has no nodes.
    """

    feature: Array
    threshold: Array
    true: Array
    false: Array
    values: Array


class Trees(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """A row float32 [1, F] -> the sum of the trees' leaf values plus `base` [1, outputs]."""

    def __init__(self, trees: list[Tree], base: Array) -> None:
        super().__init__()
        inner = max(1, *(len(tree.feature) for tree in trees))
        leaves = max(len(tree.values) for tree in trees)
        outputs = trees[0].values.shape[1]
        size = 4 * len(trees) * (inner * leaves + leaves * outputs)
        if size > LARGEST_BYTES:
            raise CannotConvert(
                f"{len(trees)} trees with up to {leaves} leaves become {size / 1e6:.0f} MB of"
                f" matrices in TFLite, more than {LARGEST_BYTES / 1e6:.0f}; train fewer or"
                " shallower trees (max_depth), or ship ONNX"
            )
        feature = np.zeros((len(trees), inner), np.int64)
        # Padding: a node that is never true and on nobody's path; a leaf that is never reached.
        threshold = np.full((len(trees), inner), -np.finfo(np.float32).max, np.float32)
        paths = np.zeros((len(trees), inner, leaves), np.float32)
        wanted = np.full((len(trees), 1, leaves), -1e6, np.float32)
        values = np.zeros((len(trees), leaves, outputs), np.float32)
        for index, tree in enumerate(trees):
            count = len(tree.feature)
            feature[index, :count] = tree.feature
            threshold[index, :count] = tree.threshold
            values[index, : len(tree.values)] = tree.values
            for leaf, path in _paths(tree).items():
                wanted[index, 0, leaf] = sum(side > 0 for _, side in path)
                for node, side in path:
                    paths[index, node, leaf] = side
        self.shape = (len(trees), inner, leaves)
        for name, value in (
            ("feature", feature.reshape(-1)),
            ("threshold", threshold.reshape(1, -1)),
            ("paths", paths),
            ("wanted", wanted),
            ("values", values),
            ("base", np.asarray(base, np.float32).reshape(1, -1)),
        ):
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        trees, inner, _ = self.shape
        decisions = (torch.index_select(row, 1, self.feature) <= self.threshold).to(torch.float32)
        agreed = torch.bmm(decisions.reshape(trees, 1, inner), self.paths)
        reached = (agreed == self.wanted).to(torch.float32)
        return torch.bmm(reached, self.values).sum(dim=0) + self.base


class Ensemble(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Trees and what the node does to their sum (`post_transform`)."""

    def __init__(self, trees: Trees, *, transform: str, two: bool) -> None:
        super().__init__()
        self.trees = trees
        self.transform = transform
        self.two = two

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """Scores [1, classes] or values [1, targets]."""
        found = self.trees(row)
        if self.transform == "LOGISTIC":
            found = torch.sigmoid(found)
        if self.two:
            # One score for two classes: that of the second.
            found = torch.cat([1 - found, found], dim=1)
        return torch.softmax(found, dim=1) if self.transform == "SOFTMAX" else found


def module_of(proto: onnx.ModelProto, output: str) -> Ensemble:
    """The ensemble that gives this output of an ONNX graph. CannotConvert for any other graph."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    name = output
    while (node := makers.get(name)) is not None and node.op_type in _PASSING:
        others = [constants.get(given) for given in node.input[1:]]
        if any(value is None or not (value == 1).all() for value in others):
            raise CannotConvert(f"{node.op_type} behind the trees is more than they can do")
        name = node.input[0]
    if node is None or node.op_type not in (_CLASSIFIER, _REGRESSOR):
        kinds = sorted({n.op_type for n in proto.graph.node if n.domain == "ai.onnx.ml"})
        raise CannotConvert(f"no tree ensemble alone gives {output} (there are {', '.join(kinds)})")
    if node.input[0] not in {value.name for value in proto.graph.input}:
        raise CannotConvert("something stands before the trees; convert the pipeline itself")
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return _ensemble(node.op_type == _CLASSIFIER, given, node.output[0] == name)


def _ensemble(classifies: bool, given: Mapping[str, Any], label: bool) -> Ensemble:
    if classifies and label:
        raise CannotConvert("the label is left to the device; take the probabilities")
    transform = given.get("post_transform", b"NONE").decode()
    if transform not in ("NONE", "LOGISTIC", "SOFTMAX"):
        raise CannotConvert(f"post_transform {transform} of the trees")
    prefix = "class" if classifies else "target"
    labels = len(given.get("classlabels_int64s", given.get("classlabels_strings", ())))
    columns = labels if classifies else int(given.get("n_targets", 1))
    ids = set(given[f"{prefix}_ids"])
    one = classifies and columns == 2 and len(ids) == 1
    trees = _trees(given, prefix, 1 if one else columns, averaged=given.get("aggregate_function"))
    base = np.asarray(given.get("base_values", [0.0] * trees[0].values.shape[1]), np.float32)
    if base.size != trees[0].values.shape[1]:
        raise CannotConvert("base_values of the trees do not fit their outputs")
    return Ensemble(Trees(trees, base), transform=transform, two=one)


def _trees(
    given: Mapping[str, Any], prefix: str, columns: int, averaged: bytes | None
) -> list[Tree]:
    """The trees of a node's flat attributes."""
    scale = 1.0
    roots: dict[int, list[int]] = {}
    for index, tree in enumerate(given["nodes_treeids"]):
        roots.setdefault(tree, []).append(index)
    if averaged not in (None, b"SUM", b"AVERAGE"):
        raise CannotConvert(f"aggregate_function {averaged.decode()} of the trees")
    if averaged == b"AVERAGE":
        scale = 1 / len(roots)
    leaves: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for tree, node, column, weight in zip(
        given[f"{prefix}_treeids"],
        given[f"{prefix}_nodeids"],
        given[f"{prefix}_ids"],
        given[f"{prefix}_weights"],
        strict=True,
    ):
        leaves.setdefault((tree, node), []).append((0 if columns == 1 else column, weight * scale))
    return [_tree(given, tree, indices, leaves, columns) for tree, indices in roots.items()]


def _tree(
    given: Mapping[str, Any],
    tree: int,
    indices: list[int],
    leaves: Mapping[tuple[int, int], list[tuple[int, float]]],
    columns: int,
) -> Tree:
    place: dict[int, int] = {}
    inner = [i for i in indices if given["nodes_modes"][i] != b"LEAF"]
    values = np.zeros((len(indices) - len(inner), columns), np.float32)
    for number, index in enumerate(inner):
        place[given["nodes_nodeids"][index]] = number
    for number, index in enumerate(i for i in indices if given["nodes_modes"][i] == b"LEAF"):
        node = given["nodes_nodeids"][index]
        place[node] = -number - 1
        for column, weight in leaves.get((tree, node), []):
            values[number, column] += weight
    thresholds, true, false = [], [], []
    for index in inner:
        threshold = np.float32(given["nodes_values"][index])
        ends = (given["nodes_truenodeids"][index], given["nodes_falsenodeids"][index])
        match given["nodes_modes"][index]:
            case b"BRANCH_LEQ":
                pass
            case b"BRANCH_LT":
                threshold = np.nextafter(threshold, np.float32(-np.inf))
            case b"BRANCH_GT":
                ends = ends[::-1]
            case b"BRANCH_GTE":
                threshold, ends = np.nextafter(threshold, np.float32(-np.inf)), ends[::-1]
            case mode:
                raise CannotConvert(f"{mode.decode()} (a test of categories) in the trees")
        thresholds.append(threshold)
        true.append(place[ends[0]])
        false.append(place[ends[1]])
    return Tree(
        feature=np.array([given["nodes_featureids"][i] for i in inner], np.int64),
        threshold=np.array(thresholds, np.float32),
        true=np.array(true, np.int64),
        false=np.array(false, np.int64),
        values=values,
    )


def _paths(tree: Tree) -> dict[int, list[tuple[int, int]]]:
    """By leaf the inner nodes above it, each with 1 (its true side) or -1."""
    if not len(tree.feature):
        return {0: []}
    found: dict[int, list[tuple[int, int]]] = {}
    children = set(tree.true) | set(tree.false)
    (root,) = (node for node in range(len(tree.feature)) if node not in children)
    waiting: list[tuple[int, list[tuple[int, int]]]] = [(root, [])]
    while waiting:
        node, path = waiting.pop()
        if node < 0:
            found[-node - 1] = path
        else:
            waiting.append((int(tree.true[node]), [*path, (node, 1)]))
            waiting.append((int(tree.false[node]), [*path, (node, -1)]))
    return found
