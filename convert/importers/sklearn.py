"""scikit-learn: an estimator or a pipeline that takes a row of numbers.

A .skops file holds no code; types beyond scikit-learn's own are refused. A .joblib is a pickle,
which runs whatever its maker put in, so it is opened only when that is asked for.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from convert.errors import CannotConvert, ConversionError, reason
from convert.importers import ModelSource, need
from convert.importers.boosting import EXTRA, SAME, checked_graph, one_output, row_spec
from convert.importers.onnx import OnnxModel
from convert.original import Exported, ExportOptions, Format
from convert.probe import noise, worst_error
from edge.types import Array, TensorSpec

_OPSET = {"": 20, "ai.onnx.ml": 3}
_TRUSTED = (
    "sklearn._loss.",
    "sklearn.ensemble._hist_gradient_boosting.",
    "sklearn.metrics._dist_metrics.",
    "sklearn.neighbors.",
    "sklearn.neural_network._stochastic_optimizers.",
    "sklearn.tree._tree.",
)
"""Parts of scikit-learn's own estimators that skops leaves to its caller: they hold numbers."""


class SklearnModel:
    """The original as an estimator; one output, by what it is.

    A classifier gives `probabilities` [1, C], or `scores` [1, C] where it has none (of two classes
    the second has the decision, the first its negative); a regressor `value` [1, targets]; a
    detector of outliers `score` [1, 1], below 0 for an outlier.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        input: TensorSpec | None,
        outputs: tuple[str, ...],
        where: str,
    ) -> None:
        self.module = estimator
        self.notes: tuple[str, ...] = ()
        self._where = where
        self._method, name = _says(estimator, where)
        features = getattr(estimator, "n_features_in_", None)
        if features is None:
            raise ConversionError(f"{where}: {type(estimator).__name__} is not fitted")
        self.input = row_spec(int(features), input, where)
        self._name = one_output(name, outputs, where)
        found = self.run(noise(self.input))[self._name]
        self.outputs = (TensorSpec(name=self._name, shape=found.shape),)

    def run(self, tensor: Array) -> dict[str, Array]:
        """A row float32 [1, F] -> the one output."""
        try:
            found = np.asarray(getattr(self.module, self._method)(tensor), np.float32)
        except Exception as error:
            raise ConversionError(f"{self._where}: does not run: {reason(error)}") from error
        found = found.reshape(len(tensor), -1)
        if self._method == "decision_function" and self._two:
            found = np.hstack([-found, found])
        return {self._name: found}

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """ONNX by skl2onnx; TFLite, and ONNX where skl2onnx fails, by way of a torch module."""
        if format == "onnx":
            try:
                return self._graph.export("onnx", options)
            except CannotConvert as error:
                return self._from_torch("onnx", options, error)
        return self._from_torch("tflite", options)

    def _from_torch(
        self, format: Format, options: ExportOptions, failed: CannotConvert | None = None
    ) -> Exported:
        """Re-expressed as a torch module; without a way, what failed before is the reason."""
        from convert.exporters import estimators

        try:
            module = estimators.module_of(self.module, self._method)
            self._check(module)
        except CannotConvert as error:
            raise failed or error from error
        if format == "onnx":
            from convert.exporters import onnx

            return onnx.export(module, self.input, self.outputs, options)
        from convert.exporters import tflite

        return tflite.export(module, self.input, self.outputs, options)

    @property
    def _two(self) -> bool:
        return len(getattr(self.module, "classes_", ())) == 2

    @functools.cached_property
    def _graph(self) -> OnnxModel:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType

        # Which options there are differs between estimators, and skl2onnx says so by NameError.
        attempts: list[dict[str, Any]] = [{}]
        if hasattr(self.module, "classes_"):
            attempts = [{"zipmap": False}, {}]
            if self._method == "decision_function":
                attempts = [{"zipmap": False, "raw_scores": True}, {"raw_scores": True}, *attempts]
        for number, options in enumerate(attempts, start=1):
            try:
                proto = skl2onnx.convert_sklearn(
                    self.module,
                    initial_types=[(self.input.name, FloatTensorType([None, self.input.shape[1]]))],
                    options={id(self.module): options},
                    target_opset=_OPSET,
                )
                break
            except Exception as error:
                if not isinstance(error, NameError) or number == len(attempts):
                    raise CannotConvert(f"skl2onnx failed: {reason(error)}") from error
        return checked_graph(proto, self.input, self.outputs, self.run)

    def _check(self, module: Any) -> None:
        """The torch module must say what the estimator says, on random rows."""
        import torch

        for seed in range(8):
            row = noise(self.input, seed)
            with torch.inference_mode():
                found = {self._name: module(torch.from_numpy(row)).numpy()}
            worst = worst_error(self.run(row), found)
            if worst > SAME:
                raise CannotConvert(
                    f"{type(self.module).__name__} is re-expressed for TFLite, and off by"
                    f" {worst:.2g} of its range on a random row; ship ONNX"
                )


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> SklearnModel:
    """The estimator of a .skops, or of a .joblib where that was asked for."""
    path = source.path
    need("sklearn", EXTRA)
    need("skl2onnx", EXTRA)
    if path.suffix == ".joblib":
        estimator = _unsafe(source)
    else:
        skops = need("skops.io", EXTRA)
        try:
            types = skops.get_untrusted_types(file=path)
            strange = [name for name in types if not name.startswith(_TRUSTED)]
            if not strange:
                estimator = skops.load(path, trusted=types)
        except Exception as error:  # a broken archive fails in many ways
            raise ConversionError(
                f"{path}: not a skops file that can be read ({reason(error)}); save it again with"
                " skops.io.dump"
            ) from error
        if strange:
            raise ConversionError(
                f"{path}: holds {', '.join(strange)}, not of scikit-learn itself, so it is not"
                " opened; build the model without them"
            )
    return SklearnModel(estimator, input=input, outputs=outputs, where=str(path))


def _unsafe(source: ModelSource) -> Any:
    if not source.unsafe_joblib:
        raise ConversionError(
            f"{source.path}: a .joblib is a pickle: opening it runs any code that its maker, or"
            " whoever had it in between, put in. Save the model with skops.io.dump; if you made"
            " this file yourself, --unsafe-joblib opens it"
        )
    joblib = need("joblib", EXTRA)
    try:
        return joblib.load(source.path)
    except Exception as error:
        raise ConversionError(f"{source.path}: cannot be read: {reason(error)}") from error


def _says(estimator: Any, where: str) -> tuple[str, str]:
    """The method that is asked, and the name of what it gives."""
    from sklearn import base

    if not isinstance(estimator, base.BaseEstimator):
        raise ConversionError(f"{where}: holds {type(estimator).__name__}, not an estimator")
    if base.is_classifier(estimator):
        if hasattr(estimator, "predict_proba"):
            return "predict_proba", "probabilities"
        return "decision_function", "scores"
    if base.is_regressor(estimator):
        return "predict", "value"
    if base.is_outlier_detector(estimator):
        return "decision_function", "score"
    raise ConversionError(
        f"{where}: {type(estimator).__name__} neither classifies, nor predicts a value, nor finds"
        " outliers"
    )
