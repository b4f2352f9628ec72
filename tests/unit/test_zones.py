"""Zones, lines and counts, on trajectories whose ids are given: tracking has tests of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from edge import config as configuration
from edge.errors import ConfigError
from edge.happenings import CountData, CrossingData, Happening, ZoneData
from edge.rules import Chain
from edge.seams import Watcher, find
from edge.types import Classification, Detections

LABELS = ("person", "bicycle")
SIZE = (200, 100)
GATE = [[100, 0], [200, 0], [200, 100], [100, 100]]
Spot = tuple[int, float, float]
"""Id, x and y of the lower edge's middle."""


def at(*spots: Spot, label: str = "person") -> Detections:
    boxes = [(x - 5, y - 20, x + 5, y) for _, x, y in spots]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(spots), 0.9, np.float32),
        np.full(len(spots), LABELS.index(label), np.int64),
        LABELS,
        ids=np.array([spot[0] for spot in spots], np.int64),
    )


def rule(kind: str, **options: Any) -> Callable[[float, Detections], list[Happening]]:
    """One watching rule, called with a moment in seconds and what a frame shows."""
    if kind in ("entered", "left", "dwell"):
        options = {"zone": "gate", "polygon": GATE, **options}
    decoded = configuration.decode_adapter("rules", {"type": kind, **options}, where="test")
    watcher: Watcher = find("rules", kind)(decoded.options, labels=LABELS)
    return lambda at_s, seen: list(watcher.watch(seen, round(at_s * 1e9), SIZE))


def story(
    watch: Callable[[float, Detections], list[Happening]],
    path: Iterable[float | None],
    *,
    fps: float = 10,
) -> list[tuple[float, Happening]]:
    """Walk object 1 along x, one position a frame (None: not seen); what happened when."""
    told: list[tuple[float, Happening]] = []
    for number, x in enumerate(path):
        seen = at() if x is None else at((1, x, 50))
        told += [(number / fps, one) for one in watch(number / fps, seen)]
    return told


def zone_story(kind: str, path: Iterable[float | None], **options: Any) -> list[Any]:
    return [(moment, one) for moment, one in story(rule(kind, **options), path)]


# ---- zones


def test_who_walks_in_has_entered_once_it_is_sure() -> None:
    ((moment, one),) = zone_story("entered", [80, 90, 110, *[150] * 20], settle_s=0.5)
    assert moment == pytest.approx(0.7), "half a second after the first frame inside"
    assert isinstance(one, ZoneData)
    assert (one.action, one.zone, one.id, one.label, one.score) == (
        *("entered", "gate", 1, "person", 0.9),
    )
    assert one.box == [105.0, 30.0, 115.0, 50.0]


def test_who_appears_inside_has_entered_too() -> None:
    assert len(zone_story("entered", [150] * 20)) == 1


def test_who_walks_out_has_left_after_so_many_seconds() -> None:
    path = [50] * 5 + [150] * 20 + [50] * 10
    ((moment, one),) = zone_story("left", path)
    assert (moment, one.action, one.seconds, one.vanished) == (3.0, "left", 2.0, False)


def test_trembling_on_the_border_is_nothing() -> None:
    trembling = [99, 101, 101, 99, 101] * 20
    for kind in ("entered", "left"):
        assert zone_story(kind, trembling) == []
    inside_trembling = [*[150] * 10, *trembling, *[150] * 10]
    assert len(zone_story("entered", inside_trembling)) == 1
    assert zone_story("left", inside_trembling) == []


def test_an_object_that_is_hidden_for_a_moment_has_not_left() -> None:
    path = [*[150] * 10, *[None] * 15, *[150] * 10]
    assert zone_story("left", path, lost_s=2) == []
    assert len(zone_story("entered", path, lost_s=2)) == 1


def test_an_object_that_vanishes_has_left_and_that_is_said() -> None:
    ((moment, one),) = zone_story("left", [*[150] * 11, *[None] * 30], lost_s=2)
    assert (moment, one.seconds, one.vanished) == (3.0, 1.0, True)
    assert one.box == [145.0, 30.0, 155.0, 50.0], "where it was last seen"


def test_who_was_last_seen_outside_has_walked_out() -> None:
    ((_, one),) = zone_story("left", [*[150] * 11, 90, *[None] * 30], lost_s=2)
    assert (one.vanished, one.seconds) == (False, 1.1)


