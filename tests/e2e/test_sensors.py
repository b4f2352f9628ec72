"""Sensors through the whole device: a serial port, a chip of the board and a camera in one config;
and sound, as log-mel features, through a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from broker import wait_until
from devices import Line
from needs import need_assets, need_module

from edge import Pipeline
from edge.bundle import Bundle, write
from edge.manifest import FORMAT, Manifest

from .running import METER_ROI, Running, edge, jsonl, write_config

CHANNELS = 6


def said(number: int) -> bytes:
    """A wrist that swings, with the milliseconds of its own clock, 50 times a second."""
    swing = np.sin(number / 4 + np.arange(CHANNELS)) * 3
    return b"%d,%s\n" % (20 * number, ",".join(f"{value:.3f}" for value in swing).encode())


def write_devices(folder: Path) -> tuple[Line, Path]:
    chip = folder / "hwmon" / "hwmon2"
    chip.mkdir(parents=True)
    (chip / "name").write_text("soc\n")
    (chip / "temp1_input").write_text("55500\n")
    return Line(folder, said), chip


def config_of(folder: Path, line: Line) -> Path:
    wrist = f"""
[[pipeline]]
name = "wrist"
bundle = "builtin:wrist_activity"
rule = []

[pipeline.source]
type = "serial"
port = "{line.port}"
time = "ms"
time_unit = "ms"
rate_hz = 50

[[pipeline.sensor]]
name = "board"
type = "hwmon"
device = "soc"
channels = ["temp1"]
rate_hz = 20
root = "{folder / "hwmon"}"
"""
    meter = f"""
[[pipeline]]
name = "meter"
bundle = "builtin:meter_reader"
{METER_ROI}
rule = []
source = {{ type = "demo-meter", fps = 5 }}
"""
    return write_config(folder, wrist, meter, jsonl(), device="telemetry_s = 0.2")


def events(folder: Path, pipeline: str) -> list[dict[str, Any]]:
    """Those that speak of a frame."""
    file = folder / "events.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [event for event in found if event["pipeline"] == pipeline and event.get("source")]


def test_a_sensor_is_unplugged_and_comes_back_beside_a_camera(
    tmp_path: Path, agents: list[Running]
) -> None:
    need_module("serial")
    line, _ = write_devices(tmp_path)
    config = config_of(tmp_path, line)
    agents.append(Running(config))
    wait_until(lambda: len(events(tmp_path, "wrist")) >= 3, 30)
    first = events(tmp_path, "wrist")[-1]
    assert first["context"]["board"]["temp1"] == 55.5
    assert first["kind"] == "classification" and first["source"]["name"] == "wrist"

    line.unplug()
    wait_until(lambda: "source lost" in edge("status", config).out, 30)
    answer = json.loads(edge("status", "--json", config).out)
    assert answer["pipelines"]["wrist"]["source"] == "lost"
    meter = len(events(tmp_path, "meter"))
    wait_until(lambda: len(events(tmp_path, "meter")) > meter + 2, 30)

    before = len(events(tmp_path, "wrist"))
    line.plug()
    wait_until(lambda: len(events(tmp_path, "wrist")) > before + 2, 30)
    assert edge("status", config).code == 0
    frames = [event["source"]["frame"] for event in events(tmp_path, "wrist")]
    assert frames == sorted(set(frames)) and frames[-1] >= len(frames), "one was skipped"
    assert all("context" not in event for event in events(tmp_path, "meter"))
    assert agents[0].end().code == 0
    line.close()


# ---- sound

BANDS, FRAMES = 16, 62


def loudness(folder: Path) -> Bundle:
    """Loud when the mean of its features is above ln(1e-3): one output each for loud and quiet."""
    need_module("onnx")
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
    ]
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, 2], [1.0, -1.0])
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [2], [-np.log(1e-3), np.log(1e-3)])
    shape = [1, 1, BANDS, FRAMES]
    graph = helper.make_graph(
        nodes,
        "loudness",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [weights, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    made = {
        "format": FORMAT, "requires": ["log_mel"], "name": "loudness", "version": "1",
        "task": "classify", "labels": ["loud", "quiet"],
        "preprocess": {
            "kind": "window", "length": 8000, "hop": 4000, "rate_hz": 16000,
            "channels": ["sound"], "mean": [0], "std": [1],
            "log_mel": {"n_fft": 256, "hop": 128, "n_mels": BANDS, "center": False, "window": 192,
                        "order": "mel"},
        },
        "decoder": {"name": "softmax"},
        "variants": [{
            "name": "onnx-fp32", "format": "onnx", "precision": "fp32", "file": "l.onnx",
            "inputs": [{"name": "features", "shape": shape, "layout": "nchw"}],
            "outputs": [{"name": "logits", "shape": [1, 2]}],
        }],
        "files": {"l.onnx": {"size": 0, "sha256": ""}},
    }  # fmt: skip
    files = {"l.onnx": model.SerializeToString()}
    return write(folder / "bundle", msgspec.convert(made, Manifest), files)


@pytest.mark.parametrize(("name", "label"), [("noise", "loud"), ("silence", "quiet")])
def test_sound_goes_through_a_model_as_features(tmp_path: Path, name: str, label: str) -> None:
    need_module("soundfile")
    source = {"type": "wav", "path": str(need_assets() / "audio" / f"{name}.wav")}
    with Pipeline("ear", bundle=loudness(tmp_path), source=source, rules=[]) as pipeline:
        steps = list(pipeline)
    assert [getattr(step.prediction, "label", "") for step in steps] == [label] * 3
