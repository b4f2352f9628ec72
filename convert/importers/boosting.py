"""xgboost (.json, .ubj) and lightgbm (.txt): their own model files, which hold numbers alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.errors import CannotConvert, ConversionError, reason
from convert.importers import ModelSource, need
from convert.importers.onnx import OnnxModel, renamed
from convert.layouts import check_input
from convert.original import Exported, ExportOptions, Format
from convert.probe import noise, worst_error
from edge.types import Array, TensorSpec

EXTRA = "convert-sklearn"
SAME = 1e-4
"""Largest error of the ONNX graph relative to the output's range: sums in float32."""
_OPSET = 15


class BoostingModel:
    """The original as a booster. It gives `probabilities` [1, C], or `value` [1, 1].

    `predict` takes rows [N, F] and gives [N, outputs]; `convert` makes the ONNX graph, whose last
    output is the same.
    """

    def __init__(
        self,
        module: Any,
        *,
        features: int,
        predict: Callable[[Array], Array],
        convert: Callable[[str], Any],
        name: str,
        input: TensorSpec | None,
        outputs: tuple[str, ...],
        where: str,
    ) -> None:
        self.module = module
        self.notes: tuple[str, ...] = ()
        self._predict = predict
        self._convert = convert
        self.input = row_spec(features, input, where)
        self._name = one_output(name, outputs, where)
        found = self.run(noise(self.input))[self._name]
        self.outputs = (TensorSpec(name=self._name, shape=found.shape),)

    def run(self, tensor: Array) -> dict[str, Array]:
        """A row float32 [1, F] -> its probabilities or value."""
        return {self._name: np.asarray(self._predict(tensor), np.float32)}

    def export(self, format: Format, options: ExportOptions) -> Exported:
        """ONNX by onnxmltools; TFLite from the trees in that graph."""
        return self._graph.export(format, options)

    @functools.cached_property
    def _graph(self) -> OnnxModel:
        try:
            proto = self._convert(self.input.name)
        except Exception as error:
            raise CannotConvert(f"onnxmltools failed: {reason(error)}") from error
        return checked_graph(proto, self.input, self.outputs, self.run)


def load(
    source: ModelSource, *, input: TensorSpec | None, outputs: tuple[str, ...] = ()
) -> BoostingModel:
    """The booster of a model file, by its suffix."""
    make = _lightgbm if source.path.suffix == ".txt" else _xgboost
    return make(source.path, input, outputs)


def row_spec(features: int, stated: TensorSpec | None, where: str) -> TensorSpec:
    """A row of features under the stated name; these files have none."""
    name = "features" if stated is None else stated.name
    found = TensorSpec(name=name, shape=(1, features), layout="nc")
    return check_input(found, stated, where)


def one_output(name: str, stated: tuple[str, ...], where: str) -> str:
    """The stated name of the one output, or `name`."""
    if len(stated) > 1:
        raise ConversionError(f"{where}: gives {name} alone; stated are {', '.join(stated)}")
    return stated[0] if stated else name


def checked_graph(
    proto: Any,
    input: TensorSpec,
    outputs: tuple[TensorSpec, ...],
    run: Callable[[Array], dict[str, Array]],
) -> OnnxModel:
    """An ONNX graph whose last output is the model's one, which it must give on random rows."""
    (output,) = outputs
    if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        proto.opset_import.add(domain="", version=_OPSET)
    proto.graph.name = "model"  # else a random one
    proto = renamed(proto, proto.graph.output[-1].name, output.name)
    graph = OnnxModel(proto, input=input, outputs=(output.name,), where="the ONNX graph")
    for seed in range(8):
        row = noise(input, seed)
        worst = worst_error(run(row), graph.run(row))
        if worst > SAME:
            raise CannotConvert(
                f"the ONNX graph says something else than the model: {output.name} is off by"
                f" {worst:.2g} of its range on a random row"
            )
    return graph


def _xgboost(path: Path, input: TensorSpec | None, outputs: tuple[str, ...]) -> BoostingModel:
    xgboost = need("xgboost", EXTRA)
    need("onnxmltools", EXTRA)
    try:
        booster = xgboost.Booster(model_file=str(path))
        objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    except Exception as error:
        raise ConversionError(
            f"{path}: not an xgboost model that can be read ({reason(error)}); save it again with"
            " save_model('model.json')"
        ) from error
    booster.feature_names = None  # onnxmltools knows f0, f1 … alone

    def predict(rows: Array) -> Array:
        if objective.startswith("multi:"):
            margin = booster.inplace_predict(rows, predict_type="margin", validate_features=False)
            grown = np.exp(margin - margin.max(axis=1, keepdims=True))
            return np.asarray(grown / grown.sum(axis=1, keepdims=True))
        found = booster.inplace_predict(rows, validate_features=False).reshape(len(rows), -1)
        return np.hstack([1 - found, found]) if objective == "binary:logistic" else found

    return BoostingModel(
        booster,
        features=booster.num_features(),
        predict=predict,
        convert=lambda name: _onnxmltools("convert_xgboost", booster, name, booster.num_features()),
        name=_output_name(objective, path),
        input=input,
        outputs=outputs,
        where=str(path),
    )


def _lightgbm(path: Path, input: TensorSpec | None, outputs: tuple[str, ...]) -> BoostingModel:
    lightgbm = need("lightgbm", EXTRA)
    need("onnxmltools", EXTRA)
    try:
        booster = lightgbm.Booster(model_file=str(path), params={"verbose": -1})
        objective = booster.dump_model(num_iteration=1)["objective"].split()[0]
    except Exception as error:
        raise ConversionError(
            f"{path}: not a lightgbm model that can be read ({reason(error)}); save it again with"
            " save_model('model.txt')"
        ) from error

    def predict(rows: Array) -> Array:
        found = np.asarray(booster.predict(rows)).reshape(len(rows), -1)
        return np.hstack([1 - found, found]) if objective == "binary" else found

    features = booster.num_feature()
    return BoostingModel(
        booster,
        features=features,
        predict=predict,
        convert=lambda name: _onnxmltools(
            "convert_lightgbm", booster, name, features, zipmap=False
        ),
        name=_output_name(objective, path),
        input=input,
        outputs=outputs,
        where=str(path),
    )


def _onnxmltools(function: str, booster: Any, name: str, features: int, **options: Any) -> Any:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    convert = getattr(onnxmltools, function)
    types = [(name, FloatTensorType([None, features]))]
    return convert(booster, initial_types=types, target_opset=_OPSET, **options)


def _output_name(objective: str, path: Path) -> str:
    if objective.startswith(("binary", "multi")):
        return "probabilities"
    if objective.startswith("reg"):
        return "value"
    raise ConversionError(f"{path}: objective {objective!r}; classes and regression can be taken")
