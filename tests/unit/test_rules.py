from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from builders import DIGITS, row

from edge import config as configuration
from edge.errors import ConfigError
from edge.rules import Chain
from edge.types import (
    Anomaly,
    Attribute,
    Classification,
    Depth,
    Detections,
    Outcome,
    Reading,
    Segmentation,
)

LABELS = ("still", "moving")
SECOND = 1_000_000_000


def rules(*tables: dict[str, Any], labels: tuple[str, ...] = DIGITS) -> Chain:
    return Chain(
        [configuration.decode_adapter("rules", table, where="test") for table in tables], labels
    )


def seen(label: str, score: float = 0.9) -> Classification:
    scores = np.full(2, 1 - score, np.float32)
    scores[LABELS.index(label)] = score
    return Classification(scores, LABELS)


def told(chain: Chain, *moments: tuple[float, Outcome]) -> list[float]:
    """The seconds at which something was reported."""
    return [at for at, outcome in moments if chain(outcome, int(at * SECOND)) is not None]


def test_without_rules_everything_is_reported() -> None:
    assert told(rules(), (0, seen("still")), (1, row(""))) == [0, 1]


def test_a_filter_thins_out_detections() -> None:
    keep = rules({"type": "filter", "min_score": 0.5, "classes": ["3", "4"]})
    kept = keep(row("1234"), 0)
    assert isinstance(kept, Detections) and kept.names == ["3", "4"]
    assert keep(row("1234", score=0.4), 0) is None
    assert keep(row("12"), 0) is None
    empty = rules({"type": "filter", "classes": ["3"], "report_empty": True})(row("12"), 0)
    assert isinstance(empty, Detections) and len(empty) == 0


def test_a_filter_passes_a_classification_or_does_not() -> None:
    keep = rules({"type": "filter", "min_score": 0.8, "classes": ["moving"]}, labels=LABELS)
    outcomes = [seen("moving", 0.9), seen("moving", 0.7), seen("still", 0.9)]
    assert [keep(outcome, 0) is not None for outcome in outcomes] == [True, False, False]


def test_a_filter_lets_a_sure_reading_pass() -> None:
    keep = rules({"type": "filter", "min_score": 0.5})
    assert keep(Reading(value="1", number=1, confidence=0.6), 0) is not None
    assert keep(Reading(value="1", number=1, confidence=0.4), 0) is None


def test_a_filter_for_a_class_that_the_model_lacks_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="the model has no class cat; it has still, moving"):
        rules({"type": "filter", "classes": ["cat"]}, labels=LABELS)


def test_debounce_believes_what_was_the_same_several_times_in_a_row() -> None:
    chain = rules({"type": "debounce", "frames": 3})
    sequence = ["still", "still", "moving", "still", "still", "still", "still", "moving"]
    assert told(chain, *((at, seen(label)) for at, label in enumerate(sequence))) == [5, 6]


def test_debounce_compares_the_labels_seen_and_not_the_boxes() -> None:
    chain = rules({"type": "debounce", "frames": 2})
    assert told(chain, (0, row("12")), (1, row("21", y=300)), (2, row("13"))) == [1]


def test_on_change_reports_what_is_new() -> None:
    chain = rules({"type": "on_change"})
    sequence = ["still", "still", "moving", "moving", "still"]
    assert told(chain, *((at, seen(label)) for at, label in enumerate(sequence))) == [0, 2, 4]


def test_on_change_hears_what_a_second_model_says() -> None:
    chain = rules({"type": "on_change"})
    frames = [
        dataclasses.replace(row("1"), attributes=(Attribute("mood", (mood,), np.ones(1)),))
        for mood in ("calm", "calm", "cross")
    ]
    assert told(chain, *enumerate(frames)) == [0, 2]


def test_on_change_repeats_itself_now_and_then() -> None:
    chain = rules({"type": "on_change", "repeat_s": 2.5})
    assert told(chain, *((at, seen("still")) for at in range(8))) == [0, 3, 6]


def test_on_change_reports_no_more_often_than_allowed() -> None:
    chain = rules({"type": "on_change", "min_interval_s": 2})
    sequence = ["still", "moving", "still", "moving", "moving"]
    assert told(chain, *((at, seen(label)) for at, label in enumerate(sequence))) == [0, 3]


def test_a_chain_goes_on_only_while_there_is_something() -> None:
    chain = rules(
        {"type": "reading", "digits": 2}, {"type": "debounce", "frames": 2}, {"type": "on_change"}
    )
    sequence = ["12", "1", "12", "12", "13", "13", "13"]
    assert told(chain, *((at, row(text)) for at, text in enumerate(sequence))) == [2, 5]


def test_what_is_no_list_of_boxes_passes_by_its_own_score_or_classes() -> None:
    road = Segmentation(np.array([[0, -1]], np.int16), LABELS)
    far = Depth(map=np.ones((1, 1), np.float32))
    wanted = rules({"type": "filter", "min_score": 0.5, "classes": ["still"]}, labels=LABELS)
    assert wanted(road, 0) is road
    assert rules({"type": "filter", "classes": ["moving"]}, labels=LABELS)(road, 0) is None
    assert wanted(Anomaly(score=0.4, threshold=0.3), 0) is None
    assert wanted(Anomaly(score=0.6, threshold=0.3), 0) is not None
    assert wanted(far, 0) is far
    changes = rules({"type": "on_change"}, labels=LABELS)
    assert changes(Anomaly(score=0.4, threshold=0.5), 0) is not None
    assert changes(Anomaly(score=0.3, threshold=0.5), 1) is None, "still normal"
    assert changes(Anomaly(score=0.6, threshold=0.5), 2) is not None
    assert changes(road, 3) is road and changes(road, 4) is None
    assert changes(far, 5) is far and changes(far, 6) is far, "a measurement is always new"
