"""The user's own data: a folder of pictures, or an .npz of arrays, with or without the truth.

Raw inputs are what edge's sources give: uint8 [H, W, 3] BGR, or float32 [T, C] in physical units.
Pictures of any kind that OpenCV reads become that (grey, alpha, 16 bits, turned by EXIF); one that
it cannot read is skipped and counted.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """Raw inputs that lie on disk.

    What cannot be used is counted in `skipped` by the reason, and what has a label that is no class
    in `unlabelled` by that label, as they pass by.
    """

    path: Path
    skipped: Counter[str]
    unlabelled: Counter[str]

    def __len__(self) -> int:
        """How many there are."""

    def take(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """At most `count` of them, in an order that the seed fixes. ConfigError without any."""

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
    """Pictures, and arrays as .npy, at any depth."""

    def __init__(self, path: Path, truth: str, labels: tuple[str, ...]) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.unlabelled: Counter[str] = Counter()
        self._files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in PICTURES | {".npy"}
        )
        if not self._files:
            raise ConfigError(f"{path}: holds no pictures and no .npy files")
        self._counted: set[Path] = set()
        self._labels = labels
        self._boxes = _coco(Path(truth), labels) if truth.endswith(".json") else {}
        self._named = {} if self._boxes else _names(path, self._files, truth)
        known = set(self._named.values())
        if known and not known & set(labels):
            raise ConfigError(
                f"{truth}: none of its labels is a class of the model: {_few(sorted(known))};"
                f" the model has {_few(labels)}"
            )
        self._labelled = bool(truth)

    def __len__(self) -> int:
        return len(self._files)

    def take(self, count: int, seed: int) -> Iterator[tuple[Array, Truth]]:
        """Files in a shuffled order."""
        given = 0
        for index in np.random.default_rng(seed).permutation(len(self._files)):
            file = self._files[index]
            raw = _read(file)
            if isinstance(raw, str):
                self._count(file, self.skipped, raw)
                continue
            yield raw, self._truth(file)
            given += 1
            if given == count:
                return
        if not given:
            reasons = ", ".join(f"{n} × {why}" for why, n in self.skipped.items())
            raise ConfigError(f"{self.path}: nothing there can be used: {reasons}")

    def digest(self) -> str:
        """Over names, labels and bytes."""
        whole = hashlib.sha256()
        for file in self._files:
            name = self._relative(file)
            truth = {key: np.asarray(value).tolist() for key, value in self._known(name).items()}
            whole.update(f"{name}\0{json.dumps(truth, sort_keys=True)}\0".encode())
            with file.open("rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
        return whole.hexdigest()

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _truth(self, file: Path) -> Truth:
        name = self._relative(file)
        known = self._known(name)
        if not known and self._labelled:
            self._count(file, self.unlabelled, self._named.get(name, "no label"))
        return known

    def _count(self, file: Path, counter: Counter[str], why: str) -> None:
        """Once, however often the files are gone through."""
        if file not in self._counted:
            self._counted.add(file)
            counter[why] += 1

    def _known(self, name: str) -> Truth:
        if name in self._boxes:
            return self._boxes[name]
        label = self._named.get(name)
        return {"class": self._labels.index(label)} if label in self._labels else {}


class _Npz:
    """`inputs` [N, …] (uint8 [N, H, W, 3] RGB, or numbers [N, T, C]); `classes` int [N]."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.unlabelled: Counter[str] = Counter()
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
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _read(file: Path) -> Array | str:
    """A picture or an array; or why not. Pictures of other depths and modes become 8-bit BGR,
    turned upright as their EXIF says, by the same decoder as on the device."""
    try:
        if file.suffix.lower() == ".npy":
            array: Array = np.load(file, allow_pickle=False)
            return array if array.dtype.kind in "fiu" else "an array without numbers"
        data = np.fromfile(file, np.uint8)
    except (OSError, ValueError, EOFError):
        return "cannot be read"
    import cv2

    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        picture = None
    return "not a picture that can be read" if picture is None else np.asarray(picture)


def _names(root: Path, files: Sequence[Path], truth: str) -> dict[str, str]:
    """The label of each file, by its path inside of the folder."""
    if not truth:
        return {}
    inside = {file.relative_to(root).as_posix(): file for file in files}
    if truth == BY_FOLDER:
        return {name: name.partition("/")[0] for name in inside if "/" in name}
    if truth == BY_NAME:
        return {name: file.stem.partition("_")[0] for name, file in inside.items()}
    return _csv(Path(truth))


def _csv(file: Path) -> dict[str, str]:
    """Rows of `file,label`, with or without a header of these two words."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.reader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: cannot be read as a csv file: {error}") from error
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if not row or (number == 1 and [cell.strip() for cell in row] == ["file", "label"]):
            continue
        if len(row) != 2:
            raise ConfigError(f"{file}: line {number}: needs file,label, not {','.join(row)!r}")
        labels[Path(row[0].strip()).as_posix()] = row[1].strip()
    if not labels:
        raise ConfigError(f"{file}: holds no labels")
    return labels


def _coco(file: Path, labels: tuple[str, ...]) -> dict[str, Truth]:
    """Boxes of a COCO instances file, by picture; categories are matched to labels by name."""
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
            picture["file_name"]: {
                "boxes": np.array(boxes[picture["id"]], np.float32).reshape(-1, 4),
                "classes": np.array(kinds[picture["id"]], np.int64),
            }
            for picture in document["images"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a COCO instances file: {error!r}") from error


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ("…" if len(names) > 5 else "")
