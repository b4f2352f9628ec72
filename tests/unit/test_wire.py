from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from builders import draft, row

from edge import wire
from edge.conditions import QualityData, SourceData
from edge.errors import FrameError
from edge.payloads import (
    MAX_RUNS,
    MAX_SCORES,
    ClassificationData,
    DetectionsData,
    MaskData,
    ReadingData,
    payload_of,
)
from edge.types import (
    Anomaly,
    Classification,
    Depth,
    Embedding,
    Instances,
    Keypoints,
    Oriented,
    Outcome,
    Reading,
    Regression,
    Segmentation,
)
from edge.wire import AlarmData, Event, State

PAIR = row("12")
BASE = (PAIR.boxes, PAIR.scores, PAIR.classes, PAIR.labels)
NOWHERE = np.array([[np.nan, 1.0], [3.0, 5.0]], np.float32)

OUTCOMES: dict[str, Outcome] = {
    "detections": row("12"),
    "classification": Classification(np.array([0.25, 0.75], np.float32), ("still", "moving")),
    "reading": Reading(value="0047", number=4.7, confidence=0.91),
    "instances": Instances(*BASE, (np.eye(3, dtype=bool), np.zeros((2, 4), bool))),
    "keypoints": Keypoints(
        *BASE, np.ones((2, 1, 2), np.float32), np.full((2, 1), 0.5, np.float32), ("nose",)
    ),
    "oriented": Oriented(*BASE, np.arange(16, dtype=np.float32).reshape(2, 4, 2)),
    "segmentation": Segmentation(np.array([[0, 0, 1], [1, 1, -1]], np.int16), ("road", "sky")),
    "anomaly": Anomaly(score=0.7, threshold=0.5, map=NOWHERE),
    "depth": Depth(map=NOWHERE),
    "regression": Regression(np.array([1.5, -2], np.float32), ("a", "b")),
    "embedding": Embedding(np.array([0.6, 0.8], np.float32)),
}


def event(outcome: Outcome) -> Event:
    payload = payload_of(outcome)
    return msgspec.structs.replace(
        draft(),
        kind=wire.kind_of(payload),
        data=msgspec.Raw(msgspec.json.encode(payload)),
        device="gate-07",
        epoch="9f2c41d07be3a685",
        seq=18231,
    )


@pytest.mark.parametrize("kind", OUTCOMES)
def test_an_event_survives_the_wire(kind: str) -> None:
    sent = event(OUTCOMES[kind])
    received = wire.decode_event(wire.encode(sent))
    assert received.kind == kind
    assert received.payload == sent.payload == payload_of(OUTCOMES[kind])
    assert wire.encode(received) == wire.encode(sent), "its bytes never change"


def test_an_event_looks_as_the_plan_says() -> None:
    plain = msgspec.json.decode(wire.encode(event(row("3"))))
    assert list(plain) == [
        *("v", "device", "epoch", "seq", "kind", "pipeline"),
        *("time", "source", "model", "engine", "data"),
    ]
    assert plain["v"] == 1 and plain["seq"] == 18231
    assert plain["time"]["clock"] == "unknown"
    assert plain["data"] == {
        "boxes": [[0.0, 100.0, 12.0, 120.0]],
        "scores": [0.9],
        "classes": [3],
        "labels": ["3"],
    }


def test_a_reader_ignores_what_it_does_not_know() -> None:
    plain = msgspec.json.decode(wire.encode(event(OUTCOMES["reading"])))
    plain |= {"v": 2, "sig": "…", "data": {**plain["data"], "unit": "m3"}}
    received = wire.decode_event(msgspec.json.encode(plain))
    assert received.payload == payload_of(OUTCOMES["reading"])
    unknown = wire.decode_event(msgspec.json.encode({**plain, "kind": "odour"}))
    assert isinstance(unknown.payload, dict) and unknown.payload["unit"] == "m3"


def test_the_payloads_are_rounded_plain_values() -> None:
    assert payload_of(OUTCOMES["classification"]) == ClassificationData(
        label="moving", score=0.75, scores={"still": 0.25, "moving": 0.75}
    )
    doubted = Reading(value="1", number=1, confidence=0.5, plausible=False, reason="jumps")
    assert payload_of(doubted) == ReadingData(
        value="1", number=1, confidence=0.5, plausible=False, reason="jumps"
    )
    nothing = payload_of(row(""))
    assert nothing == DetectionsData(boxes=[], scores=[], classes=[], labels=[])


def test_masks_and_maps_travel_as_runs() -> None:
    plain = {
        kind: msgspec.to_builtins(payload_of(OUTCOMES[kind]))
        for kind in ("instances", "segmentation")
    }
    # the first run of a mask is outside of the object, and may be of no length
    assert plain["instances"]["masks"] == [
        {"size": (3, 3), "runs": [0, 1, 3, 1, 3, 1]},
        {"size": (4, 2), "runs": [8]},
    ]
    assert plain["segmentation"] == {
        "shares": {"road": 0.4, "sky": 0.6},
        "labels": {0: "road", 1: "sky"},
        "size": (3, 2),
        "runs": [(0, 2), (1, 3), (-1, 1)],
    }


