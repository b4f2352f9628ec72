from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from needs import need_module

from edge import config as configuration
from edge.errors import ConfigError, FrameError
from edge.payloads import DetectionsData, payload_of
from edge.rules import Chain
from edge.types import Classification, Detections

LABELS = ("person", "bicycle")
Box = tuple[float, float, float, float]


def found(*boxes: Box, scores: tuple[float, ...] = (), classes: tuple[int, ...] = ()) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or [0.9] * count, np.float32),
        np.array(classes or [0] * count, np.int64),
        LABELS,
    )


def tracker(*before: dict[str, Any], **options: Any) -> Callable[..., list[int]]:
    """A chain that ends in `track`; called with a moment and a frame's detections it gives ids."""
    need_module("edgefirst.tracker")
    tables = [*before, {"type": "track", **options}]
    chain = Chain(
        [configuration.decode_adapter("rules", table, where="test") for table in tables], LABELS
    )

    def ids(at_s: float, detections: Detections) -> list[int]:
        outcome = chain(detections, round(at_s * 1e9))
        if outcome is None:
            return []
        assert isinstance(outcome, Detections) and outcome.ids is not None
        return [int(one) for one in outcome.ids]

    return ids


def walk(start_x: float, speed: float, at_s: float, y: float = 50) -> Box:
    x = start_x + speed * at_s
    return (x, y, x + 30, y + 60)


def moments(until_s: float, fps: float = 10) -> Iterator[float]:
    return (number / fps for number in range(round(until_s * fps)))


def test_an_object_keeps_its_number() -> None:
    ids = tracker()
    assert {tuple(ids(at, found(walk(0, 40, at)))) for at in moments(5)} == {(1,)}


def test_objects_that_pass_each_other_keep_theirs() -> None:
    ids = tracker()
    seen = [ids(at, found(walk(0, 60, at), walk(300, -60, at, y=56))) for at in moments(5)]
    assert seen == [[1, 2]] * 50


def test_the_order_of_the_detections_does_not_matter() -> None:
    ids = tracker()
    assert ids(0.0, found(walk(0, 0, 0), walk(200, 0, 0))) == [1, 2]
    assert ids(0.1, found(walk(200, 0, 0), walk(0, 0, 0))) == [2, 1]


def test_an_object_behind_a_pillar_comes_out_under_the_same_number() -> None:
    ids = tracker(lost_s=2)
    for at in moments(4):
        behind = 1.5 <= at < 2.5
        seen = ids(at, found() if behind else found(walk(0, 30, at)))
        assert seen == ([] if behind else [1])


def test_who_was_away_for_too_long_gets_a_new_number() -> None:
    ids = tracker(lost_s=1)
    assert ids(0, found(walk(0, 0, 0))) == [1]
    assert [ids(at, found()) for at in (0.5, 1.0, 1.5)] == [[], [], []]
    assert ids(2, found(walk(0, 0, 0))) == [2], "numbers are never given twice"


def test_a_pause_without_frames_ends_no_track() -> None:
    ids = tracker(lost_s=1)
    assert ids(0, found(walk(0, 0, 0))) == [1]
    assert ids(60, found(walk(0, 0, 0))) == [1], "the motion gate saw nothing move meanwhile"


def test_unsure_detections_carry_a_track_on_and_start_none() -> None:
    ids = tracker(min_score=0.6)
    box = walk(0, 0, 0)
    assert ids(0.0, found(box, scores=(0.4,))) == [0]
    assert ids(0.1, found(box, scores=(0.8,))) == [1]
    assert ids(0.2, found(box, scores=(0.4,))) == [1]


def test_a_label_that_flickers_does_not_end_a_track() -> None:
    ids = tracker()
    box = walk(0, 0, 0)
    assert [ids(at, found(box, classes=(number % 2,))) for number, at in enumerate(moments(1))] == [
        [1]
    ] * 10


def test_a_filter_before_it_hides_objects_and_not_frames() -> None:
    ids = tracker({"type": "filter", "classes": ["person"]}, lost_s=1)
    assert ids(0, found(walk(0, 0, 0), walk(200, 0, 0), classes=(1, 0))) == [1]
    assert [ids(at, found(walk(200, 0, 0), classes=(1,))) for at in (0.8, 1.6)] == [[], []]
    assert ids(2, found(walk(200, 0, 0))) == [2], "it was told that the person had gone"


def test_a_filter_behind_it_keeps_the_numbers() -> None:
    need_module("edgefirst.tracker")
    tables: list[dict[str, Any]] = [{"type": "track"}, {"type": "filter", "classes": ["bicycle"]}]
    chain = Chain(
        [configuration.decode_adapter("rules", table, where="test") for table in tables], LABELS
    )
    kept = chain(found(walk(0, 0, 0), walk(200, 0, 0), classes=(0, 1)), 0)
    assert isinstance(kept, Detections) and kept.ids is not None
    data = payload_of(kept)
    assert isinstance(data, DetectionsData) and data.ids == [2] and data.labels == ["bicycle"]
    plain = payload_of(found(walk(0, 0, 0)))
    assert b"ids" not in msgspec.json.encode(plain), "what is not tracked says nothing of it"


def test_ids_belong_to_the_boxes() -> None:
    with pytest.raises(ValueError, match=r"ids \(3,\) for 1 boxes"):
        dataclasses.replace(found(walk(0, 0, 0)), ids=np.array([1, 2, 3]))


def test_numbers_are_given_for_years() -> None:
    ids = tracker(lost_s=0.01)
    stays, passers = walk(0, 0, 0), [walk(40.0 * number, 0, 0, y=500) for number in range(50)]
    given = []
    for at in range(60):
        given += ids(at, found(stays, *passers))
        assert ids(at + 0.5, found(stays)) == [1]
    assert [number for number in given if number != 1] == list(range(2, 60 * 50 + 2))


def test_a_broken_frame_does_not_stay_in_the_filter() -> None:
    ids = tracker()
    assert ids(0, found(walk(0, 0, 0))) == [1]
    with pytest.raises(FrameError, match="not finite"):
        ids(0.1, found((float("nan"), 0, 30, 60)))
    assert ids(0.2, found(walk(0, 0, 0))) == [1]


def test_only_detections_are_tracked() -> None:
    need_module("edgefirst.tracker")
    chain = Chain([configuration.decode_adapter("rules", {"type": "track"}, where="t")], LABELS)
    with pytest.raises(ConfigError, match="only detections can be tracked"):
        chain(Classification(np.array([0.1, 0.9], np.float32), LABELS), 0)


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgefirst.tracker", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgewright\[track\]'"):
        Chain([configuration.decode_adapter("rules", {"type": "track"}, where="t")], LABELS)
