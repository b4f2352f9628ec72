from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge import doctor
from edge.bundle import Bundle


def test_the_doctor_tries_every_engine() -> None:
    found = json.loads(json.dumps(doctor.examine()))
    assert {trial["engine"] for trial in found["engines"]} == {"onnx:cpu", "litert:cpu"}
    assert all(trial["works"] for trial in found["engines"])
    assert found["machine"]["cores"] >= 1 and found["libraries"]["opencv"] != "not installed"


def test_the_doctor_says_what_to_install(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "amqtt", None)
    trials = doctor.try_engines(Bundle.open(wrist_bundle))
    assert {trial.engine: trial.works for trial in trials} == {"onnx": False, "litert:cpu": True}
    assert "pip install 'edgewright[onnx]'" in next(t.detail for t in trials if not t.works)
    assert doctor._library_version("amqtt") == "not installed"