def test_maps_say_where_the_model_did_not_look() -> None:
    anomaly, depth = (msgspec.to_builtins(payload_of(OUTCOMES[k])) for k in ("anomaly", "depth"))
    assert anomaly["anomalous"] and anomaly["map"] == [[None, 1.0], [3.0, 5.0]]
    assert (depth["low"], depth["median"], depth["high"]) == (1.0, 3.0, 5.0)


def test_what_grows_with_the_picture_is_bounded_on_the_wire() -> None:
    noise = np.random.default_rng(1).integers(0, 300, (720, 1280)).astype(np.int16)
    labels = tuple(f"class {index}" for index in range(300))
    worst: list[Outcome] = [
        Segmentation(noise, labels),
        Instances(*BASE, (noise % 2 == 0, noise % 2 == 0)),
        Anomaly(score=1.0, threshold=0.5, map=noise.astype(np.float32)),
        Classification(np.linspace(0, 1, 300, dtype=np.float32), labels),
    ]
    for outcome in worst:
        assert len(msgspec.json.encode(payload_of(outcome))) < 64_000
    segmentation, instances, _, classification = map(payload_of, worst)
    assert isinstance(classification, ClassificationData)
    assert len(classification.scores) == MAX_SCORES and classification.label == "class 299"
    assert len(getattr(segmentation, "runs")) <= MAX_RUNS  # noqa: B009
    (first, _) = getattr(instances, "masks")  # noqa: B009
    assert isinstance(first, MaskData) and max(first.size) <= 64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_never_reach_the_wire(bad: float) -> None:
    found = row("12")
    found.boxes[0, 2] = bad
    unsure = row("12")
    unsure.scores[1] = bad
    for outcome in (
        found,
        unsure,
        Classification(np.array([bad, 0.5], np.float32), ("a", "b")),
        Reading(value="1", number=bad, confidence=0.5),
        Anomaly(score=bad, threshold=0.5),
        Depth(map=np.full((2, 2), bad, np.float32)),
        Regression(np.array([bad], np.float32), ("a",)),
        Embedding(np.array([bad], np.float32)),
        Oriented(*BASE, np.full((2, 4, 2), bad, np.float32)),
    ):
        with pytest.raises(FrameError, match=r"not finite|shows nothing"):
            payload_of(outcome)


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_435_200_123_999_999, "2026-11-23T12:00:00.123Z"),
        (1_795_435_199_999_999_999, "2026-11-23T11:59:59.999Z"),
        (1_000_000_000_000_000_000, "2001-09-09T01:46:40.000Z"),
    ],
)
def test_wall_time_is_utc_in_milliseconds_and_never_rounded_up(wall_ns: int, text: str) -> None:
    assert wire.wall_text(wall_ns) == text


def test_a_state_leaves_out_what_a_will_cannot_know() -> None:
    will = State(device="gate-07", online=False, connection=3)
    assert msgspec.json.decode(wire.encode(will)) == {
        "device": "gate-07",
        "online": False,
        "connection": 3,
    }


# ---- the schema


CONDITIONS: dict[str, wire.Payload] = {
    "source": SourceData(
        state="recovered", detail="rtsp://gate", lost_s=3.2, losses=2, size=(640, 360),
        size_before=(1920, 1080),
    ),
    "quality": QualityData(
        problem="moved", state="ended", seconds=70.5, measures={"moved": 0.1},
        limits={"moved": 0.3}, accepted=True, jpeg="/9j/", channels=("ax",), samples=(0.5, -1),
    ),
    "alarm": AlarmData(code="heat_slower", detail="85 °C", facts={"pace": 0.75}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONDITIONS)
def test_what_is_told_of_a_source_or_the_board_comes_back_and_keeps_to_the_schema(
    kind: str,
) -> None:
    told = wire.event_of(CONDITIONS[kind], time=draft().time, pipeline="gate")
    again = wire.decode_event(wire.encode(told))
    assert (again.kind, again.payload) == (kind, CONDITIONS[kind])
    plain = msgspec.json.decode(wire.encode(told))
    assert is_valid(plain)
    assert not is_valid({**plain, "data": {}})


def is_valid(plain: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(wire.event_schema()).is_valid(plain))


@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_schema_describes_real_events(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(wire.event_schema())
    plain = msgspec.json.decode(wire.encode(event(OUTCOMES[kind])))
    assert is_valid(plain)
    assert is_valid({**plain, "sig": "unknown fields are fine"})
    assert not is_valid({**plain, "seq": "1"})
    assert not is_valid({**plain, "data": {"something": "else"}})
    assert not is_valid({key: value for key, value in plain.items() if key != "time"})
    assert is_valid({**plain, "kind": "odour", "data": {"something": "else"}})
