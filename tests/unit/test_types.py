from __future__ import annotations

import numpy as np
import pytest
from builders import row

from edge.types import Detections


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
