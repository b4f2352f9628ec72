"""The user's own data: folders of pictures of every kind, .npz files, and their truths."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from convert.samples import open_samples
from edge.errors import ConfigError

LABELS = ("cat", "dog")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures: three cats, two dogs, and something else."""
    for name in ("cat/cat_1", "cat/cat_2", "cat/cat_3", "dog/dog_1", "dog/dog_2", "cow/cow_1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 12, 3), len(name), np.uint8))
    return tmp_path


def test_pictures_of_other_kinds_become_bgr_bytes(tmp_path: Path) -> None:
    made = {
        "grey.png": np.full((8, 12), 200, np.uint8),
        "alpha.png": np.full((8, 12, 4), 200, np.uint8),
        "deep.png": np.full((8, 12, 3), 200 * 257, np.uint16),
        "plain.jpg": np.full((8, 12, 3), 200, np.uint8),
    }
    for name, picture in made.items():
        cv2.imwrite(str(tmp_path / name), picture)
    for raw, truth in open_samples(tmp_path).take(10, seed=0):
        assert (raw.shape, raw.dtype, truth) == ((8, 12, 3), np.uint8, {})
        assert abs(int(raw[0, 0, 0]) - 200) <= 1


def test_a_broken_picture_is_skipped_and_named(pictures: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (pictures / "empty.jpg").touch()
    samples = open_samples(pictures)
    assert len(list(samples.take(100, seed=0))) == 6
    assert samples.skipped == {"not a picture that can be read": 2}


def test_a_folder_of_broken_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="nothing there can be used: 1 × not a picture"):
        list(open_samples(tmp_path).take(1, seed=0))


@pytest.mark.parametrize("truth", ["folder", "name"])
def test_the_class_by_folder_or_by_name(pictures: Path, truth: str) -> None:
    samples = open_samples(pictures, truth=truth, labels=LABELS)
    found = [truth.get("class") for _, truth in samples.take(100, seed=0)]
    assert sorted(found, key=str) == [0, 0, 0, 1, 1, None]
    assert samples.unlabelled == {"cow": 1}


def test_the_class_by_a_csv(pictures: Path) -> None:
    file = pictures / "truth.csv"
    file.write_text("cat/cat_1.png,dog\ndog/dog_1.png,cat\n")
    samples = open_samples(pictures, truth=str(file), labels=LABELS)
    found = [truth["class"] for _, truth in samples.take(100, seed=0) if truth]
    assert sorted(found) == [0, 1]
    assert samples.unlabelled == {"no label": 4}


def test_boxes_by_a_coco_file(pictures: Path) -> None:
    file = pictures / "truth.json"
    document = {
        "images": [{"id": 7, "file_name": "cat/cat_1.png"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 4, "name": "cow"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]},
        ],
    }
    file.write_text(json.dumps(document))
    samples = open_samples(pictures, truth=str(file), labels=LABELS)
    (found,) = [truth for _, truth in samples.take(9, seed=0) if truth]
    assert found["boxes"].tolist() == [[1, 2, 4, 6]]
    assert found["classes"].tolist() == [1]


def test_the_seed_fixes_the_order_and_the_digest_follows_the_content(pictures: Path) -> None:
    samples = open_samples(pictures)
    taken = [[raw.sum() for raw, _ in samples.take(4, seed)] for seed in (1, 1)]
    assert taken[0] == taken[1] and len(taken[0]) == 4
    before = samples.digest()
    assert open_samples(pictures).digest() == before
    cv2.imwrite(str(pictures / "cat/cat_1.png"), np.zeros((8, 12, 3), np.uint8))
    assert open_samples(pictures).digest() != before
    assert open_samples(pictures, truth="name", labels=LABELS).digest() != before


def test_arrays_of_an_npz(tmp_path: Path) -> None:
    rgb = np.zeros((3, 4, 5, 3), np.uint8)
    rgb[..., 0] = 255
    np.savez(tmp_path / "pictures.npz", inputs=rgb, classes=np.array([0, 1, 1]))
    samples = open_samples(tmp_path / "pictures.npz")
    taken = list(samples.take(2, seed=0))
    assert len(taken) == 2
    assert taken[0][0][0, 0].tolist() == [0, 0, 255]  # BGR, as from a camera
    assert set(taken[0][1]) == {"class"}
    np.savez(tmp_path / "windows.npz", inputs=np.zeros((3, 8, 2)))
    ((raw, truth),) = open_samples(tmp_path / "windows.npz").take(1, seed=0)
    assert (raw.shape, raw.dtype, truth) == ((8, 2), np.float32, {})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((1, 2, 3))}, "needs an array `inputs`"),
        ({"inputs": np.zeros((0, 2, 3))}, "needs an array `inputs`"),
        ({"inputs": np.zeros((2, 4, 4), np.uint8)}, "pictures are uint8"),
        ({"inputs": np.zeros((2, 4, 4)), "classes": np.zeros(3)}, "`classes` .* for 2 inputs"),
        ({"inputs": np.full((2, 4, 4), "x")}, "not numbers"),
        ({"inputs": np.array([None, {}], object)}, "without pickle"),
    ],
)
def test_an_npz_that_cannot_be_used(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        open_samples(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ("missing.csv", "cannot be read"),
        ("wide.csv", "line 2: needs file,label"),
        ("broken.json", "not a COCO instances file"),
        ("name", "none of its labels is a class of the model"),
    ],
)
def test_a_truth_that_cannot_be_used(pictures: Path, truth: str, words: str) -> None:
    (pictures / "wide.csv").write_text("a.png,cat\na.png,cat,dog\n")
    (pictures / "broken.json").write_text("{}")
    named = str(pictures / truth) if "." in truth else truth
    with pytest.raises(ConfigError, match=words):
        open_samples(pictures, truth=named, labels=("horse",))


def test_an_empty_folder_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no pictures"):
        open_samples(tmp_path)
    with pytest.raises(ConfigError, match=r"must be a folder of pictures or an \.npz file"):
        open_samples(tmp_path / "nowhere")
