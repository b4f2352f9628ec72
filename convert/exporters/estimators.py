"""scikit-learn estimators re-expressed as torch modules, for TFLite.

Invariant: only what is known here is re-expressed; whoever calls holds the module against the
estimator, since a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from convert.errors import CannotConvert, reason
from convert.exporters.trees import Tree, Trees
from convert.exporters.trees import module_of as trees_of
from edge.types import Array

Step = Callable[[Any], torch.nn.Module]
_ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "logistic": torch.nn.Sigmoid,
}


class _Affine(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """(x - shift) * factor, per feature."""

    def __init__(self, shift: Any, factor: Any, count: int) -> None:
        super().__init__()
        self.register_buffer("shift", _row(0.0 if shift is None else shift, count))
        self.register_buffer("factor", _row(1.0 if factor is None else factor, count))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """[1, F] -> [1, F]."""
        return (row - self.shift) * self.factor


class _Clip(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """[1, F] -> [1, F]."""
        return row.clamp(self.low, self.high)


class _Unit(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Rows of Euclidean length 1; one of zeros stays."""

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """[1, F] -> [1, F]."""
        length = (row * row).sum(dim=1, keepdim=True).sqrt()
        return row / torch.where(length == 0, torch.ones_like(length), length)


class _Head(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Decisions [1, K] -> what a classifier says of its classes [1, C]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        """`both` and `probability` make two classes of one decision, `shares` one against all."""
        if self.kind == "both":
            return torch.cat([-found, found], dim=1)
        if self.kind == "probability":
            found = torch.sigmoid(found)
            return torch.cat([1 - found, found], dim=1)
        if self.kind == "shares":
            found = torch.sigmoid(found)
            return found / found.sum(dim=1, keepdim=True)
        return torch.softmax(found, dim=1) if self.kind == "softmax" else found


class _Kernel(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """sum_i alpha[i] * K(x, v[i]) + b over the support vectors v (libsvm's decision)."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self.kind = machine.kernel
        self.gamma, self.degree = float(machine._gamma), float(machine.degree)
        self.coef0 = float(machine.coef0)
        self.register_buffer("vectors", _tensor(machine.support_vectors_))
        self.register_buffer("alpha", _tensor(machine.dual_coef_).T.contiguous())
        self.register_buffer("bias", _tensor(machine.intercept_).reshape(1, -1))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """[1, F] -> [1, 1]."""
        if self.kind == "rbf":
            apart = self.vectors - row
            kernel = torch.exp(-self.gamma * (apart * apart).sum(dim=1)).reshape(1, -1)
        else:
            kernel = row @ self.vectors.T
            if self.kind != "linear":
                kernel = self.gamma * kernel + self.coef0
            if self.kind == "poly":
                kernel = kernel**self.degree
            if self.kind == "sigmoid":
                kernel = torch.tanh(kernel)
        return kernel @ self.alpha + self.bias


class _Isolation(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Mean depth of a row's leaves -> 2^(-depth / expected) (Liu et al. 2008, eq. 2), shifted."""

    def __init__(self, trees: Trees, expected: float, offset: float) -> None:
        super().__init__()
        self.trees, self.expected, self.offset = trees, expected, offset

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """[1, F] -> [1, 1], below 0 for an outlier."""
        return -torch.exp2(-self.trees(row) / self.expected) - self.offset


def module_of(estimator: Any, method: str) -> torch.nn.Module:
    """A module that takes a row float32 [1, F] and gives what `method` gives, float32 [1, K].

    CannotConvert with the step that is not known.
    """
    from sklearn.pipeline import Pipeline

    steps = (
        [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    )
    parts = [_transform(step) for step in steps[:-1] if step not in (None, "passthrough")]
    return torch.nn.Sequential(*parts, _final(steps[-1], method)).eval()


def _transform(step: Any) -> torch.nn.Module:
    count = getattr(step, "n_features_in_", 0)
    match type(step).__name__:
        case "StandardScaler":
            scale = None if step.scale_ is None else 1 / step.scale_
            return _Affine(step.mean_ if step.with_mean else None, scale, count)
        case "MinMaxScaler":
            plain = _Affine(-step.min_ / step.scale_, step.scale_, count)
            return torch.nn.Sequential(plain, _Clip(*step.feature_range)) if step.clip else plain
        case "MaxAbsScaler":
            return _Affine(None, 1 / step.scale_, count)
        case "RobustScaler":
            scale = None if step.scale_ is None else 1 / step.scale_
            return _Affine(step.center_, scale, count)
        case "Normalizer" if step.norm == "l2":
            return _Unit()
        case "PCA":
            weights = step.components_
            if step.whiten:
                weights = weights / np.sqrt(step.explained_variance_)[:, None]
            return _linear(weights, -weights @ step.mean_)
    raise CannotConvert(f"{type(step).__name__} is not re-expressed for TFLite; ship ONNX")


def _final(step: Any, method: str) -> torch.nn.Module:
    from sklearn import ensemble, neural_network, svm, tree

    if isinstance(step, neural_network.MLPClassifier | neural_network.MLPRegressor):
        return _perceptron(step)
    if isinstance(step, svm.SVC | svm.NuSVC | svm.SVR | svm.NuSVR | svm.OneClassSVM):
        return _machine(step, method)
    if isinstance(step, ensemble.IsolationForest):
        return _isolation(step)
    if (
        isinstance(step, tree.BaseDecisionTree | ensemble.BaseEnsemble)
        or "Boosting" in type(step).__name__
    ):
        return _trees(step)
    if hasattr(step, "coef_") and hasattr(step, "intercept_"):
        return torch.nn.Sequential(_linear(step.coef_, step.intercept_), _head(step, method))
    raise CannotConvert(f"{type(step).__name__} is not re-expressed for TFLite; ship ONNX")


def _head(step: Any, method: str) -> _Head:
    two = len(getattr(step, "classes_", ())) == 2
    if method == "predict_proba":
        if two:
            return _Head("probability")
        return _Head("shares" if type(step).__name__ == "SGDClassifier" else "softmax")
    return _Head("both" if two else "plain")


def _linear(weights: Any, bias: Any) -> torch.nn.Linear:
    matrix = np.atleast_2d(np.asarray(weights, np.float32))
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0])
    layer.weight.data = _tensor(matrix)
    layer.bias.data = torch.zeros(len(matrix)) + _tensor(np.atleast_1d(bias))
    return layer.requires_grad_(False)


def _perceptron(step: Any) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for weights, bias in zip(step.coefs_, step.intercepts_, strict=True):
        layers += [_linear(weights.T, bias), _ACTIVATIONS[step.activation]()]
    layers.pop()
    kind = {"logistic": "probability", "softmax": "softmax"}.get(step.out_activation_, "plain")
    if kind == "probability" and len(step.classes_) != 2:
        raise CannotConvert("an MLP with several labels at once; ship ONNX")
    return torch.nn.Sequential(*layers, _Head(kind))


def _machine(step: Any, method: str) -> torch.nn.Module:
    if method == "predict_proba":
        raise CannotConvert("probabilities of a support vector machine; ship ONNX")
    if not isinstance(step.kernel, str) or step.kernel == "precomputed":
        raise CannotConvert("a support vector machine with a kernel of its own")
    classes = len(getattr(step, "classes_", ()))
    if classes > 2:
        raise CannotConvert("a support vector machine of more than two classes; ship ONNX")
    return torch.nn.Sequential(_Kernel(step), _Head("both" if classes else "plain"))


def _trees(step: Any) -> torch.nn.Module:
    """By way of ONNX, where every kind of ensemble is one node."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    options = {"zipmap": False} if hasattr(step, "classes_") else {}
    try:
        proto = skl2onnx.convert_sklearn(
            step,
            initial_types=[("row", FloatTensorType([None, step.n_features_in_]))],
            options={id(step): options},
        )
    except Exception as error:
        raise CannotConvert(f"skl2onnx failed: {reason(error)}") from error
    return trees_of(proto, proto.graph.output[-1].name)


def _isolation(forest: Any) -> _Isolation:
    from sklearn.ensemble._iforest import _average_path_length

    trees = []
    for estimator, features in zip(forest.estimators_, forest.estimators_features_, strict=True):
        grown = estimator.tree_
        inner = np.flatnonzero(grown.children_left >= 0)
        leaves = np.flatnonzero(grown.children_left < 0)
        place = {int(node): number for number, node in enumerate(inner)}
        place |= {int(node): -number - 1 for number, node in enumerate(leaves)}
        depth = grown.compute_node_depths()[leaves] - 1
        values = depth + _average_path_length(grown.n_node_samples[leaves])
        trees.append(
            Tree(
                feature=np.asarray(features)[grown.feature[inner]],
                threshold=_floor(grown.threshold[inner]),
                true=np.array([place[int(node)] for node in grown.children_left[inner]], np.int64),
                false=np.array([place[int(n)] for n in grown.children_right[inner]], np.int64),
                values=(values[:, None] / len(forest.estimators_)).astype(np.float32),
            )
        )
    expected = float(_average_path_length(np.array([forest.max_samples_]))[0])
    return _Isolation(Trees(trees, np.zeros(1)), expected, float(forest.offset_))


def _floor(threshold: Array) -> Array:
    """The largest float32 that is not above: x <= it says the same for every float32 x."""
    found = threshold.astype(np.float32)
    return np.where(found > threshold, np.nextafter(found, np.float32(-np.inf)), found)


def _tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(value, np.float32, order="C"))


def _row(value: Any, count: int) -> torch.Tensor:
    return _tensor(np.broadcast_to(np.asarray(value, np.float32), (1, count)))
