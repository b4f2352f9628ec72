"""What every importer must do; one subclass a framework, with a tiny model made in the test."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from needs import ROOT, missing, need_module

from convert import importers, isolated
from convert.errors import CannotConvert
from convert.importers import ModelSource, kind_of
from convert.layouts import to_layout, with_batch
from convert.original import Exported, ExportOptions, Format, Original
from convert.probe import noise, worst_error
from edge import seams
from edge.errors import ConfigError
from edge.manifest import ImagePreprocess
from edge.types import Array, TensorSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("converters")]

SAME = 1e-4
PICTURE = TensorSpec(name="image", shape=(1, 3, 8, 12), layout="nchw")
FOLD = ImagePreprocess(mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 55.0))


def picture_net(*extra: Any) -> Any:
    """A convolution, a batch norm, a dropout and a linear layer, with weights from a seed."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(4 * 6 * 10, 3), *extra,
    )  # fmt: skip
    net[1].running_mean += 0.1
    return net


def rows() -> tuple[Array, Array]:
    """300 rows of 6 features and their class of three."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    return features, (features[:, 0] + features[:, 1] ** 2 > 0.5).astype(int) + (features[:, 2] > 1)


def run_exported(exported: Exported, tensor: Array) -> dict[str, Array]:
    engine = seams.find("engines", exported.format)(exported.model)
    try:
        found: dict[str, Array] = engine.run({exported.input.name: tensor})
    finally:
        engine.close()
    return found


def says_the_same_when_folded(original: Original, format: Format) -> None:
    folded = original.export(format, ExportOptions(fold=FOLD))
    assert str(folded.input) == "image uint8[1, 8, 12, 3]"
    picture = noise(folded.input)
    normal = ((picture - np.float32(FOLD.mean)) / np.float32(FOLD.std)).astype(np.float32)
    tensor = np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
    assert worst_error(original.run(tensor), run_exported(folded, picture)) < SAME


class ImporterContract:
    input: ClassVar[TensorSpec | None] = None
    outputs: ClassVar[tuple[str, ...]] = ()
    formats: ClassVar[tuple[Format, ...]] = ("onnx", "tflite")
    repeated: ClassVar[tuple[Format, ...]] = ("onnx",)
    """The formats that are exported a second time, to see that the bytes are the same."""

    def save(self, folder: Path) -> ModelSource:
        raise NotImplementedError

    def load(self, source: ModelSource) -> Original:
        assert kind_of(source.path) == source.kind
        return importers.load(source, input=self.input, outputs=self.outputs)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory, converters: None) -> ModelSource:
        return cls().save(tmp_path_factory.mktemp("made-here"))

    @pytest.fixture(scope="class")
    @classmethod
    def original(cls, source: ModelSource) -> Original:
        return cls().load(source)

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, original: Original) -> dict[Format, Exported]:
        return {format: original.export(format, ExportOptions()) for format in cls.formats}

    def test_a_run_gives_named_finite_outputs_of_the_stated_shapes(
        self, original: Original
    ) -> None:
        found = original.run(noise(original.input))
        assert original.input.shape[0] == 1
        assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
            spec.name: (spec.shape, spec.dtype) for spec in original.outputs
        }
        assert all(np.isfinite(value).all() for value in found.values())

    def test_exports_say_what_the_original_says(
        self, original: Original, exported: dict[Format, Exported]
    ) -> None:
        for format, variant in exported.items():
            assert (variant.format, variant.outputs) == (format, original.outputs)
            for seed in range(4):
                tensor = noise(original.input, seed)
                found = run_exported(variant, to_layout(tensor, original.input, variant.input))
                assert worst_error(original.run(tensor), found) < SAME

    def test_an_export_depends_on_the_model_alone(
        self,
        source: ModelSource,
        exported: dict[Format, Exported],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("made-elsewhere")
        shutil.copy(source.path, elsewhere)
        copied = ModelSource(
            kind=source.kind, path=elsewhere / source.path.name, factory=source.factory
        )
        again = self.load(copied)
        for format in self.repeated:
            model = exported[format].model
            assert again.export(format, ExportOptions()).model == model
            for trace in (b"made-here", b"site-packages", b".py", str(ROOT).encode()):
                assert trace not in model


class TestTorch(ImporterContract):
    input = PICTURE
    outputs = ("scores",)
    repeated = ("onnx", "tflite")

    def save(self, folder: Path) -> ModelSource:
        from safetensors.torch import save_file

        path = folder / "net.safetensors"
        save_file(picture_net().state_dict(), path)
        return ModelSource(kind="torch", path=path, factory=picture_net)

    @pytest.mark.parametrize("format", ["onnx", "tflite"])
    def test_folded_it_takes_the_picture_as_it_lies_in_memory(
        self, original: Original, format: Format
    ) -> None:
        says_the_same_when_folded(original, format)

    def test_an_open_batch_gives_each_sample_its_own_answer(self, original: Original) -> None:
        opened = original.export("onnx", ExportOptions(dynamic_batch=True))
        assert (opened.input.shape, opened.outputs[0].shape) == ((-1, 3, 8, 12), (-1, 3))
        samples = [noise(original.input, seed) for seed in range(3)]
        together = run_exported(opened, np.concatenate(samples))["scores"]
        alone = np.concatenate([original.run(sample)["scores"] for sample in samples])
        assert worst_error({"scores": alone}, {"scores": together}) < SAME

    def test_weights_of_a_pth_are_those_of_the_safetensors(
        self, original: Original, tmp_path: Path
    ) -> None:
        import torch

        path = tmp_path / "net.pth"
        torch.save(picture_net().state_dict(), path)
        loaded = self.load(ModelSource(kind="torch", path=path, factory=picture_net))
        tensor = noise(original.input)
        np.testing.assert_array_equal(loaded.run(tensor)["scores"], original.run(tensor)["scores"])


class TestProgram(ImporterContract):
    def save(self, folder: Path) -> ModelSource:
        import torch

        path = folder / "net.pt2"
        example = torch.zeros(PICTURE.shape)
        torch.export.save(torch.export.export(picture_net().eval(), (example,)), path)
        return ModelSource(kind="program", path=path)


class TestKeras(ImporterContract):
    def save(self, folder: Path) -> ModelSource:
        need_module("keras")
        import os

        os.environ["KERAS_BACKEND"] = "torch"
        import keras

        keras.utils.set_random_seed(0)
        layers = keras.layers
        picture = keras.Input((8, 12, 3), name="image")
        found = layers.Conv2D(4, 3, activation="relu")(picture)
        found = layers.Dropout(0.5)(layers.BatchNormalization()(found))
        found = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(found))
        keras.Model(picture, found).save(folder / "net.keras")
        return ModelSource(kind="keras", path=folder / "net.keras")

    def test_it_takes_channels_last_and_no_tensorflow_came_in(self, original: Original) -> None:
        assert (str(original.input), original.input.layout) == (
            "image float32[1, 8, 12, 3]",
            "nhwc",
        )
        assert "tensorflow" not in sys.modules


class SklearnContract(ImporterContract):
    def estimator(self) -> Any:
        raise NotImplementedError

    def save(self, folder: Path) -> ModelSource:
        for name in ("skops", "skl2onnx"):
            need_module(name)
        import skops.io

        path = folder / "model.skops"
        skops.io.dump(self.estimator().fit(*rows()), path)
        return ModelSource(kind="sklearn", path=path)


class TestForest(SklearnContract):
    repeated = ("onnx", "tflite")

    def estimator(self) -> Any:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(
            StandardScaler(), RandomForestClassifier(6, max_depth=5, random_state=0)
        )

    def test_on_a_threshold_it_takes_the_side_that_the_original_takes(
        self, original: Original, exported: dict[Format, Exported]
    ) -> None:
        scaler, forest = (step for _, step in original.module.steps)
        tree = forest.estimators_[0].tree_
        row = noise(original.input)
        feature, threshold = int(tree.feature[0]), tree.threshold[0]
        row[0, feature] = threshold * scaler.scale_[feature] + scaler.mean_[feature]
        for variant in exported.values():
            for near in (-1e-4, 1e-4):
                moved = row.copy()
                moved[0, feature] += near
                assert worst_error(original.run(moved), run_exported(variant, moved)) < SAME


class TestXgboost(ImporterContract):
    outputs = ("scores",)

    def save(self, folder: Path) -> ModelSource:
        for name in ("xgboost", "onnxmltools"):
            need_module(name)
        import xgboost

        features, classes = rows()
        settings = {"max_depth": 3, "objective": "multi:softprob", "num_class": 3, "nthread": 1}
        path = folder / "model.ubj"
        xgboost.train(settings, xgboost.DMatrix(features, classes), 4).save_model(path)
        return ModelSource(kind="boosting", path=path)


class TestLightgbm(ImporterContract):
    formats = ("onnx",)  # to TFLite its trees go as those of xgboost

    def save(self, folder: Path) -> ModelSource:
        for name in ("lightgbm", "onnxmltools"):
            need_module(name)
        import lightgbm

        features, classes = rows()
        settings = {"objective": "binary", "max_depth": 3, "verbose": -1, "num_threads": 1}
        path = folder / "model.txt"
        lightgbm.train(settings, lightgbm.Dataset(features, classes > 0), 4).save_model(path)
        return ModelSource(kind="boosting", path=path)


class TestOnnx(ImporterContract):
    repeated = ("onnx", "tflite")
    weights: ClassVar[dict[str, Array]] = {
        "conv": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
        "linear": np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32),
    }

    def save(self, folder: Path) -> ModelSource:
        try:
            isolated.find("onnx2tf")
        except ConfigError as error:
            missing(str(error))
        import onnx
        from onnx import helper, numpy_helper

        float32 = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["image", "conv"], ["found"]),
                helper.make_node("Relu", ["found"], ["positive"]),
                helper.make_node("Identity", ["positive"], ["same"]),
                helper.make_node("GlobalAveragePool", ["same"], ["mean"]),
                helper.make_node("Flatten", ["mean"], ["flat"]),
                helper.make_node("MatMul", ["flat", "linear"], ["scores"]),
            ],
            "net",
            [helper.make_tensor_value_info("image", float32, ["n", 3, 8, 12])],
            [helper.make_tensor_value_info("scores", float32, ["n", 2])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.save(proto, folder / "net.onnx")
        return ModelSource(kind="onnx", path=folder / "net.onnx")

    def test_it_says_what_was_done_to_the_file(self, original: Original) -> None:
        assert original.notes == (
            "opset 13",
            "upgraded from opset 11",
            "cleaned from 6 to 5 operators",
        )

    def test_an_open_batch_of_the_file_can_stay_open(self, original: Original) -> None:
        opened = original.export("onnx", ExportOptions(dynamic_batch=True))
        both = np.concatenate([noise(original.input, seed) for seed in range(2)])
        assert opened.input == with_batch(original.input, -1)
        assert run_exported(opened, both)["scores"].shape == (2, 2)

    @pytest.mark.parametrize("format", ["onnx", "tflite"])
    def test_folded_it_takes_the_picture_as_it_lies_in_memory(
        self, original: Original, format: Format
    ) -> None:
        says_the_same_when_folded(original, format)

    def test_what_onnx2tf_made_is_held_against_the_graph(
        self, exported: dict[Format, Exported]
    ) -> None:
        from convert.exporters import onnx2tf

        graph, made = exported["onnx"], exported["tflite"]
        onnx2tf.check(graph, made)
        with pytest.raises(CannotConvert, match="made a file that does not run"):
            onnx2tf.check(graph, dataclasses.replace(made, model=made.model[:300]))
        changed = bytearray(made.model)
        weight = changed.index(self.weights["linear"][0, :1].tobytes())
        changed[weight : weight + 4] = np.float32(9).tobytes()
        with pytest.raises(CannotConvert, match="made a file that says something else: off by"):
            onnx2tf.check(graph, dataclasses.replace(made, model=bytes(changed)))


class TestTflite(ImporterContract):
    formats = ("tflite",)
    repeated = ("tflite",)

    def save(self, folder: Path) -> ModelSource:
        path = ROOT / "models/wrist_activity/bundle/variants/tflite-int8.tflite"
        shutil.copy(path, folder / "net.tflite")
        return ModelSource(kind="tflite", path=folder / "net.tflite")

    def test_its_precision_is_read_from_its_tensors(self, original: Original) -> None:
        assert original.export("tflite", ExportOptions()).precision == "int8"
        path = ROOT / "models/wrist_activity/bundle/variants/tflite-fp32.tflite"
        other = self.load(ModelSource(kind="tflite", path=path))
        assert other.export("tflite", ExportOptions()).precision == "fp32"

    def test_there_is_no_way_to_onnx(self, original: Original) -> None:
        with pytest.raises(CannotConvert, match="there is no way from a"):
            original.export("onnx", ExportOptions())


def test_the_importers_themselves_import_no_framework() -> None:
    script = (
        "import sys, convert.importers, convert.exporters, convert.isolated;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    ).stdout.split()
    assert "convert" in loaded
    heavy = {"torch", "onnx", "keras", "sklearn", "xgboost", "lightgbm", "litert_torch", "skops"}
    assert not heavy & set(loaded)
