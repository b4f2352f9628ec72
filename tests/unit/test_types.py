from __future__ import annotations

import numpy as np
import pytest
from builders import row

from edge.types import Detections, Instances, Keypoints, Oriented, Segmentation


def test_a_subset_of_detections_is_taken_by_mask_index_or_slice() -> None:
    found = row("123")
    assert found[found.boxes[:, 0] > 10].names == ["2", "3"]
    assert found[np.array([2, 0])].names == ["3", "1"]
    assert found[:1].names == ["1"]
    assert len(Detections.empty(("a",))) == 0


@pytest.mark.parametrize("shapes", [((2, 4), 1, 2), ((2, 3), 2, 2), ((2, 4), 2, 1)])
def test_arrays_that_do_not_belong_together_are_refused(
    shapes: tuple[tuple[int, int], int, int],
) -> None:
    boxes, scores, classes = shapes
    with pytest.raises(ValueError, match=r"belong together|classes"):
        Detections(np.zeros(boxes), np.zeros(scores), np.zeros(classes, np.int64), ("a",))


def test_a_subset_keeps_masks_points_and_corners() -> None:
    found = row("123")
    base = (found.boxes, found.scores, found.classes, found.labels)
    masks = tuple(np.full((1, 1), number == 1) for number in range(3))
    points = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    corners = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    sure = np.ones((3, 1), np.float32)
    last = np.array([2])
    assert Instances(*base, masks)[np.array([False, True, False])].masks[0].all()
    assert Keypoints(*base, points, sure, ("tip",))[last].points.tolist() == [[[4, 5]]]
    assert Oriented(*base, corners)[last].corners[0, 0].tolist() == [16, 17]
    assert Oriented(*base, corners)[:2].names == ["1", "2"]
    with pytest.raises(ValueError, match="1 masks for 3 boxes"):
        Instances(*base, masks[:1])
    with pytest.raises(ValueError, match="named points"):
        Keypoints(*base, points, sure, ("tip", "tail"))
    with pytest.raises(ValueError, match="corners"):
        Oriented(*base, corners[:1])


def test_shares_are_of_what_the_model_looked_at() -> None:
    found = Segmentation(np.array([[0, 2], [2, -1]], np.int16), ("a", "b", "c"))
    assert found.shares == {"a": pytest.approx(1 / 3), "c": pytest.approx(2 / 3)}
    assert Segmentation(np.full((2, 2), -1, np.int16), ("a",)).shares == {}
