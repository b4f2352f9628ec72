"""What users bring by mistake: one clear line, an exit code, and nothing written.

And the good way beside it: a model file and a folder of pictures, once, again, changed, interrupted.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import halves
import numpy as np
import pytest
from click.testing import CliRunner, Result

from convert import cli
from edge.bundle import Bundle
from edge.model import Model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("converters"),
]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, converters: None) -> Path:
    """A folder with model.onnx, names.txt and pictures/."""
    (tmp_path / "model.onnx").write_bytes(halves.model())
    (tmp_path / "names.txt").write_text("\n".join(halves.LABELS))
    halves.pictures(tmp_path / "pictures", 24)
    return tmp_path


def _flags(place: Path, *flags: str) -> list[str]:
    usual = {
        "--task": "classify",
        "--labels": str(place / "names.txt"),
        "--calibrate": str(place / "pictures"),
        "-o": str(place / "bundle"),
    }
    return [part for flag in usual if flag not in flags for part in (flag, usual[flag])] + [*flags]


@pytest.fixture
def convert(place: Path) -> Callable[..., Result]:
    """`edge convert` of a file in the folder."""

    def run(name: str, *flags: str) -> Result:
        return CliRunner().invoke(cli.convert, [str(place / name), *_flags(place, *flags)])

    return run


@pytest.fixture
def refused(place: Path, convert: Callable[..., Result]) -> Callable[..., str]:
    """What is said of a file that cannot be converted: one line, and nothing is written."""

    def run(name: str, *flags: str, code: int) -> str:
        before = sorted(place.rglob("*"))
        done = convert(name, *flags)
        assert done.exit_code == code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert sorted(place.rglob("*")) == before
        lines = [line for line in done.stderr.splitlines() if line.startswith("edge: ")]
        assert len(lines) == 1, done.stderr
        return lines[0]

    return run


# ---- the model file


def test_a_truncated_onnx_file(place: Path, refused: Callable[..., str]) -> None:
    (place / "cut.onnx").write_bytes(halves.model()[:2000])
    assert "cut.onnx: not an ONNX file, or cut short" in refused("cut.onnx", code=8)


def test_a_truncated_tflite_file(place: Path, refused: Callable[..., str]) -> None:
    (place / "cut.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 40)
    assert "cut.tflite: " in refused("cut.tflite", code=8)


def test_an_operator_that_no_runtime_has(place: Path, refused: Callable[..., str]) -> None:
    from onnx import helper

    odd = helper.make_node("Wobble", ["image"], ["seen"], "odd")
    (place / "odd.onnx").write_bytes(halves.model(before=[odd]))
    assert "odd.onnx: operators that no runtime here has: Wobble" in refused("odd.onnx", code=8)


def test_weights_that_are_not_numbers(place: Path, refused: Callable[..., str]) -> None:
    weights = np.full((4, 24), np.nan, np.float32)
    (place / "nan.onnx").write_bytes(halves.model(weights=weights))
    line = refused("nan.onnx", code=8)
    assert "nan.onnx: wanted holds values that are not finite; train it again" in line


class _Evil:
    """What runs when a pickle of it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["model.pkl", "model.ckpt", "model.joblib", "model.pt"])
def test_a_pickle_is_never_opened(name: str, place: Path, refused: Callable[..., str]) -> None:
    (place / name).write_bytes(pickle.dumps(_Evil(place / "owned")))
    (place / "net.py").write_text(
        "def build():\n    import torch\n    return torch.nn.Linear(2, 2)\n"
    )
    flags = ("--factory", f"{place}/net.py:build", "--input", "image:1,3,32,32:nchw")
    line = refused(name, *(flags if name == "model.pt" else ()), code=8)
    assert name in line
    assert not (place / "owned").exists()


def test_a_file_of_a_kind_that_is_not_known(place: Path, refused: Callable[..., str]) -> None:
    (place / "model.h5").write_bytes(b"\x89HDF")
    assert "save it as .keras" in refused("model.h5", code=8)
    with zipfile.ZipFile(place / "script.pt", "w") as archive:
        archive.writestr("script/code/net.py", "")
        archive.writestr("script/constants.pkl", "")
    (place / "net.py").write_text("def build():\n    return None\n")
    flags = ("--factory", f"{place}/net.py:build", "--input", "image:1,3,32,32:nchw")
    assert "TorchScript" in refused("script.pt", *flags, code=8)


def test_a_file_that_is_not_there(refused: Callable[..., str]) -> None:
    assert "absent.onnx: no such folder or model file" in refused("absent.onnx", code=2)


# ---- labels and pictures


def test_labels_that_are_missing_or_too_few(place: Path, refused: Callable[..., str]) -> None:
    line = refused("model.onnx", "--labels", str(place / "absent.txt"), code=2)
    assert "absent.txt: cannot be read" in line
    (place / "few.txt").write_text("one\ntwo\n")
    line = refused("model.onnx", "--labels", str(place / "few.txt"), code=8)
    assert "logits" in line and "2 labels" in line


def test_no_labels_at_all(place: Path) -> None:
    given = [part for part in _flags(place) if part not in ("--labels", str(place / "names.txt"))]
    done = CliRunner().invoke(cli.convert, [str(place / "model.onnx"), *given])
    assert done.exit_code == 2
    assert "labels: missing" in done.stderr


