"""Every decoder against a reference written from its paper, on the same random tensors.

A case makes outputs that look like the head's, and says what plain loops find in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import references as ref
from builders import apart, manifest

from edge import postprocess, seams
from edge.errors import BundleError, FrameError
from edge.manifest import Decoder, Thresholds, Variant
from edge.types import (
    Array,
    Detections,
    Geometry,
    Instances,
    Keypoints,
    Oriented,
    Prediction,
    Quantization,
    TensorSpec,
)

SIZE = (64, 48)  # width and height: 8*6 + 4*3 + 2*2 = 64 cells
CELLS = 64
GEOMETRY = Geometry(np.array([[2, 0, 5], [0, 3, 7]], np.float32), 150, 170)
LABELS = ("cat", "dog", "bird")
POINTS = ("head", "tail")

Raw = dict[str, Array]
Reference = Callable[[dict[str, Any]], ref.Found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    decoder: str
    params: dict[str, Any]
    make: Callable[[np.random.Generator], Raw]
    reference: Reference
    labels: tuple[str, ...] = LABELS
    score: float = 0.5
    iou: float | None = 0.5
    quantised: bool = True


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def boxes(rng: np.random.Generator, count: int) -> Array:
    """Boxes as x, y, w, h about the centre, many of which overlap."""
    places = rng.uniform((10, 10), (50, 40), (count, 2))
    return np.concatenate([places, rng.uniform(4, 25, (count, 2))], axis=1)


def scores(rng: np.random.Generator, *shape: int) -> Array:
    """Mostly small, some large, and with ties."""
    return sigmoid(rng.normal(-1.5, 2, shape)).round(2)


def table(rng: np.random.Generator, *parts: Array, last: bool = True) -> Array:
    rows = np.concatenate(parts, axis=1)[None]
    return (rows if last else rows.transpose(0, 2, 1)).astype(np.float32)


def e2e(rng: np.random.Generator, extra: Array | None = None) -> Array:
    whole = boxes(rng, 20)
    found = np.concatenate([whole[:, :2] - whole[:, 2:] / 2, whole[:, :2] + whole[:, 2:] / 2], 1)
    classes = rng.integers(0, 3, (20, 1)).astype(float)
    parts = [found, scores(rng, 20, 1), classes]
    return table(rng, *parts, *([] if extra is None else [extra]))


def anchors_of(levels: list[tuple[float, list[tuple[float, float]]]]) -> list[dict[str, Any]]:
    return [{"stride": stride, "sizes": sizes} for stride, sizes in levels]


SSD_LEVELS: list[tuple[float, list[tuple[float, float]]]] = [
    (16, [(10, 14), (20, 12)]), (32, [(30, 30)])
]  # fmt: skip
SSD_COUNT = 12 * 2 + 4
POINT_LEVELS: list[tuple[float, list[tuple[float, float]]]] = [(16, [(1, 1), (1, 1)])]


def _detr(softmax: bool) -> Callable[[np.random.Generator], Raw]:
    def make(rng: np.random.Generator) -> Raw:
        places = boxes(rng, 15) / np.array([*SIZE, *SIZE])
        logits = rng.normal(-1, 2, (1, 15, 4 if softmax else 3)).round(1)
        return {"logits": logits.astype(np.float32), "boxes": places[None].astype(np.float32)}

    return make


def _oriented(rows: Any) -> ref.Found:
    found = ref.yolov8(rows, 3, 0.5)
    for one in found:
        one["corners"] = ref.corners(one["xywh"], one["rest"][0])
    return ref.keep_best(found, 0.5, lambda a, b: ref.polygon_iou(a["corners"], b["corners"]))


def _pose(found: ref.Found) -> ref.Found:
    for one in found:
        row = one["rest"]
        one["points"] = [(row[k], row[k + 1]) for k in range(0, len(row), 3)]
    return found


CASES: dict[str, Case] = {
    "yolov5": Case(
        decoder="yolov5", params={}, score=0.2,
        make=lambda rng: {"out": table(rng, boxes(rng, 60), scores(rng, 60, 4))},
        reference=lambda raw: ref.keep_best(ref.yolov5(raw["out"][0], 3, 0.2), 0.5),
    ),
    "yolov5 channels first": Case(
        decoder="yolov5", params={"channels": "first"}, score=0.2,
        make=lambda rng: {"out": table(rng, boxes(rng, 60), scores(rng, 60, 4), last=False)},
        reference=lambda raw: ref.keep_best(
            ref.yolov5(np.transpose(raw["out"][0]).tolist(), 3, 0.2), 0.5
        ),
    ),
    "yolov5 normalised": Case(
        decoder="yolov5", params={"normalised": True}, score=0.2,
        make=lambda rng: {
            "out": table(rng, boxes(rng, 60) / [*SIZE, *SIZE], scores(rng, 60, 4))
        },
        reference=lambda raw: ref.keep_best(
            ref.yolov5(
                [[r[0] * 64, r[1] * 48, r[2] * 64, r[3] * 48, *r[4:]] for r in raw["out"][0]],
                3, 0.2,
            ), 0.5,
        ),
    ),
    "yolov8": Case(
        decoder="yolov8", params={},
        make=lambda rng: {"out": table(rng, boxes(rng, 60), scores(rng, 60, 3), last=False)},
        reference=lambda raw: ref.keep_best(
            ref.yolov8(np.transpose(raw["out"][0]).tolist(), 3, 0.5), 0.5
        ),
    ),
    "yolov8 channels last": Case(
        decoder="yolov8", params={"channels": "last"},
        make=lambda rng: {"out": table(rng, boxes(rng, 60), scores(rng, 60, 3))},
        reference=lambda raw: ref.keep_best(ref.yolov8(raw["out"][0], 3, 0.5), 0.5),
    ),
    "yolox": Case(
        decoder="yolox", params={}, score=0.2, quantised=False,
        make=lambda rng: {
            "out": table(rng, rng.normal(0.5, 0.7, (CELLS, 4)), scores(rng, CELLS, 4))
        },
        reference=lambda raw: ref.keep_best(ref.yolox(raw["out"][0], 3, 0.2, SIZE), 0.5),
    ),
    "end_to_end": Case(
        decoder="end_to_end", params={}, iou=None, quantised=False,
        make=lambda rng: {"out": e2e(rng)},
        reference=lambda raw: ref.end_to_end(raw["out"][0], 0.5),
    ),
    "end_to_end with the image's number": Case(
        decoder="end_to_end", params={"batch_first": True}, iou=None, quantised=False,
        make=lambda rng: {
            "out": np.concatenate([np.zeros((20, 1)), e2e(rng)[0]], 1)[:, [0, 1, 2, 3, 4, 6, 5]]
        },
        reference=lambda raw: ref.end_to_end(
            [[*r[1:5], r[6], r[5]] for r in raw["out"]], 0.5
        ),
    ),
    "distribution side by side": Case(
        decoder="distribution", params={"strides": [8, 16, 32], "offset": 0.0},
        make=lambda rng: {"out": table(rng, scores(rng, CELLS, 3), rng.normal(0, 2, (CELLS, 32)))},
        reference=lambda raw: ref.keep_best(
            ref.distribution(raw["out"][0], 3, 0.5, SIZE, [8, 16, 32], 0.0), 0.6
        ),
    ),
    "distribution a pair a grid": Case(
        decoder="distribution",
        params={"strides": [8, 16], "scores": ["s8", "s16"], "boxes": ["b8", "b16"]},
        make=lambda rng: {
            "s8": scores(rng, 1, 48, 3), "s16": scores(rng, 1, 12, 3),
            "b8": rng.normal(0, 2, (1, 48, 32)), "b16": rng.normal(0, 2, (1, 12, 32)),
        },
        reference=lambda raw: ref.keep_best(
            ref.distribution(
                [
                    [*s, *b]
                    for k in ("8", "16")
                    for s, b in zip(raw["s" + k][0], raw["b" + k][0], strict=True)
                ],
                3, 0.5, SIZE, [8, 16], 0.5,
            ), 0.6,
        ),
    ),
    "fastestdet": Case(
        decoder="fastestdet", params={"nms_iou": 0.5}, score=0.3,
        make=lambda rng: {
            "out": np.concatenate(
                [scores(rng, 1, 1, 3, 4), rng.normal(0, 1, (1, 4, 3, 4)), scores(rng, 1, 3, 3, 4)],
                axis=1,
            )
        },
        reference=lambda raw: ref.keep_best(ref.fastestdet(raw["out"][0], 0.3, SIZE), 0.5),
    ),
    "ssd_anchors": Case(
        decoder="ssd_anchors", quantised=False,
        params={"boxes": "b", "scores": "s", "anchors": anchors_of(SSD_LEVELS)},
        make=lambda rng: {
            "b": rng.normal(0, 1.5, (1, SSD_COUNT, 4)), "s": rng.normal(0, 2, (1, SSD_COUNT, 4))
        },
        reference=lambda raw: ref.keep_best(
            ref.ssd(
                raw["b"][0], raw["s"][0], ref.prior_boxes(*SIZE, SSD_LEVELS), 0.5,
                [0.1, 0.1, 0.2, 0.2], linear=False,
            ), 0.5,
        ),
    ),
    "ssd_anchors with points": Case(
        decoder="ssd_anchors", labels=("face",), quantised=False,
        params={
            "boxes": "b", "scores": "s", "anchors": anchors_of(POINT_LEVELS), "coding": "linear",
            "variances": [1, 1, 1, 1], "points": list(POINTS), "background": "none",
            "activation": "sigmoid",
        },
        make=lambda rng: {
            "b": np.concatenate(
                [rng.normal(0, 5, (1, 24, 2)), rng.uniform(5, 20, (1, 24, 2)),
                 rng.normal(0, 5, (1, 24, 4))], axis=2,
            ),
            "s": rng.normal(0, 2, (1, 24, 1)),
        },
        reference=lambda raw: ref.keep_best(
            ref.ssd(
                raw["b"][0], raw["s"][0], ref.prior_boxes(*SIZE, POINT_LEVELS), 0.5,
                [1, 1, 1, 1], linear=True,
            ), 0.5,
        ),
    ),
    "boxes_scores": Case(
        decoder="boxes_scores", params={"boxes": "b", "scores": "s", "background": "first"},
        make=lambda rng: {"b": e2e(rng)[..., :4] / 64, "s": scores(rng, 1, 20, 4)},
        reference=lambda raw: ref.keep_best(
            ref.boxes_scores(
                [[x1 * 64, y1 * 48, x2 * 64, y2 * 48] for x1, y1, x2, y2 in raw["b"][0]],
                [row[1:] for row in raw["s"][0]], 0.5,
            ), 0.5,
        ),
    ),
    "boxes_scores channels first": Case(
        decoder="boxes_scores",
        params={"boxes": "b", "scores": "s", "channels": "first", "form": "cxcywh",
                "normalised": False},
        make=lambda rng: {
            "b": table(rng, boxes(rng, 20), last=False), "s": scores(rng, 1, 3, 20)
        },
        reference=lambda raw: ref.keep_best(
            ref.boxes_scores(
                [ref.centred(*row) for row in np.transpose(raw["b"][0]).tolist()],
                np.transpose(raw["s"][0]).tolist(), 0.5,
            ), 0.5,
        ),
    ),
    "listed": Case(
        decoder="listed", iou=None, quantised=False,
        params={"boxes": "b", "scores": "s", "classes": "c", "count": "n"},
        make=lambda rng: {
            "b": e2e(rng)[..., [1, 0, 3, 2]] / 64, "s": scores(rng, 1, 20),
            "c": rng.integers(0, 3, (1, 20)), "n": np.array([15]),
        },
        reference=lambda raw: ref.listed(
            [[y1 * 48, x1 * 64, y2 * 48, x2 * 64] for y1, x1, y2, x2 in raw["b"][0]],
            raw["s"][0], raw["c"][0], 15, 0.5,
        ),
    ),
    "detr with sigmoids": Case(
        decoder="detr", params={"logits": "logits", "boxes": "boxes"}, iou=None,
        make=_detr(softmax=False),
        reference=lambda raw: ref.detr(raw["logits"][0], raw["boxes"][0], 0.5, SIZE, False),
    ),
    "detr with a class for no object": Case(
        decoder="detr", iou=None, make=_detr(softmax=True),
        params={"logits": "logits", "boxes": "boxes", "activation": "softmax"},
        reference=lambda raw: ref.detr(raw["logits"][0], raw["boxes"][0], 0.5, SIZE, True),
    ),
    "yolo_pose": Case(
        decoder="yolo_pose", params={"channels": "last", "points": list(POINTS)},
        labels=("animal",), quantised=False,
        make=lambda rng: {
            "out": table(rng, boxes(rng, 60), scores(rng, 60, 1), rng.uniform(0, 48, (60, 6)))
        },
        reference=lambda raw: _pose(ref.keep_best(ref.yolov8(raw["out"][0], 1, 0.5), 0.5)),
    ),
    "yolo_pose end to end": Case(
        decoder="yolo_pose", params={"end_to_end": True, "points": list(POINTS)}, iou=None,
        quantised=False,
        make=lambda rng: {"out": e2e(rng, rng.uniform(0, 48, (20, 6)))},
        reference=lambda raw: _pose(ref.end_to_end(raw["out"][0], 0.5)),
    ),
    "yolo_oriented": Case(
        decoder="yolo_oriented", params={"channels": "last"}, quantised=False,
        make=lambda rng: {
            "out": table(rng, boxes(rng, 60), scores(rng, 60, 3), rng.uniform(-0.7, 2.3, (60, 1)))
        },
        reference=lambda raw: _oriented(raw["out"][0]),
    ),
}  # fmt: skip


def build(case: Case, raw: Raw, **stored: Quantization) -> seams.Decode:
    variant = Variant(
        name="onnx-fp32", format="onnx", precision="fp32", file="models/a.onnx",
        inputs=(TensorSpec(name="image", shape=(1, 3, SIZE[1], SIZE[0]), layout="nchw"),),
        outputs=tuple(
            TensorSpec(
                name=name, shape=array.shape, dtype=array.dtype.name, quantization=stored.get(name)
            )
            for name, array in raw.items()
        ),
    )  # fmt: skip
    made = msgspec.structs.replace(
        manifest(), labels=case.labels, thresholds=Thresholds(score=case.score),
        decoder=Decoder(name=case.decoder, params=case.params),
    )  # fmt: skip
    return apart(postprocess.build(made, variant))


def plain(raw: Raw) -> dict[str, Any]:
    return {name: array.astype(np.float64).tolist() for name, array in raw.items()}


def to_source(x: float, y: float, *, clip: bool = True) -> list[float]:
    x, y = x * 2 + 5, y * 3 + 7
    return [min(max(x, 0), 150), min(max(y, 0), 170)] if clip else [x, y]


def assert_same(found: Prediction, expected: ref.Found, case: Case) -> None:
    """The same detections. Those of equal score may stand in either order."""
    assert isinstance(found, Detections)
    assert len(found) == len(expected)
    assert found.scores.tolist() == pytest.approx([one["score"] for one in expected], abs=1e-5)

    def key(score: float, index: int, box: list[float]) -> tuple[float, int, list[float]]:
        return -round(score, 4), index, [round(value) for value in box]

    ours = sorted(
        key(float(s), int(c), b.tolist())
        for s, c, b in zip(found.scores, found.classes, found.boxes, strict=True)
    )
    theirs = []
    for one in expected:
        corners = one.get("corners")
        if corners is not None:
            moved = [to_source(*corner) for corner in corners]
            xs, ys = [p[0] for p in moved], [p[1] for p in moved]
            box = [min(xs), min(ys), max(xs), max(ys)]
        else:
            box = [*to_source(*one["box"][:2]), *to_source(*one["box"][2:])]
        theirs.append(key(one["score"], one["class"], box))
    for mine, other in zip(ours, sorted(theirs), strict=True):
        assert mine[:2] == pytest.approx(other[:2], abs=2e-4)
        assert np.abs(np.subtract(mine[2], other[2])).max() <= 1
    extra = "points" if isinstance(found, Keypoints) else "corners"
    if isinstance(found, Keypoints | Oriented) and len(set(found.scores.tolist())) == len(found):
        places = found.points if isinstance(found, Keypoints) else found.corners
        wanted = [[to_source(*p, clip=False) for p in one[extra]] for one in expected]
        assert places == pytest.approx(np.array(wanted).reshape(places.shape), abs=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_a_decoder_finds_what_plain_loops_find(name: str) -> None:
    case = CASES[name]
    counts = []
    for seed in range(3):
        raw = {
            key: np.asarray(value, np.float32)
            for key, value in case.make(np.random.default_rng(seed)).items()
        }
        expected = case.reference(plain(raw))
        assert_same(build(case, raw)(raw, GEOMETRY), expected, case)
        counts.append(len(expected))
    assert min(counts) >= 2, "the tensors are worth decoding"


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].quantised])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantised_outputs_are_decoded_as_the_numbers_that_they_stand_for(
    name: str, dtype: str
) -> None:
    case = CASES[name]
    floats = case.make(np.random.default_rng(1))
    stored, real, scales = {}, {}, {}
    limits = np.iinfo(dtype)
    for key, value in floats.items():
        scale = float(np.float32(np.ptp(value) / 255))
        zero = int(np.clip(round(limits.min - value.min() / scale), limits.min, limits.max))
        codes = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
        stored[key] = codes.astype(dtype)
        real[key] = ((codes - zero) * scale).astype(np.float32)
        scales[key] = Quantization(scale=scale, zero_point=zero)
    expected = build(case, real)(real, GEOMETRY)
    found = build(case, stored, **scales)(stored, GEOMETRY)
    assert isinstance(found, Detections) and isinstance(expected, Detections)
    assert len(found) == len(expected) >= 2
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-2)
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert found.classes.tolist() == expected.classes.tolist()


@pytest.mark.parametrize("name", CASES)
def test_no_box_all_boxes_and_numbers_that_are_none(name: str) -> None:
    case = CASES[name]
    raw = {
        key: np.asarray(value, np.float32)
        for key, value in case.make(np.random.default_rng(2)).items()
    }
    none = dataclasses.replace(case, score=1.0)
    nothing = build(none, raw)({key: value.clip(-9, 0.99) for key, value in raw.items()}, GEOMETRY)
    assert isinstance(nothing, Detections) and len(nothing) == 0
    every = dataclasses.replace(
        case, score=0.0,
        params={**case.params, **({} if case.iou is None else {"nms_iou": 1.0})},
    )  # fmt: skip
    if case.decoder == "detr" or case.iou is not None:
        found = build(every, raw)(raw, GEOMETRY)
        assert isinstance(found, Detections) and len(found) >= 12
    for bad in (np.nan, np.inf):
        broken = {key: np.full_like(value, bad) for key, value in raw.items()}
        with pytest.raises(FrameError):
            build(case, raw)(broken, GEOMETRY)
    with pytest.raises(FrameError, match="picture"):
        build(case, raw)(raw, None)


@pytest.mark.parametrize("column", [0, 2, 4, 5])
def test_one_value_that_is_not_a_number_is_refused_in_the_best_row_of_a_table(column: int) -> None:
    case = CASES["yolox"]
    raw = case.make(np.random.default_rng(0))
    (table,) = raw.values()
    best = table[0, :, 4].argmax()
    table[0, best, 4] = 1
    table[0, best, column] = np.nan
    with pytest.raises(FrameError, match="not finite"):
        build(case, raw)(raw, GEOMETRY)


@pytest.mark.parametrize("name", CASES)
def test_a_head_for_other_labels_is_refused(name: str) -> None:
    case = CASES[name]
    raw = case.make(np.random.default_rng(0))
    if case.decoder in ("listed", "end_to_end") or case.params.get("end_to_end"):
        fewer = dataclasses.replace(case, labels=case.labels[:1], score=0.0)
        with pytest.raises(FrameError, match="there are 1 labels"):
            build(fewer, raw)(raw, GEOMETRY)
        return
    with pytest.raises(BundleError, match="is needed"):
        build(dataclasses.replace(case, labels=("a",) * 7), raw)


def test_classes_do_not_suppress_one_another_left_of_the_picture() -> None:
    """OpenCV tells classes apart by moving them; coordinates below 0 would bring them together."""
    # It moves class 1 by the largest coordinate and one, here 65: right onto the box of class 0.
    rows = np.array([[60, 60, 8, 8, 0.9, 0, 0], [-5, -5, 8, 8, 0, 0.8, 0]], np.float32)
    case = Case(
        decoder="yolov8", params={"channels": "last", "nms_iou": 0.1}, make=lambda _: {},
        reference=lambda _: [],
    )  # fmt: skip
    raw = {"out": rows[None]}
    found = build(case, raw)(
        raw, Geometry(np.array([[1, 0, 99], [0, 1, 99]], np.float32), 999, 999)
    )
    assert isinstance(found, Detections) and found.names == ["cat", "dog"]


# ---- masks


def test_masks_are_cut_out_of_the_prototypes() -> None:
    rng = np.random.default_rng(4)
    prototypes = rng.normal(0, 1, (1, 2, 12, 16)).astype(np.float32)
    for number in range(2):  # smooth ones: a mask is sampled between the cells
        for _ in range(4):
            plane = prototypes[0, number]
            prototypes[0, number] = (plane + np.roll(plane, 1, 0) + np.roll(plane, 1, 1)) / 3
    rows = table(rng, boxes(rng, 6), scores(rng, 6, 3), rng.normal(0, 1, (6, 2)))
    raw = {"out": rows, "protos": prototypes}
    case = Case(
        decoder="yolo_segment",
        params={"output": "out", "prototypes": "protos", "channels": "last"},
        make=lambda _: {}, reference=lambda _: [], score=0.3,
    )  # fmt: skip
    same = Geometry(np.array([[1, 0, 0], [0, 1, 0]], np.float32), *SIZE)
    found = build(case, raw)(raw, same)
    expected = ref.keep_best(ref.yolov8(rows[0].tolist(), 3, 0.3), 0.5)
    assert isinstance(found, Instances) and len(found) == len(expected) >= 2
    for mask, box, one in zip(found.masks, found.boxes, expected, strict=True):
        height, width = mask.shape
        for y in range(height):
            for x in range(width):
                px = (box[0] + (x + 0.5) * (box[2] - box[0]) / width) / 4 - 0.5
                py = (box[1] + (y + 0.5) * (box[3] - box[1]) / height) / 4 - 0.5
                value = sum(
                    weight * ref.between(prototypes[0, number].tolist(), px, py)
                    for number, weight in enumerate(one["rest"])
                )
                if abs(value) > 0.03:  # the library interpolates in steps of 1/32
                    assert bool(mask[y, x]) == (value >= 0)
    last = {"out": rows, "protos": prototypes.transpose(0, 2, 3, 1)}
    again = build(case, last)(last, same)
    assert isinstance(again, Instances)
    assert all((a == b).all() for a, b in zip(again.masks, found.masks, strict=True))


def test_a_mask_of_another_shape_is_wrong() -> None:
    """One prototype, positive in its left half: so is the mask of a box in the middle."""
    prototypes = np.full((1, 1, 12, 16), -1, np.float32)
    prototypes[..., :8] = 1
    rows = np.array([[[32, 24, 32, 16, 0.9, 0, 0, 5]]], np.float32)
    raw = {"out": rows, "protos": prototypes}
    case = Case(
        decoder="yolo_segment",
        params={"output": "out", "prototypes": "protos", "channels": "last"},
        make=lambda _: {}, reference=lambda _: [],
    )  # fmt: skip
    found = build(case, raw)(raw, GEOMETRY)
    assert isinstance(found, Instances)
    assert found.masks[0].shape == (4, 8)
    assert found.masks[0].tolist() == [[True] * 4 + [False] * 4] * 4
