from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge import doctor
from edge.bundle import Bundle
from edge.engines.quarantine import Quarantine, Record, Suspect
from edge.wire import ModelRef


def test_the_doctor_tries_every_engine() -> None:
    found = json.loads(json.dumps(doctor.examine()))
    assert {trial["engine"] for trial in found["engines"]} == {"onnx:cpu", "litert:cpu"}
    assert all(trial["works"] for trial in found["engines"])
    assert found["machine"]["cores"] >= 1 and found["libraries"]["opencv"] != "not installed"


def test_the_doctor_tries_accelerators_in_a_process_of_their_own(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.choose, "available", lambda engine: ["cpu", "xnnpack"])
    tried = doctor.try_accelerators(Bundle.open(wrist_bundle))
    works = {(trial["engine"], trial["variant"]): trial["works"] for trial in tried}
    assert works == {
        ("tflite:xnnpack", "tflite-fp32"): True,
        ("tflite:xnnpack", "tflite-int8"): True,
        ("onnx:xnnpack", "onnx-fp32"): False,
        ("onnx:xnnpack", "onnx-int8"): False,
        ("openvino:xnnpack", "onnx-fp32"): False,
        ("openvino:xnnpack", "onnx-int8"): False,
    }
    assert "28 on xnnpack" in next(t["detail"] for t in tried if t["variant"] == "tflite-int8")


def test_the_doctor_shows_and_clears_the_quarantine(tmp_path: Path) -> None:
    model = ModelRef(name="toy", version="1", bundle="sha256:00", variant="onnx-fp32")
    suspect = Suspect(engine="onnx", accelerator="qnn", version="1", options="{}", model=model)
    Quarantine(tmp_path).add(Record(suspect=suspect, kind="hang", detail="slept", wall="2026"))
    assert doctor.quarantined(tmp_path) == [
        "onnx:qnn (1) with toy onnx-fp32: hang: slept, since 2026"
    ]
    assert len(doctor.quarantined(tmp_path, clear=True)) == 1
    assert doctor.quarantined(tmp_path) == []


def test_the_doctor_says_what_to_install(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "amqtt", None)
    trials = doctor.try_engines(Bundle.open(wrist_bundle))
    assert {trial.engine: trial.works for trial in trials} == {"onnx": False, "litert:cpu": True}
    assert "pip install 'edgewright[onnx]'" in next(t.detail for t in trials if not t.works)
    assert doctor._library_version("amqtt") == "not installed"
