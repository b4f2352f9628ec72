"""The benchmark's machinery, without its timings: rows, intervals, and answers before speed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from needs import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import measuring  # noqa: E402
import results  # noqa: E402
from answers import Found, difference, whole  # noqa: E402

KEYS = {
    *("case", "metric", "who", "ours", "reference", "against", "ratio", "low", "high", "unit"),
    *("better", "answers"),
}
CAT = Found((10.0, 10.0, 50.0, 60.0), 0.9, 3)


def test_a_quick_run_of_one_case_gives_rows_a_table_and_a_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "run.py", "--quick", "--only", "wrist_activity",
         "--out", tmp_path],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "latest.json").read_text())
    (row,) = found["rows"]
    assert row.keys() == KEYS
    assert (row["case"], row["who"], row["answers"]) == ("wrist_activity", "edgewright", "same")
    assert row["low"] <= row["ratio"] <= row["high"]
    assert found["about"]["quick"] is True
    assert "wrist_activity" in done.stdout
    picture = ElementTree.fromstring((tmp_path / "latest.svg").read_text())
    assert "wrist_activity: edgewright" in [text.text for text in picture.iter()]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param([], id="nothing found"),
        pytest.param([CAT._replace(label=4)], id="another class"),
        pytest.param([CAT._replace(box=(10.0, 10.0, 50.0, 80.0))], id="another box"),
        pytest.param([CAT._replace(score=0.7)], id="another score"),
        pytest.param([CAT, CAT._replace(box=(200.0, 0.0, 220.0, 20.0))], id="one too many"),
    ],
)
def test_a_wrong_answer_is_marked_and_does_not_count(wrong: list[Found]) -> None:
    assert difference([[CAT]], [[CAT]], threshold=0.3) == ""
    said = difference([wrong], [[CAT]], threshold=0.3)
    assert "picture 0" in said
    row = measuring.paired(
        "cat", "one frame", "fast", [1.0] * 9, "bare session", [2.0] * 9, answers=f"wrong: {said}"
    )
    assert not results.counts(row)
    assert "does not count" in results.table([row])
    assert "fast" not in results.svg([row]), "a picture shows only what counts"


def test_a_score_near_the_threshold_may_be_there_or_not() -> None:
    near = CAT._replace(score=0.31)
    assert difference([[]], [[near]], threshold=0.3) == ""
    assert difference([whole(1, 0.9)], [whole(2, 0.9)], threshold=0.0)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    chance = random.Random(20261125)
    inside = 0
    for _ in range(400):
        _, low, high = measuring.interval([chance.lognormvariate(0, 1) for _ in range(30)])
        inside += low <= 1.0 <= high
    assert 0.93 <= inside / 400 <= 0.99


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    row = measuring.absent("yolox_nano", "a peer", "not installed")
    assert row.keys() == KEYS and "not installed" in results.table([row])
    results.write(tmp_path, [row], {})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    about = {"machine": "m", "python": "3", "versions": {"numpy": "2"}}
    results.write_readme(readme, [row], about)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| yolox_nano | absent | a peer |" in text
