"""report.html: one file, nothing from outside, every text escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from convert.report_html import html
from convert.worst import WorstSample, WorstSamples
from edge.types import Classification, Detections

EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "img", "br"}


class _Page(HTMLParser):
    """Tags with their attributes, and whether every tag is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _variant(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "format": name.partition("-")[0],
        "ships": not {"refusals", "dominated", "absent"} & set(changes),
        "size": 250_000,
        "latency_s": 0.004,
        "parity": {"logits": {"max_error": 0.01, "p99_error": 0.002, "cosine": 0.999}},
        "agreement": {"class": 0.99},
        "accuracy": {"accuracy": 0.97, "f1": 0.96},
        "refusals": [],
        **changes,
    }


def _report(**changes: Any) -> dict[str, Any]:
    layers = [{"layer": EVIL, "op": "CONV_2D", "error": 0.4, "added": 0.3}]
    return {
        "title": f"model {EVIL}",
        "samples": 400,
        "reference": {"accuracy": 0.975, "f1": 0.97},
        "variants": [
            _variant("onnx-fp32"),
            _variant("onnx-int8", size=70_000, latency_s=0.002),
            _variant("onnx-int8-dynamic", absent="no MatMul to quantise", size=0, latency_s=0),
            _variant("tflite-int8-dynamic", dominated="no faster here than tflite-int8"),
            _variant(
                "tflite-int8",
                refusals=[f"logits: {EVIL}"],
                advice=f"try {EVIL}",
                layers=layers,
                parity={"logits": {"max_error": None, "p99_error": None, "cosine": 0.0}},
            ),
        ],
        "calibration": {"method": "minmax", "samples": 128, "sha256": EVIL},
        "data": [{"use": "evaluation", "samples": 400}],
        "tools": {"onnx": EVIL},
        **changes,
    }


def _picture(reference: Any, found: Any) -> WorstSample:
    raw = np.full((90, 120, 3), 200, np.uint8)
    return WorstSample(
        index=7, closeness=0, error=0.4, raw=raw, reference=reference, found=found,
        truth={"class": 1},
    )  # fmt: skip


def _class(index: int) -> Classification:
    return Classification(np.eye(2, dtype=np.float32)[index], ("cat", EVIL))


@pytest.fixture
def page(converters: None) -> str:
    return html(_report(), {f"tflite-{EVIL}": [_picture(_class(1), _class(0))]})


def test_it_stands_alone_and_runs_nothing(page: str) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object"}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_text_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert _Page(page).text.count("<script>alert('x')</script>\"&") >= 8


def test_it_says_what_ships_what_does_not_and_why(page: str) -> None:
    text = _Page(page).text
    for part in (
        "2 of 5 ships: onnx-fp32, onnx-int8",
        "– not made",
        "not made: no MatMul to quantise",
        "✗ refused",
        "– dominated",
        "not finite",
        "What to try:",
        "CONV_2D",
        "dominated: no faster here than tflite-int8",
        "Calibration",
    ):
        assert part in text, part


def test_the_trade_off_is_a_drawing_with_a_mark_for_each_variant(page: str) -> None:
    (drawing,) = re.findall(r"<svg viewBox=.*?</svg>", page, re.S)
    circles = [e for e in ElementTree.fromstring(drawing).iter() if e.tag == "circle"]
    assert len(circles) == 4
    sizes = {float(circle.get("r") or 0) for circle in circles}
    assert len(sizes) == 2  # 250 kB and 70 kB
    few = html(_report(variants=[_variant("onnx-fp32")]), {})
    assert "<svg" not in few


def test_boxes_are_drawn_and_windows_become_curves(converters: None) -> None:
    boxes = Detections(
        np.array([[10, 10, 60, 60]], np.float32), np.array([0.8], np.float32), np.array([0]), ("a",)
    )
    empty = Detections.empty(("a",))
    pictures = re.findall(
        r"data:image/png;base64,([\w+/=]+)", html({}, {"v": [_picture(boxes, empty)]})
    )
    assert len(pictures) == 2 and pictures[0] != pictures[1]
    window = WorstSample(
        index=0,
        closeness=0,
        error=1,
        raw=np.eye(5, 3, dtype=np.float32),
        reference=None,
        found=None,
    )
    assert html({}, {"v": [window]}).count("<polyline") == 6


def test_a_report_of_nothing_is_a_page_all_the_same() -> None:
    assert _Page(html({}, {})).open == []


def test_the_worst_are_kept_and_the_rest_let_go() -> None:
    kept = WorstSamples(keep=3)
    for index, (closeness, error) in enumerate([(1, 0), (1, 0.2), (0, 0.1), (1, 0.5), (0, 0.3)]):
        kept.add(
            WorstSample(
                index=index, closeness=closeness, error=error, raw=np.zeros(1), reference=None,
                found=None,
            )
        )  # fmt: skip
    assert [sample.index for sample in kept.worst_first()] == [4, 2, 3]
