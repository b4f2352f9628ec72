"""What the makers of model families have published: grids, anchors, names, preparation."""

from __future__ import annotations

import math
from typing import Any

from edge.hints import NORMALISATIONS
from edge.manifest import ImagePreprocess
from edge.recognize.reading import Family, Reading


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


COCO = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
    hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
    zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports
    ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine
    glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
    dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush
    """
)
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Numbers of the 90 categories of COCO, from 1, that its data sets do not use."""
BODY = _names(
    """
    nose, left eye, right eye, left ear, right ear, left shoulder, right shoulder, left elbow,
    right elbow, left wrist, right wrist, left hip, right hip, left knee, right knee, left
    ankle, right ankle
    """
)
FACE = ("right eye", "left eye", "nose", "mouth", "right ear", "left ear")


def usual_labels(count: int) -> tuple[str, ...]:
    """COCO's names for 80 or 90 classes; () for any other count."""
    if count == 80:
        return COCO
    if count == 90:
        names = iter(COCO)
        return tuple(
            f"class {index}" if index + 1 in _COCO_GAPS else next(names) for index in range(90)
        )
    return ()


def point_names(count: int) -> tuple[str, ...]:
    """COCO's names of the points of a body for 17; numbers for any other count."""
    return BODY if count == len(BODY) else tuple(f"point {index}" for index in range(count))


def cell_count(size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """How many cells grids with these strides have over a picture."""
    width, height = size
    return sum(math.ceil(width / stride) * math.ceil(height / stride) for stride in strides)


GRIDS: tuple[tuple[int, ...], ...] = (
    (8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16), (8, 16, 32, 64, 128),
    (32,), (16,), (8,), (4,),
)  # fmt: skip


def grids_of(size: tuple[int, int], count: int, *, anchors: int = 1) -> tuple[int, ...] | None:
    """The strides whose grids make `count` candidates, with so many anchors a cell."""
    for strides in GRIDS:
        if cell_count(size, strides) * anchors == count:
            return strides
    return None


_ULTRAFACE = ((8, (10, 16, 24)), (16, (32, 48)), (32, (64, 96)), (64, (128, 192, 256)))


def published_anchors(
    size: tuple[int, int], count: int, points: int
) -> list[dict[str, Any]] | None:
    """Anchors of a published generator that makes `count` of them over a picture.

    Without points UltraFace's (Linzaer); with points MediaPipe's SSD anchors of fixed size: one
    grid of stride s with 2 a cell and three of stride 2 s, or one of stride 4 with 1 a cell.
    """
    if not points:
        levels = [
            {"stride": stride, "sizes": [[side, side] for side in sides]}
            for stride, sides in _ULTRAFACE
        ]
        return levels if _anchor_count(size, levels) == count else None
    for first, second in ((8, 16), (16, 32)):
        levels = [
            {"stride": first, "sizes": [[1, 1]] * 2},
            {"stride": second, "sizes": [[1, 1]] * 6},
        ]
        if _anchor_count(size, levels) == count:
            return levels
    levels = [{"stride": 4, "sizes": [[1, 1]]}]
    return levels if _anchor_count(size, levels) == count else None


def _anchor_count(size: tuple[int, int], levels: list[dict[str, Any]]) -> int:
    return sum(cell_count(size, (level["stride"],)) * len(level["sizes"]) for level in levels)


def _image(name: str = "0..1", **settings: Any) -> ImagePreprocess:
    mean, std = NORMALISATIONS[name]
    return ImagePreprocess(
        mean=mean * 3 if len(mean) == 1 else mean, std=std * 3 if len(std) == 1 else std, **settings
    )


PICTURES: dict[Family, tuple[ImagePreprocess, str]] = {
    "yolo": (_image(), "as Ultralytics prepares pictures"),
    "yolox": (
        _image("0..255", color="bgr", anchor="topleft"),
        "as YOLOX (0.1.1 and later) prepares pictures",
    ),
    "nanodet": (
        ImagePreprocess(
            resize="stretch", color="bgr", mean=(103.53, 116.28, 123.675),
            std=(57.375, 57.12, 58.395),
        ),
        "as NanoDet's configurations do",
    ),
    "picodet": (_image("imagenet", resize="stretch"), "as PaddleDetection's PicoDet does"),
    "fastestdet": (_image(resize="stretch", color="bgr"), "as FastestDet does"),
    "ultraface": (
        ImagePreprocess(resize="stretch", mean=(127.0,) * 3, std=(128.0,) * 3),
        "as UltraFace does",
    ),
    "mediapipe": (_image("-1..1", pad=0), "as MediaPipe does"),
    "rtdetr": (_image(resize="stretch"), "as RT-DETR and D-FINE do"),
    "detr": (_image("imagenet", resize="stretch"), "as DETR does"),
    "ssd": (_image("-1..1", resize="stretch"), "as TensorFlow's object detection does"),
    "movenet": (_image("0..255", pad=0), "as MoveNet's model card says"),
    "imagenet": (_image("imagenet", resize="crop"), "as torchvision's classifiers do"),
}  # fmt: skip
"""Usual preparation by family, and in whose words."""


def coco(
    decoder: str, classes: int, params: dict[str, Any], strength: int, why: str, **rest: Any
) -> Reading:
    """A reading as a detector, with COCO's labels where their number fits."""
    return Reading(
        task="detect", decoder=decoder, params=params, strength=strength, why=why,
        classes=classes, labels=usual_labels(classes), **rest,
    )  # fmt: skip


def listing(strides: tuple[int, ...] | None) -> str:
    """Strides as a person reads them."""
    return ", ".join(map(str, strides or ()))