def test_an_empty_calibration_folder(place: Path, refused: Callable[..., str]) -> None:
    (place / "empty").mkdir()
    line = refused("model.onnx", "--calibrate", str(place / "empty"), code=2)
    assert "empty: holds no pictures and no .npy files" in line


def test_a_folder_in_which_no_picture_can_be_read(place: Path, refused: Callable[..., str]) -> None:
    (place / "broken").mkdir()
    for index in range(3):
        (place / "broken" / f"{index}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    line = refused("model.onnx", "--calibrate", str(place / "broken"), code=2)
    assert "broken: nothing there can be used: 3 × not a picture that can be read" in line


def test_a_truth_that_fits_no_class(place: Path, refused: Callable[..., str]) -> None:
    (place / "names.txt").write_text("a\nb\nc\nd\n")
    line = refused("model.onnx", "--truth", "folder", code=2)
    assert "none of its labels is a class of the model: left-blue, left-red" in line


def test_pictures_of_other_sizes_and_modes_are_taken_and_a_broken_one_is_counted(
    place: Path, convert: Callable[..., Result]
) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = place / "pictures"
    rgb = Image.fromarray(halves.picture(0, rng, (91, 17))[..., ::-1])
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("1").save(folder / "one-bit.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(
        folder / "sixteen.png"
    )
    Image.new("RGB", (1, 1)).save(folder / "dot.bmp")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    done = convert("model.onnx", "--only", "onnx-fp32")
    assert done.exit_code == 0, done.output
    assert "edge: note: evaluation: 1 × not a picture that can be read" in done.stderr
    assert "31 samples" in done.stdout


# ---- the good way


def _steps(stderr: str) -> list[str]:
    """The titles of the steps that were shown."""
    return [line.partition(" …")[0] for line in stderr.splitlines() if " …" in line]


def _run(place: Path, *flags: str, **files: str) -> subprocess.CompletedProcess[str]:
    """`edge convert` as a process, as a user starts it: what it shows is on its standard error."""
    return subprocess.run(
        [sys.executable, "-m", "convert", *files.get("source", str(place / "model.onnx")).split(),
         *flags],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip


def test_from_a_file_and_a_folder_to_a_bundle_that_runs(place: Path) -> None:
    only = ("--only", "onnx-fp32", "--only", "onnx-int8")
    done = _run(place, *_flags(place), *only)
    assert done.returncode == 0, done.stderr
    made = Bundle.open(place / "bundle")
    rng = np.random.default_rng(9)
    for variant in ("onnx-fp32", "onnx-int8"):
        with Model(made, variant=variant) as model:
            for kind, label in enumerate(halves.LABELS):
                assert model.predict(halves.picture(kind, rng, (50, 70))).label == label
    first = made.identity
    again = _run(place, *_flags(place), *only)
    assert again.returncode == 0
    assert "unchanged since the last run" in again.stdout
    assert _steps(again.stderr) == []
    assert Bundle.open(place / "bundle").identity == first


RECIPE = """
name = "halves"
version = "1"
task = "classify"
labels = "names.txt"
variants = ["onnx-fp32", "onnx-fp16", "onnx-int8"]

[model]
file = "model.onnx"

[preprocess]
kind = "image"
resize = "stretch"

[data]
calibration = "pictures"

[licence]
weights = "Apache-2.0"
"""


def test_a_changed_key_redoes_only_what_depends_on_it(place: Path) -> None:
    recipe = place / "recipe.toml"
    recipe.write_text(RECIPE)
    done = _run(place, source=str(place))
    assert done.returncode == 0, done.stderr
    making = {"exporting onnx", "onnx to fp16", "calibration inputs", "onnx to int8", "verifying"}
    assert making < set(_steps(done.stderr))

    recipe.write_text(RECIPE + "[gate.int8]\np99_error = 1e-9\n")
    stricter = _run(place, source=str(place))
    assert "onnx-int8 refused: logits: 99th percentile" in stricter.stderr
    shown = set(_steps(stricter.stderr))
    assert not shown & {"exporting onnx", "onnx to fp16", "onnx to int8", "verifying"}, shown

    recipe.write_text(RECIPE + '[calibration]\nmethod = "entropy"\n')
    other = _run(place, source=str(place))
    assert other.returncode == 0, other.stderr
    shown = set(_steps(other.stderr))
    assert "onnx to int8" in shown
    assert not shown & {"exporting onnx", "onnx to fp16"}, shown


@pytest.mark.parametrize("step", ["onnx to int8", "verifying"])
def test_ctrl_c_leaves_nothing_half_written(step: str, place: Path) -> None:
    scratch, cache = place / "scratch", place / "cache"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "convert", str(place / "model.onnx"), *_flags(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "EDGE_CACHE_DIR": str(cache)},
    )
    assert process.stderr is not None
    seen = b""
    while not seen.endswith(step.encode()):
        letter = process.stderr.read(1)
        assert letter, seen.decode()
        seen += letter
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, (seen + rest).decode()
    assert "edge: interrupted; no bundle was written" in rest.decode()
    assert "Traceback" not in rest.decode()
    assert not (place / "bundle").exists() and not (place / "bundle-report").exists()
    assert list(scratch.iterdir()) == []
    kept = {path.name.partition("-")[0] for path in (cache / "convert").iterdir()}
    assert kept <= {"export", "quantize", "calibration", "reference", "judge"}
    after = _run(place, *_flags(place), "--only", "onnx-fp32")
    assert after.returncode == 0, after.stderr
