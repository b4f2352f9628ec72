from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import DIGITS, row

from edge.errors import ConfigError
from edge.reading import ReadingRule, main_row
from edge.types import Classification, Detections, Reading


def rule(**config: Any) -> ReadingRule:
    return ReadingRule(ReadingRule.Config(**config), labels=DIGITS)


def read(reader: ReadingRule, *texts: str) -> list[bool]:
    """Whether each reading was plausible."""
    readings = [reader(row(text), 0) for text in texts]
    return [reading.plausible for reading in readings if reading is not None]


def both(first: Detections, second: Detections) -> Detections:
    return Detections(
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.scores, second.scores]),
        np.concatenate([first.classes, second.classes]),
        DIGITS,
    )


def test_digits_are_read_from_left_to_right() -> None:
    backwards = row("004711")[np.arange(5, -1, -1)]
    assert rule(digits=6, decimals=3)(backwards, 0) == Reading(
        value="004711", number=4.711, confidence=pytest.approx(0.9)
    )


def test_the_confidence_is_that_of_the_weakest_digit() -> None:
    found = row("123")
    found.scores[1] = 0.6
    reading = rule()(found, 0)
    assert reading is not None and reading.confidence == pytest.approx(0.6)


@pytest.mark.parametrize("text", ["12", "1234", "12_", "_23", ""])
def test_a_frame_that_cannot_be_read_gives_no_guess(text: str) -> None:
    assert rule(digits=3)(row(text), 0) is None


def test_a_digit_that_is_not_sure_makes_the_frame_unreadable() -> None:
    found = row("123")
    found.scores[2] = 0.49
    assert rule(digits=3, min_score=0.5)(found, 0) is None
    assert rule(digits=3, min_score=0.4)(found, 0) is not None


def test_a_label_that_is_no_digit_makes_the_frame_unreadable() -> None:
    assert rule(between="something else")(row("12_"), 0) is None
    assert rule()(row(""), 0) is None


def test_only_the_main_row_is_read() -> None:
    serial_number = row("99", y=200, height=10)
    assert main_row(both(serial_number, row("1234"))).names == list("1234")
    slanted = row("1234")
    slanted.boxes[:, [1, 3]] += np.arange(4, dtype=np.float32)[:, None] * 3
    assert main_row(both(slanted, serial_number)).names == list("1234")


def test_a_meter_does_not_run_backwards() -> None:
    reader = rule()
    assert read(reader, "100", "101", "101") == [True, True, True]
    doubted = reader(row("099"), 0)
    assert doubted is not None and not doubted.plausible
    assert doubted.reason == "runs backwards: 99 after 101"
    assert read(reader, "102") == [True]


def test_a_meter_does_not_jump() -> None:
    reader = rule(max_rise=5, decimals=1)
    assert read(reader, "100", "150", "151") == [True, True, True]
    doubted = reader(row("202"), 0)
    assert doubted is not None and doubted.reason == "rises by 5.1, more than 5"


def test_after_a_while_a_new_meter_is_believed() -> None:
    reader = rule(accept_after=3)
    assert read(reader, "900", "001", "001", "002", "003") == [True, False, False, True, True]


def test_doubted_readings_that_contradict_one_another_are_not_believed() -> None:
    reader = rule(accept_after=3)
    assert read(reader, "900", "005", "004", "003", "002", "001") == [True] + [False] * 5


def test_one_good_reading_clears_the_doubts() -> None:
    reader = rule(accept_after=2)
    assert read(reader, "900", "001", "901", "001", "901") == [True, False, True, False, True]


def test_only_detections_of_digits_can_be_read() -> None:
    with pytest.raises(ConfigError, match="labels 0 to 9"):
        ReadingRule(ReadingRule.Config(), labels=("cat", "dog"))
    with pytest.raises(ConfigError, match="only detections can be read"):
        rule()(Classification(np.ones(1, np.float32), ("cat",)), 0)
