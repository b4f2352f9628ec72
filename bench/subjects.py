"""What is measured: models, each with pictures or windows, and the ways to run it side by side.

Invariant: all ways of a subject get the same data and the same threshold, on one thread, and each
but the bare session can be asked for its answers, which are compared before anything is timed.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from answers import Found, whole

from edge.accelerators import EngineRequest, Settings
from edge.bundle import Bundle
from edge.config import decode_adapter
from edge.engines.guard import Guard
from edge.engines.host import Hosts
from edge.model import Model, open_any
from edge.rules import Chain
from edge.sources.synthetic import DemoMeter, DemoWrist
from edge.types import Array, Classification, Detections, Prediction

BARE, PLAIN, OURS = "bare session", "plain loop", "edgewright"


@dataclasses.dataclass(frozen=True)
class Way:
    """`run` is what is timed, with one of the subject's data; `answer` is None for what gives no
    answers but raw tensors."""

    run: Callable[[Array], object]
    answer: Callable[[Array], list[Found]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """`ways` are those of this process, OURS and BARE among them; `expected` is what is known to be
    right, where that is known: else the plain loop's answers are."""

    name: str
    data: Sequence[Array]
    threshold: float
    ways: Mapping[str, Way]
    expected: Sequence[Sequence[Found]] | None = None
    model_file: Path | None = None
    """For the peers, which run the same file."""
    picture_files: Sequence[Path] = ()


def assets() -> Path | None:
    """The folder of EDGE_ASSETS, if there is one."""
    folder = os.environ.get("EDGE_ASSETS", "")
    return Path(folder) if folder and (Path(folder) / "models").is_dir() else None


@contextmanager
def opened(name: str) -> Iterator[Subject]:
    """A subject by its name, ready to run."""
    with _SUBJECTS[name]() as subject:
        yield subject


def names() -> list[str]:
    """Those that can be had here, the small ones first."""
    found = ["wrist_activity", "meter_reader"]
    if (_models() / "efficientnet_lite0" / "bundle").is_dir():
        found.append("efficientnet_lite0")
    if assets() is not None:
        found += ["mobilenet_v2", "ssd_mobilenet", "yolox_nano"]
    return found


def _models() -> Path:
    return Path(__file__).resolve().parent.parent / "models"


# ---- the committed bundles


@contextmanager
def _wrist() -> Iterator[Subject]:
    source = DemoWrist(DemoWrist.Config(speed=1e9), name="bench")
    frames = [source.read(5.0) for _ in range(4)]
    windows = [frame.data for frame in frames if frame is not None]
    bundle = Bundle.open("builtin:wrist_activity")
    known = [whole(bundle.manifest.labels.index(source.shown(n)), 0.95) for n in range(4)]
    with _ours(bundle, "onnx-fp32") as (model, ours):
        yield Subject(
            name="wrist_activity", data=windows, threshold=0.0, expected=known,
            ways={BARE: _bare(model, windows[0]), OURS: ours},
        )  # fmt: skip


@contextmanager
def _meter() -> Iterator[Subject]:
    """The digits that are shown are known; where each lies is not, so that it counts as found."""
    source = DemoMeter(DemoMeter.Config(), name="bench")
    picture = source.picture(3)
    digits = [int(digit) for digit in f"{round(source.shown(3)):06d}"]
    with _ours(Bundle.open("builtin:meter_reader"), "onnx-fp32") as (model, ours):
        assert ours.answer is not None
        real = ours.answer

        def read(data: Array) -> list[Found]:
            row = sorted(real(data), key=lambda found: found.box[0])
            return [
                Found((place, 0.0, place + 1.0, 1.0), 1.0, found.label)
                for place, found in enumerate(row)
            ]

        shown = [Found((place, 0.0, place + 1.0, 1.0), 1.0, n) for place, n in enumerate(digits)]
        yield Subject(
            name="meter_reader", data=[picture], threshold=0.0, expected=[shown],
            ways={BARE: _bare(model, picture), OURS: Way(ours.run, read)},
        )  # fmt: skip


@contextmanager
def _efficientnet() -> Iterator[Subject]:
    """Its own golden picture is the input; the bundle's report says how right it is."""
    picture = DemoMeter(DemoMeter.Config(), name="bench").picture(3)
    bundle = Bundle.open(_models() / "efficientnet_lite0" / "bundle")
    with _ours(bundle, "onnx-fp32") as (model, ours):
        yield Subject(
            name="efficientnet_lite0", data=[picture], threshold=0.0,
            ways={BARE: _bare(model, picture), OURS: ours},
        )  # fmt: skip


