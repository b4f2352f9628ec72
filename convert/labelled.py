"""A folder of pictures (or of arrays, .npy) on disk, with or without labels.

Invariant: every file is either given, or counted with the reason why not; nothing is dropped
without a word.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.errors import ConfigError
from edge.types import Array

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
BY_NAME = "name"


@dataclass(slots=True)
class Folder:
    """The files of a folder, at any depth, in the order of their names.

    `labels` says where the labels are: `name` (the file's name before the first `_`), a csv file
    with `file,label` in each row, or a folder that has a folder a class; empty for none. `classes`
    are their names in the order of the model's outputs.
    """

    path: Path
    labels: str
    classes: tuple[str, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)

    def files(self) -> list[Path]:
        """Pictures and arrays. ConfigError when there is none."""
        if not self.path.is_dir():
            raise ConfigError(f"{self.path}: no such folder")
        found = [
            file
            for file in sorted(self.path.rglob("*"))
            if file.suffix.lower() in PICTURES | {".npy"} and file.is_file()
        ]
        if not found:
            raise ConfigError(f"{self.path}: holds no pictures and no .npy files")
        return found

    def samples(self, files: Sequence[Path]) -> Iterator[tuple[Array, int | None]]:
        """Each file's picture (uint8 [H, W, 3] BGR) or array, and its class where one is known."""
        label_of = self._labels()
        for file in files:
            raw = _read(file)
            if isinstance(raw, str):
                self.skipped[raw] += 1
                continue
            yield raw, self._class(label_of.get(str(file.relative_to(self.path)), None), file)

    def _class(self, label: str | None, file: Path) -> int | None:
        if not self.labels:
            return None
        if self.labels == BY_NAME:
            label = file.stem.partition("_")[0]
        if label in self.classes:
            return self.classes.index(label)
        self.unlabelled["no label" if label is None else label] += 1
        return None

    def _labels(self) -> dict[str, str]:
        """Labels by the file's path inside of the folder."""
        if self.labels in ("", BY_NAME):
            return {}
        where = Path(self.labels)
        if where.is_dir():
            return {
                str(file.relative_to(where)): file.relative_to(where).parts[0]
                for file in where.rglob("*")
                if file.is_file() and len(file.relative_to(where).parts) > 1
            }
        return read_labels(where)


def read_labels(path: Path) -> dict[str, str]:
    """A csv file of rows `file,label`, with or without a header of these two words.

    ConfigError with the line that is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a csv file: {error}") from error
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if not row or (number == 1 and [cell.strip() for cell in row] == ["file", "label"]):
            continue
        if len(row) != 2:
            raise ConfigError(f"{path}: line {number}: needs file,label, not {','.join(row)!r}")
        labels[str(Path(row[0].strip()))] = row[1].strip()
    if not labels:
        raise ConfigError(f"{path}: holds no labels")
    return labels


def _read(file: Path) -> Array | str:
    """A picture or an array; or why not. Other depths and modes become 8-bit BGR, turned upright
    as their EXIF says, by the same decoder as on the device."""
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
