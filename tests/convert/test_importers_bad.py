"""Files and models that are refused, each in one line that says why and what to do."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import ROOT, need_module

from convert import importers, isolated
from convert.errors import CannotConvert, ConversionError
from convert.importers import ModelSource, kind_of
from edge.errors import ConfigError
from edge.types import TensorSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("converters")]

ROW = TensorSpec(name="row", shape=(1, 4), layout="nc")


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def refusal(path: Path, **more: Any) -> str:
    """Why a file is not taken in; one line."""
    with pytest.raises((ConversionError, ConfigError)) as caught:
        importers.load(
            ModelSource(kind=kind_of(path), path=path, factory=more.pop("factory", None)),
            input=more.pop("input", None),
            **more,
        )
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def linear() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(4, 2)


def saved_program(path: Path) -> Path:
    import torch

    program = torch.export.export(linear().eval(), (torch.zeros(1, 4),))
    torch.export.save(program, path)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A zip with each file changed; None leaves it out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return path


def onnx_file(
    path: Path,
    op: str = "MatMul",
    weight: float = 1.0,
    shape: tuple[int, ...] = (4, 2),
    **more: Any,
) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    value = np.full(shape, weight, np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["row", "weights"], ["found"], **more)],
        "net",
        [helper.make_tensor_value_info("row", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("found", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, "weights")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    return path


def weights_file(path: Path, module: Any) -> Path:
    from safetensors.torch import save_file

    save_file(module.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "makes"),
    [
        ("net.safetensors", "cannot be read"),
        ("net.pth", "cannot be read"),
        ("net.pt2", "not an exported program"),
        ("net.keras", "not a Keras 3 model"),
        ("net.skops", "not a skops file"),
        ("net.ubj", "not an xgboost model"),
        ("net.txt", "not a lightgbm model"),
        ("net.onnx", "not an ONNX file, or cut short"),
        ("net.tflite", "cannot be loaded"),
    ],
)
def test_a_file_that_was_cut_short(name: str, makes: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = _whole(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert makes in refusal(
        path, factory=linear, input=ROW if path.suffix in (".safetensors", ".pth") else None
    )


def _whole(path: Path) -> bytes:
    import torch

    match path.suffix:
        case ".safetensors":
            weights_file(path, linear())
        case ".pth":
            torch.save(linear().state_dict(), path)
        case ".pt2":
            saved_program(path)
        case ".onnx":
            onnx_file(path)
        case ".tflite":
            return (ROOT / "models/wrist_activity/bundle/variants/tflite-fp32.tflite").read_bytes()
        case ".keras" | ".skops":
            need_module("keras" if path.suffix == ".keras" else "skops")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("schema.json", "{}" * 100)
        case ".ubj" | ".txt":
            need_module("xgboost" if path.suffix == ".ubj" else "lightgbm")
            return b"tree\nversion=v4\n" * 20
    return path.read_bytes()


@pytest.mark.parametrize("name", ["weights.pth", "model.pkl", "model.joblib", "net.pt2"])
def test_a_pickle_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    import torch

    path, mark = tmp_path / name, tmp_path / "it-ran"
    if name == "net.pt2":
        buffer = io.BytesIO()
        torch.save(Bomb(mark), buffer)
        bomb = buffer.getvalue()
        saved_program(path)
        rewritten(path, lambda file, data: bomb if "sample_inputs" in file else data)
    elif name == "weights.pth":
        torch.save(Bomb(mark), path)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    message = ""
    try:
        kind_of(path)
        message = refusal(path, factory=linear, input=ROW)
    except ConversionError as error:
        message = str(error)
    assert "any code" in message
    assert not mark.exists()


def test_a_program_whose_weights_are_pickled_is_refused(tmp_path: Path) -> None:
    path = saved_program(tmp_path / "net.pt2")
    rewritten(
        path,
        lambda file, data: (
            data.replace(b'"use_pickle": false', b'"use_pickle": true')
            if file.endswith("weights_config.json")
            else data
        ),
    )
    assert "as a pickle" in refusal(path)


def test_a_size_of_a_program_is_not_evaluated(tmp_path: Path) -> None:
    path = saved_program(tmp_path / "net.pt2")
    size = b'{"extra": {"expr_str": "__import__(\'os\').abort()"}, '
    rewritten(path, lambda file, data: size + data[1:] if "models/" in file else data)
    assert "for a size; it is not opened" in refusal(path)


def test_a_joblib_is_opened_when_that_is_asked_for(tmp_path: Path) -> None:
    need_module("skl2onnx")
    import joblib
    from sklearn.linear_model import LinearRegression

    path = tmp_path / "model.joblib"
    rows = np.eye(4, dtype=np.float32)
    joblib.dump(LinearRegression().fit(rows, rows[:, 0]), path)
    source = ModelSource(kind="sklearn", path=path, unsafe_joblib=True)
    loaded = importers.load(source, input=ROW)
    assert loaded.run(rows[:1])["value"] == pytest.approx(1, abs=1e-5)


def test_torchscript_is_told_from_weights_by_what_is_in_it(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "net.pt"
    torch.jit.trace(linear(), torch.zeros(1, 4)).save(path)
    with pytest.raises(ConversionError, match=r"TorchScript .* export ONNX"):
        kind_of(path)
    with pytest.raises(ConversionError, match="TorchScript"):
        importers.load(ModelSource(kind="torch", path=path, factory=linear), input=ROW)


def _dropout() -> Any:
    import torch

    class Always(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear()

        def forward(self, row: Any) -> Any:
            return torch.nn.functional.dropout(self.linear(row), training=True)

    return Always()


def _batch_norm(*, stays: bool) -> Any:
    import torch

    class Norm(torch.nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Any:
            return super().train(mode or stays)

        def forward(self, row: Any) -> Any:
            rows = torch.cat([row, -row])
            return torch.nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, training=True
            )

    return torch.nn.Sequential(Norm(4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_dropout, "two runs on the same input differ in output"),
        (lambda: _batch_norm(stays=True), "0 stays in training mode after eval()"),
        (lambda: _batch_norm(stays=False), "running the model changes 0.running"),
    ],
    ids=["dropout", "batch-norm-in-train", "batch-statistics"],
)
def test_a_model_that_stays_in_training_mode(
    make: Callable[[], Any], problem: str, tmp_path: Path
) -> None:
    path = weights_file(tmp_path / "net.safetensors", make())
    assert problem in refusal(path, factory=make, input=ROW)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    module = linear()
    module.bias.data[1] = value
    path = weights_file(tmp_path / "net.safetensors", module)
    assert "bias holds values that are not finite" in refusal(path, factory=linear, input=ROW)
    path = onnx_file(tmp_path / "net.onnx", weight=value)
    assert "weights holds values that are not finite" in refusal(path)


def test_an_infinity_that_is_no_weight_is_taken(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx", op="Min", shape=(1, 4), weight=float("inf"))
    loaded = importers.load(ModelSource(kind="onnx", path=path), input=None)
    assert [str(spec) for spec in loaded.outputs] == ["found float32[1, 4]"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"op": "Telepathy"}, "operators that no runtime here has: Telepathy"),
        ({"op": "Conv2", "domain": "acme"}, "operators that no runtime here has: acme:Conv2"),
    ],
)
def test_operators_that_nothing_runs_are_named(
    more: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    assert problem in refusal(onnx_file(tmp_path / "net.onnx", **more))


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"input": TensorSpec(name="row", shape=(1, 5))}, "takes row float32[1, 4], but row"),
        ({"input": TensorSpec(name="rows", shape=(1, 4))}, "but rows float32[1, 4] is stated"),
        ({"outputs": ("scores",)}, "has no output scores; there are found"),
    ],
)
def test_what_is_stated_is_held_against_the_file(
    stated: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    assert problem in refusal(onnx_file(tmp_path / "net.onnx"), **stated)


def test_torch_says_what_it_cannot_know(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "net.safetensors", linear())
    assert "name the code that makes their module" in refusal(path, input=ROW)
    assert "state the input" in refusal(path, factory=linear)
    wrong = TensorSpec(name="row", shape=(1, 5), layout="nc")
    assert "does not take row float32[1, 5]" in refusal(path, factory=linear, input=wrong)
    assert "gives 1 outputs, 2 are stated" in refusal(
        path, factory=linear, input=ROW, outputs=("a", "b")
    )


def test_an_operation_without_a_way_to_a_format_is_one_line(tmp_path: Path) -> None:
    import torch

    from convert.original import ExportOptions

    class Odd(torch.nn.Module):
        def forward(self, row: Any) -> Any:
            return torch.special.bessel_j0(row)

    path = weights_file(tmp_path / "net.safetensors", Odd())
    loaded = importers.load(ModelSource(kind="torch", path=path, factory=Odd), input=ROW)
    for format in ("onnx", "tflite"):
        with pytest.raises(CannotConvert, match="bessel_j0") as caught:
            loaded.export(format, ExportOptions())
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None


def test_a_forest_that_grows_too_large_says_what_to_do() -> None:
    from convert.exporters.trees import Tree, Trees

    count = 4000
    tree = Tree(
        feature=np.zeros(count - 1, np.int64),
        threshold=np.zeros(count - 1, np.float32),
        true=np.array([*range(1, count - 1), -1], np.int64),
        false=np.arange(-2, -count - 1, -1),
        values=np.ones((count, 1), np.float32),
    )
    with pytest.raises(CannotConvert, match=r"64 MB of matrices in TFLite.*max_depth"):
        Trees([tree], np.zeros(1))


def test_a_missing_environment_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_ONNX2TF_PYTHON", raising=False)
    with pytest.raises(ConfigError, match="make it once with: edge convert-env onnx2tf"):
        isolated.find("onnx2tf")


def test_a_tool_that_hangs_or_fails_is_ended_and_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setenv("EDGE_ONNX2TF_PYTHON", sys.executable)
    with pytest.raises(ConversionError, match="onnx2tf took longer than 1 s"):
        isolated.run(
            "onnx2tf", ["-c", "import time; time.sleep(60)"], folder=tmp_path, deadline_s=1
        )
    with pytest.raises(ConversionError, match=r"onnx2tf failed \(exit code 1\): .*no such thing"):
        isolated.run("onnx2tf", ["-c", "exit('no such thing')"], folder=tmp_path, deadline_s=60)


@pytest.mark.parametrize("name", ["model.h5", "model.pb", "model.ckpt", "model.docx"])
def test_other_files_are_told_the_way_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"save it as|bring that|save its state|there are"):
        kind_of(tmp_path / name)