def test_dwelling_is_told_once_a_stay() -> None:
    stay = [150] * 40
    told = zone_story("dwell", [*stay, *[50] * 10, *stay], seconds=2)
    assert [(moment, one.action, one.seconds) for moment, one in told] == [
        (2.0, "dwell", 2.0),
        (7.0, "dwell", 2.0),
    ]


def test_dwelling_goes_on_over_a_gap() -> None:
    hidden = zone_story("dwell", [*[150] * 10, *[None] * 15, *[150] * 20], seconds=3)
    assert [(moment, one.seconds) for moment, one in hidden] == [(3.0, 3.0)]
    watch = rule("dwell", seconds=30)
    assert watch(0, at((1, 150, 50))) == [] and watch(1, at((1, 150, 50))) == []
    (one,) = watch(40, at((1, 150, 50)))
    assert isinstance(one, ZoneData) and one.seconds == 40, "no frame showed that it was away"
    gone = rule("dwell", seconds=30)
    assert gone(0, at((1, 150, 50))) == [] and gone(1, at((1, 150, 50))) == []
    assert gone(39, at()) == [] and gone(40, at((1, 150, 50))) == [], "this is another stay"


def test_objects_are_told_apart() -> None:
    watch = rule("entered", settle_s=0)
    assert watch(0, at((1, 50, 50), (2, 150, 50)))[0].id == 2  # type: ignore[union-attr]
    assert [one.id for one in watch(1, at((2, 150, 50), (1, 150, 50)))] == [1]  # type: ignore[union-attr]


def test_what_belongs_to_no_track_is_not_seen() -> None:
    watch = rule("entered", settle_s=0)
    assert watch(0, at((0, 150, 50))) == []
    assert watch(0, dataclasses.replace(at((1, 150, 50)), ids=None)) == []


def test_a_zone_may_be_given_in_shares_of_the_picture() -> None:
    shares = [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]
    path = [80, 90, 99, 101, 150, 150]
    in_shares = zone_story("entered", path, settle_s=0.1, polygon=shares)
    assert in_shares == zone_story("entered", path, settle_s=0.1) != []


def test_an_object_stands_where_its_box_ends_or_has_its_middle() -> None:
    upper = [[0, 0], [200, 0], [200, 60], [0, 60]]
    seen = at((1, 100, 65))
    assert rule("entered", polygon=upper, settle_s=0)(0, seen) == []
    assert len(rule("entered", polygon=upper, settle_s=0, anchor="center")(0, seen)) == 1


def test_a_zone_may_have_any_shape() -> None:
    corner = [[0, 0], [100, 0], [100, 20], [20, 20], [20, 100], [0, 100]]
    watch = rule("entered", polygon=corner, settle_s=0)
    inside = watch(0, at((1, 10, 90), (2, 90, 10), (3, 50, 50)))
    assert [one.id for one in inside] == [1, 2]  # type: ignore[union-attr]


# ---- lines


def crossings(path: list[float | None], **options: Any) -> list[str]:
    watch = rule("line", line="door", **{"start": [100, 0], "end": [100, 100], **options})
    told = [one for _, one in story(watch, path)]
    assert all(isinstance(one, CrossingData) and one.line == "door" for one in told)
    return [one.direction for one in told if isinstance(one, CrossingData)]


def test_a_line_is_crossed_both_ways() -> None:
    there_and_back = [*[50, 80, 120, 150, 150, 150], *[120, 80, 50, 50, 50]]
    assert crossings(there_and_back) == ["to_left", "to_right"], "who walks down has x on the left"
    turned = {"start": [100, 100], "end": [100, 0]}
    assert crossings(there_and_back, **turned) == ["to_right", "to_left"]
    assert crossings(there_and_back, direction="to_right") == ["to_right"]


def test_trembling_on_the_line_is_no_crossing() -> None:
    assert crossings([80, *[99, 101] * 30, 80, 80, 80, 80]) == []
    assert crossings([80, *[99, 101] * 30, 120, 120, 120, 120]) == ["to_left"]


def test_who_walks_around_the_end_of_a_line_does_not_cross_it() -> None:
    short = {"start": [100, 60], "end": [100, 100]}
    assert crossings([50, 80, 120, 150, 150, 150], **short) == []


def test_who_is_gone_right_behind_the_line_has_crossed_it() -> None:
    assert crossings([50, 80, 120, *[None] * 30]) == ["to_left"]
    assert crossings([50, 80, *[None] * 30]) == []


def test_a_line_is_crossed_behind_a_pillar() -> None:
    assert crossings([50, 80, *[None] * 10, 120, 150, 150, 150]) == ["to_left"]


