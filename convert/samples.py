"""The user's own data: a folder of pictures, or an .npz of arrays, with or without the truth.

Raw inputs are what edge's sources give: uint8 [H, W, 3] BGR, or float32 [T, C] in physical units.
Pictures of any kind that OpenCV reads become that (grey, alpha, 16 bits, turned by EXIF); one that
it cannot read is skipped and named.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.errors import ConfigError
from edge.types import Array

Truth = dict[str, Any]
"""`class`, or `boxes` (float32 [N, 4] xyxy, source pixels) and `classes` (int64 [N]); empty where
it is not known."""

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
BY_FOLDER, BY_NAME = "folder", "name"


class Samples(Protocol):
    """Raw inputs that lie on disk."""

    skipped: list[str]

    def __len__(self) -> int:
        """How many there are."""

    def take(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """At most `count` of them, in an order that the seed fixes."""

    def digest(self) -> str:
        """SHA-256 over all that lies there, in hex."""


def open_samples(path: Path, *, truth: str = "", labels: tuple[str, ...] = ()) -> Samples:
    """The samples at a path. ConfigError when there are none, or the truth does not fit them.

    `truth` is `folder` (the folder of a picture is its class), `name` (what stands before the
    first `_` of its name is), a CSV of `file,label`, or a COCO JSON with boxes; "" for unlabelled.
    """
    if path.suffix == ".npz":
        return _Npz(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: must be a folder of pictures or an .npz file")
    return _Folder(path, truth, labels)


class _Folder:
    def __init__(self, root: Path, truth: str, labels: tuple[str, ...]) -> None:
        self.skipped: list[str] = []
        self._root = root
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
        if not found:
            raise ConfigError(f"{root}: holds no pictures ({', '.join(sorted(PICTURES))})")
        truths = _truths(root, found, truth, labels)
        self._files = [path for path in found if not truth or path in truths]
        self._truths = truths
        if not self._files:
            raise ConfigError(f"{root}: {truth} gives a truth for none of its pictures")

    def __len__(self) -> int:
        return len(self._files)

    def take(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """Pictures in a shuffled order; those that cannot be read are skipped."""
        given = 0
        for index in np.random.default_rng(seed).permutation(len(self._files)):
            path = self._files[index]
            picture = read_picture(path)
            if picture is None:
                self.skipped.append(path.name)
                continue
            yield picture, self._truths.get(path, {})
            given += 1
            if given == count:
                return
        if not given:
            raise ConfigError(f"{self._root}: none of its {len(self)} pictures can be read")

    def digest(self) -> str:
        """Over names, truths and bytes."""
        whole = hashlib.sha256()
        for path in self._files:
            truth = {key: np.asarray(value).tolist() for key, value in self._known(path).items()}
            name = path.relative_to(self._root).as_posix()
            whole.update(f"{name}\0{json.dumps(truth, sort_keys=True)}\0".encode())
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def _known(self, path: Path) -> Truth:
        return self._truths.get(path, {})


class _Npz:
    """`inputs` [N, …] (uint8 [N, H, W, 3] RGB, or numbers [N, T, C]); `classes` int [N]."""

    def __init__(self, path: Path) -> None:
        self.skipped: list[str] = []
        self._path = path
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as .npz without pickle: {error}") from error
        inputs, classes = arrays.get("inputs"), arrays.get("classes")
        if inputs is None or inputs.ndim < 3 or not len(inputs):
            raise ConfigError(f"{path}: needs an array `inputs` [N, …]; it has {', '.join(arrays)}")
        if classes is not None and classes.shape != (len(inputs),):
            raise ConfigError(f"{path}: `classes` {classes.shape} for {len(inputs)} inputs")
        if inputs.dtype == np.uint8:
            if inputs.ndim != 4 or inputs.shape[3] != 3:
                raise ConfigError(f"{path}: pictures are uint8 [N, H, W, 3], not {inputs.shape}")
            inputs = inputs[..., ::-1]
        elif inputs.dtype.kind in "fiu":
            inputs = inputs.astype(np.float32)
        else:
            raise ConfigError(f"{path}: `inputs` holds {inputs.dtype}, not numbers")
        self._inputs, self._classes = inputs, classes

    def __len__(self) -> int:
        return len(self._inputs)

    def take(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """Rows in a shuffled order."""
        for index in np.random.default_rng(seed).permutation(len(self))[:count]:
            truth = {} if self._classes is None else {"class": int(self._classes[index])}
            yield np.ascontiguousarray(self._inputs[index]), truth

    def digest(self) -> str:
        """Of the file."""
        return hashlib.sha256(self._path.read_bytes()).hexdigest()


def read_picture(path: Path) -> Array | None:
    """A picture file as uint8 [H, W, 3] BGR; None when it is none."""
    import cv2

    try:
        stored = np.fromfile(path, np.uint8)
        return cv2.imdecode(stored, cv2.IMREAD_COLOR) if stored.size else None
    except (OSError, cv2.error):
        return None


def _truths(
    root: Path, files: list[Path], truth: str, labels: tuple[str, ...]
) -> Mapping[Path, Truth]:
    if not truth:
        return {}
    if truth == BY_FOLDER:
        named = {path: path.parent.name for path in files}
    elif truth == BY_NAME:
        named = {path: path.name.partition("_")[0] for path in files}
    elif truth.endswith(".json"):
        return _coco(root, Path(truth), labels)
    else:
        named = _csv(root, Path(truth))
    classes = {label: index for index, label in enumerate(labels)}
    unknown = sorted({name for name in named.values() if name not in classes})
    if unknown and len(unknown) == len(set(named.values())):
        raise ConfigError(
            f"{truth}: none of its labels is a class of the model: {', '.join(unknown[:5])};"
            f" the model has {', '.join(labels[:5])}…"
        )
    return {path: {"class": classes[name]} for path, name in named.items() if name in classes}


def _csv(root: Path, file: Path) -> dict[Path, str]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ConfigError(f"{file}: line {number}: must be `file,label`, not {row}")
    return {root / name: label.strip() for name, label in rows}


def _coco(root: Path, file: Path, labels: tuple[str, ...]) -> dict[Path, Truth]:
    """Boxes of a COCO instances file; categories are matched to the labels by name."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        classes = {
            kind["id"]: labels.index(kind["name"])
            for kind in document["categories"]
            if kind["name"] in labels
        }
        boxes: dict[Any, list[list[float]]] = {picture["id"]: [] for picture in document["images"]}
        kinds: dict[Any, list[int]] = {picture["id"]: [] for picture in document["images"]}
        for found in document["annotations"]:
            if found["category_id"] in classes:
                x, y, width, height = map(float, found["bbox"])
                boxes[found["image_id"]].append([x, y, x + width, y + height])
                kinds[found["image_id"]].append(classes[found["category_id"]])
        return {
            root / picture["file_name"]: {
                "boxes": np.array(boxes[picture["id"]], np.float32).reshape(-1, 4),
                "classes": np.array(kinds[picture["id"]], np.int64),
            }
            for picture in document["images"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a COCO instances file: {error!r}") from error
