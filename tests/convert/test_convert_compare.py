"""`edge compare` on files that somebody else made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from needs import need_assets

from convert.compare_cli import compare

pytestmark = pytest.mark.usefixtures("converters")

COLOURS = {"red": (30, 30, 220), "green": (30, 220, 30), "blue": (220, 30, 30)}  # BGR


def _model(
    path: Path, *, order: tuple[int, ...] = (0, 1, 2), step: float = 0.0, **changes: Any
) -> Path:
    """RGB [1, 3, 8, 8] -> logits, the means of the channels in `order`; rounded to `step`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = changes.get("shape", [1, 3, 8, 8])
    weights = 20 * np.eye(3, dtype=np.float32)[list(order)].T * changes.get("gain", 1.0)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["exact" if step else "logits"]),
    ]
    constants = [numpy_helper.from_array(weights.astype(np.float32), "weights")]
    if step:
        nodes += [
            helper.make_node("QuantizeLinear", ["exact", "step", "zero"], ["stored"]),
            helper.make_node("DequantizeLinear", ["stored", "step", "zero"], ["logits"]),
        ]
        constants += [
            numpy_helper.from_array(np.array(step, np.float32), "step"),
            numpy_helper.from_array(np.array(0, np.uint8), "zero"),
        ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures, a folder a class."""
    import cv2

    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for kind, colour in COLOURS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(4):
            shade = np.full((10 + number, 12, 3), colour) + rng.normal(scale=9, size=3)
            cv2.imwrite(str(folder / kind / f"{kind}_{number}.png"), shade.clip(0, 255))
    return folder


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> Callable[..., Result]:
    """Compare two files on the pictures, with their folders as labels."""

    def run(reference: Path, candidate: Path, *flags: str) -> Result:
        given = ["--data", str(pictures), "--classes", "red,green,blue", *flags]
        if "--labels" not in flags and "tensors" not in flags:
            given += ["--labels", "folder"]
        return CliRunner().invoke(compare, [str(reference), str(candidate), *given])

    return run


def test_a_faithful_copy_may_take_its_place(tmp_path: Path, run: Callable[..., Result]) -> None:
    reference = _model(tmp_path / "a.onnx")
    done = run(reference, _model(tmp_path / "b.onnx", step=0.1))
    assert done.exit_code == 0, done.output
    assert "12 samples, 12 with a label; preprocessing: --resize stretch --color rgb --mean 0" in (
        done.stdout
    )
    assert "may take its place" in done.stdout
    found = json.loads(run(reference, _model(tmp_path / "b.onnx", step=0.1), "--json").stdout)
    assert [v["precision"] for v in found["variants"]] == ["fp32", "int8"]
    assert found["variants"][1]["accuracy"] == {"accuracy": 1.0, "f1": 1.0}


def test_swapped_classes_are_refused_and_named(tmp_path: Path, run: Callable[..., Result]) -> None:
    done = run(_model(tmp_path / "a.onnx"), _model(tmp_path / "b.onnx", order=(2, 1, 0)))
    assert done.exit_code == 3
    assert "edge: refused: logits: largest error" in done.stderr
    assert "edge: refused: accuracy 0.3333 against the original's 1" in done.stderr
    assert "edge: try: it answers as the original does with its colours in the other order" in (
        done.stderr
    )
    assert done.stderr.splitlines()[-1].startswith(
        f"edge: {tmp_path}/b.onnx: refused as a stand-in"
    )


def test_limits_can_be_set_and_the_tensors_compared_alone(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    files = _model(tmp_path / "a.onnx"), _model(tmp_path / "b.onnx", gain=1.05)
    assert run(*files).exit_code == 3
    assert run(*files, "--task", "tensors").exit_code == 3
    wide = ("--max-error", "0.1", "--p99-error", "0.1")
    assert run(*files, *wide).exit_code == 0
    assert run(*files, *wide, "--task", "tensors").exit_code == 0


def test_wrong_flags_of_preprocessing_show_in_the_labels(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    files = _model(tmp_path / "a.onnx"), _model(tmp_path / "b.onnx")
    done = run(*files, "--color", "bgr")
    assert done.exit_code == 3
    assert "color = 'rgb' in place of 'bgr' gives 100% agreement with the labels" in done.stderr


def test_pictures_of_every_mode_are_taken_and_what_is_broken_is_counted(
    tmp_path: Path, pictures: Path, run: Callable[..., Result]
) -> None:
    from PIL import Image

    red = Image.new("RGB", (9, 5), (220, 30, 30))
    red.convert("L").save(pictures / "red/gray.png")
    red.convert("RGBA").save(pictures / "red/alpha.png")
    red.convert("P").save(pictures / "red/palette.png")
    red.convert("CMYK").save(pictures / "red/cmyk.jpg")
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(pictures / "red/deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    red.save(pictures / "red/turned.jpg", exif=turned)
    (pictures / "red/broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(40))
    (pictures / "red/empty.png").touch()
    np.save(pictures / "red/short.npy", np.zeros((3, 8, 7), np.float32))
    np.save(pictures / "red/array.npy", np.zeros((3, 8, 8), np.float32))
    (pictures / "notes.txt").write_text("not looked at")
    model = _model(tmp_path / "a.onnx")
    done = run(model, model, "--json", "--labels", "")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["samples"] == 12 + 7
    assert found["skipped"] == {
        "not a picture that can be read": 2,
        "an array here is [3, 8, 8], not [3, 8, 7]": 1,
    }


def test_labels_come_from_a_csv_file_or_from_the_names(
    tmp_path: Path, pictures: Path, run: Callable[..., Result]
) -> None:
    model = _model(tmp_path / "a.onnx")
    rows = ["file,label", "red/red_0.png,red", "blue/blue_1.png,blue", "green/green_2.png,grun"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    done = run(model, model, "--labels", str(tmp_path / "labels.csv"))
    assert "12 samples, 2 with a label" in done.stdout
    assert "no label × 9, grun × 1; --classes names the classes" in done.stdout
    assert "12 with a label" in run(model, model, "--labels", "name").stdout
    (tmp_path / "labels.csv").write_text("red/red_0.png;red")
    done = run(model, model, "--labels", str(tmp_path / "labels.csv"))
    assert done.exit_code == 2
    assert "labels.csv: line 1: needs file,label, not 'red/red_0.png;red'" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "nowhere"), "nowhere: must be a folder"),
        (("--classes", "red,blue"), "has 3 classes, --classes names 2"),
        (("--std", "0"), "--std 0: must be above 0"),
        (("--mean", "1,2"), "--mean 1,2: rgb has 3 channels"),
        (
            ("--task", "detect", "--labels", ""),
            "needs --decoder, one of anomaly, boxes_scores",
        ),
        (("--labels", "nowhere.csv"), "nowhere.csv: cannot be read as a csv file"),
    ],
)
def test_mistakes_are_said_in_one_line(
    flags: tuple[str, ...], message: str, tmp_path: Path, run: Callable[..., Result]
) -> None:
    model = _model(tmp_path / "a.onnx")
    done = run(model, model, *flags)
    assert done.exit_code == 2, done.output
    assert message in done.stderr.splitlines()[-1]


def test_files_that_are_no_models(tmp_path: Path, run: Callable[..., Result]) -> None:
    model = _model(tmp_path / "a.onnx")
    text, cut = tmp_path / "readme.md", tmp_path / "cut.onnx"
    text.write_text("hello")
    cut.write_bytes(model.read_bytes()[:-60])
    open_size = _model(tmp_path / "open.onnx", shape=[1, 3, "height", "width"])
    for file, code, message in (
        (tmp_path / "none.onnx", 2, "none.onnx: cannot be read"),
        (text, 2, "readme.md: neither an .onnx nor a .tflite file"),
        (cut, 5, "cut.onnx: onnx: the model cannot be loaded"),
        (open_size, 2, "its size is open; export it with a fixed size"),
    ):
        done = run(model, file)
        assert done.exit_code == code, done.output
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.output


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    model = _model(tmp_path / "a.onnx")
    (tmp_path / "none").mkdir()
    done = CliRunner().invoke(compare, [str(model), str(model), "--data", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "holds no pictures and no .npy files" in done.stderr


def test_the_same_net_in_both_formats_agrees_whatever_its_outputs_are_called() -> None:
    assets = need_assets()
    files = [str(assets / f"models/ultraface_rfb320_raw.{kind}") for kind in ("onnx", "tflite")]
    flags = ["--data", str(assets / "images"), "--task", "tensors", "--mean", "127", "--std", "128"]
    done = CliRunner().invoke(compare, [*files, *flags, "--json"])
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)["variants"][1]
    assert len(measured["parity"]) == 2
    assert all(output["max_error"] < 1e-3 for output in measured["parity"].values())


def test_the_most_used_meter_classifier_as_it_is_shipped_is_refused(tmp_path: Path) -> None:
    """99.9 % as trained, 90 % as quantised by its makers: nobody had noticed."""
    assets = need_assets()
    files = [str(assets / f"models/peer_dig-class11_2000_{kind}.tflite") for kind in ("s2", "s2_q")]
    flags = ["--data", str(assets / "meter_digits"), "--labels", "name", "--std", "1", "--json"]
    flags += ["--classes", "0,1,2,3,4,5,6,7,8,9,NaN", "--report", str(tmp_path)]
    done = CliRunner().invoke(compare, [*files, *flags])
    assert done.exit_code == 3, done.output
    reference, candidate = json.loads(done.stdout)["variants"]
    assert (reference["precision"], candidate["precision"]) == ("fp32", "int8")
    assert reference["accuracy"]["accuracy"] > 0.99
    assert 0.8 < candidate["accuracy"]["accuracy"] < 0.92
    assert any(reason.startswith("agreement with the original") for reason in candidate["refusals"])
    assert candidate["layers"], "the layers where the error starts"
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()
    same = CliRunner().invoke(compare, [files[0], files[0], *flags])
    assert same.exit_code == 0, same.output