def test_a_line_may_be_given_in_shares_of_the_picture() -> None:
    shares = {"start": [0.5, 0], "end": [0.5, 1]}
    assert crossings([50, 80, 99, 101, 150, 150, 150], **shares) == ["to_left"]


# ---- counts


def counts(watch: Any, *frames: Detections) -> list[tuple[float, int, dict[str, int]]]:
    told = [
        (number / 10, one) for number, seen in enumerate(frames) for one in watch(number / 10, seen)
    ]
    assert all(isinstance(one, CountData) for _, one in told)
    return [(moment, one.count, one.labels) for moment, one in told]


def test_a_count_is_told_when_it_changes() -> None:
    one, two = at((1, 150, 50)), at((1, 150, 50), (2, 160, 50))
    watch = rule("count", zone="gate", polygon=GATE, settle_s=0.2)
    assert counts(watch, *[at()] * 5, *[one] * 5, *[two] * 5, *[one] * 5) == [
        (0.2, 0, {}),
        (0.7, 1, {"person": 1}),
        (1.2, 2, {"person": 2}),
        (1.7, 1, {"person": 1}),
    ]


def test_a_count_that_flickers_is_not_told() -> None:
    one = at((1, 150, 50))
    watch = rule("count", settle_s=0.2)
    assert counts(watch, *[one] * 5, *[at(), at(), one] * 10) == [(0.2, 1, {"person": 1})]


def test_the_whole_picture_is_counted_without_tracking() -> None:
    seen = dataclasses.replace(at((0, 20, 50), (0, 150, 50), label="bicycle"), ids=None)
    assert counts(rule("count", settle_s=0), seen) == [(0.0, 2, {"bicycle": 2})]
    in_zone = rule("count", settle_s=0, zone="gate", polygon=GATE)
    assert counts(in_zone, seen) == [(0.0, 1, {"bicycle": 1})]


# ---- in a chain


def chain(*tables: dict[str, Any]) -> Chain:
    decoded = [configuration.decode_adapter("rules", table, where="test") for table in tables]
    return Chain(decoded, LABELS)


COUNT = {"type": "count", "settle_s": 0}


def test_watchers_pass_on_what_they_see_and_the_last_one_leaves_nothing() -> None:
    watching = chain(COUNT)
    assert watching(at((1, 50, 50)), 0, SIZE) is None and len(watching.happened) == 1
    reporting = chain(COUNT, {"type": "on_change"})
    assert reporting(at((1, 50, 50)), 0, SIZE) is not None and len(reporting.happened) == 1
    assert reporting(at((1, 60, 50)), 1, SIZE) is None and reporting.happened == []


def test_watchers_see_the_frames_in_which_a_filter_left_nothing() -> None:
    watching = chain({"type": "filter", "classes": ["bicycle"]}, COUNT)
    told = []
    for number, label in enumerate(["bicycle", "person", "bicycle"]):
        watching(at((1, 50, 50), label=label), number, SIZE)
        told += [one.count for one in watching.happened if isinstance(one, CountData)]
    assert told == [1, 0, 1]


@pytest.mark.parametrize("kind", ["debounce", "on_change"])
def test_watchers_must_see_every_frame(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"count: must see every frame; put it before {kind}"):
        chain({"type": kind}, COUNT)


def test_zones_and_lines_need_ids() -> None:
    with pytest.raises(ConfigError, match="entered: needs the ids of the rule track; put that be"):
        chain({"type": "entered", "zone": "gate", "polygon": GATE})


def test_only_detections_are_watched() -> None:
    with pytest.raises(ConfigError, match="count: needs a model that detects"):
        chain(COUNT)(Classification(np.array([0.1, 0.9], np.float32), LABELS), 0, SIZE)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"type": "entered", "zone": "gate"}, "zone 'gate' has no polygon; give it one here, or"),
        ({"type": "count", "zone": "gate"}, "zone 'gate' has no polygon"),
        ({"type": "left", "zone": "a", "polygon": [[0, 0], [1, 1]]}, "3 points or more, not 2"),
        ({"type": "left", "zone": "a", "polygon": [[0, 0], [1, -1], [1, 1]]}, "polygon.*>= 0"),
        ({"type": "dwell", "zone": "a", "polygon": GATE}, "seconds: missing"),
        ({"type": "line", "line": "a", "start": [1, 1], "end": [1, 1]}, "must differ"),
    ],
)
def test_mistakes_are_told_with_their_place(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"edge.toml: rules.*{words}"):
        configuration.decode_adapter("rules", table, where="edge.toml")