# ---- models by others, from EDGE_ASSETS


def _picture_files(folder: Path) -> list[Path]:
    return [folder / "images" / name for name in ("dog.jpg", "bus.jpg")]


def _pictures(folder: Path) -> list[Array]:
    import cv2

    return [np.asarray(cv2.imread(str(file))) for file in _picture_files(folder)]


@contextmanager
def _yolox() -> Iterator[Subject]:
    from plain_loop import PlainLoop

    folder = assets()
    assert folder is not None
    file = folder / "models" / "yolox_nano_coco_416.onnx"
    pictures = _pictures(folder)
    with _ours(open_any(file), "onnx-fp32") as (model, ours):
        threshold = model.manifest.thresholds.score
        loop = PlainLoop(str(file), score=threshold)
        plain = Way(loop, lambda picture: _boxes(*loop(picture)))
        yield Subject(
            name="yolox_nano", data=pictures, threshold=threshold, model_file=file,
            picture_files=_picture_files(folder),
            ways={BARE: _bare(model, pictures[0]), PLAIN: plain, OURS: ours},
        )  # fmt: skip


@contextmanager
def _tflite(name: str, file_name: str) -> Iterator[Subject]:
    from plain_tflite import PlainTflite

    folder = assets()
    assert folder is not None
    file = folder / "models" / file_name
    pictures = _pictures(folder)
    loop = PlainTflite(str(file))
    with _ours(open_any(file), None) as (model, ours):
        threshold = model.manifest.thresholds.score
        if model.manifest.task == "detect":
            plain = Way(
                lambda picture: loop.boxes(picture, threshold),
                lambda picture: _boxes(*loop.boxes(picture, threshold)),
            )
        else:
            plain = Way(loop.best, lambda picture: whole(*loop.best(picture)))
        yield Subject(
            name=name, data=pictures, threshold=threshold, model_file=file,
            ways={BARE: Way(lambda _: loop.bare()), PLAIN: plain, OURS: ours},
        )  # fmt: skip


_SUBJECTS: dict[str, Callable[[], Any]] = {
    "wrist_activity": _wrist,
    "meter_reader": _meter,
    "efficientnet_lite0": _efficientnet,
    "mobilenet_v2": lambda: _tflite("mobilenet_v2", "mobilenet_v2_1.0_224_quant.tflite"),
    "ssd_mobilenet": lambda: _tflite("ssd_mobilenet", "ssd_mobilenet_coco_quant.tflite"),
    "yolox_nano": _yolox,
}


ALL = tuple(_SUBJECTS)


# ---- ways


@contextmanager
def _ours(bundle: Bundle, variant: str | None) -> Iterator[tuple[Model, Way]]:
    """A frame as the agent does it: watched, preprocess to rules, on one thread."""
    with tempfile.TemporaryDirectory() as state:
        hosts = Hosts(Guard(Path(state)))
        try:
            model = Model(
                bundle,
                hosts=hosts,
                variant=variant or bundle.manifest.variants[0].name,
                request=EngineRequest(settings=Settings(threads=1)),
            )
            rules = Chain(
                [decode_adapter("rules", rule, where="bench") for rule in model.manifest.rules],
                model.manifest.labels,
            )

            def predict(data: Array) -> Prediction:
                tensor, geometry = model.preprocess(data)
                return model.postprocess(model.infer(tensor), geometry)

            def frame(data: Array) -> object:
                return rules(predict(data), time.monotonic_ns(), (data.shape[1], data.shape[0]))

            yield model, Way(frame, lambda data: _found(predict(data)))
        finally:
            hosts.close()


def _bare(model: Model, data: Array) -> Way:
    """A session of its own on the same ONNX file, and a kept input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.bundle.read(model.variant.file), options, providers=["CPUExecutionProvider"]
    )
    tensor, _ = model.preprocess(data)
    feed = dict(model.state.inputs(tensor.copy()))
    answers = [output.name for output in session.get_outputs()]
    return Way(lambda _: session.run(answers, feed))


def _found(prediction: Prediction) -> list[Found]:
    if isinstance(prediction, Detections):
        return _boxes(prediction.boxes, prediction.scores, prediction.classes)
    assert isinstance(prediction, Classification)
    return whole(prediction.index, float(prediction.scores[prediction.index]))


def _boxes(boxes: Any, scores: Any, classes: Any) -> list[Found]:
    return [
        Found(tuple(map(float, box)), float(score), int(label))  # type: ignore[arg-type]
        for box, score, label in zip(boxes, scores, classes, strict=True)
    ]
