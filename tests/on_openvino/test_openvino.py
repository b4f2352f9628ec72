"""OpenVINO, as an engine of its own and as a provider of ONNX Runtime, which needs another build.

Run by `make test-openvino` in an environment of its own; `make test` does not collect this folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from contract.test_engines import EngineContract
from e2e.running import edge, write_config

from edge.accelerators import ONE_THREAD, EngineRequest, OpenVinoOptions
from edge.bundle import Bundle
from edge.engines import faults
from edge.engines.building import build
from edge.engines.host import Hosts
from edge.errors import EngineError
from edge.model import Model

BUNDLES = ("wrist_activity", "meter_reader")


class TestOpenVino(EngineContract):
    engine_name, format = "openvino", "onnx"
    accelerator = "openvino"
    name = "openvino:cpu"
    nodes: ClassVar = {"fp32": {"openvino": 24}, "int8": {"openvino": 28}}
    version = "openvino "


class TestOnnxOpenVino(EngineContract):
    engine_name = format = "onnx"
    accelerator = "openvino"
    name = "onnx:openvino"
    nodes: ClassVar = {"fp32": {"openvino": 9}, "int8": {"openvino": 28}}
    version = "onnxruntime "


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("name", BUNDLES)
def test_every_onnx_variant_gives_its_golden_answers(name: str, engine: str) -> None:
    bundle = Bundle.open(f"builtin:{name}")
    request = EngineRequest(accelerator="openvino", options=OpenVinoOptions(), settings=ONE_THREAD)
    for variant in bundle.manifest.variants:
        if variant.format == "onnx":
            built = build(bundle, variant, engine, request)
            assert faults.prove(built, bundle, variant).error <= 1
            built.close()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_require_passes_on_a_model_that_is_there_as_a_whole(
    engine: str, meter_bundle: Path
) -> None:
    request = EngineRequest(engine=engine, accelerator="openvino", policy="require")
    with Model(Bundle.open(meter_bundle), request=request) as model:
        assert model.engine == {"openvino": "openvino:cpu", "onnx": "onnx:openvino"}[engine]
        assert [*model.placement.nodes] == ["openvino"] and model.fallback == ""


def test_the_silent_fallback_of_onnx_runtime_is_noticed(wrist_bundle: Path) -> None:
    import onnxruntime

    bare = onnxruntime.InferenceSession(
        _model(wrist_bundle), providers=[("OpenVINOExecutionProvider", {"device_type": "GPU"})]
    )
    assert bare.get_providers() == ["CPUExecutionProvider"], "without an error"
    gone = EngineRequest(
        accelerator="openvino", options=OpenVinoOptions(device="GPU"), policy="require"
    )
    with pytest.raises(EngineError) as caught:
        Model(Bundle.open(wrist_bundle), variant="onnx-fp32", request=gone)
    assert "openvino: the model cannot be loaded" in str(caught.value)
    assert "ONNX Runtime silently gave CPUExecutionProvider" in str(caught.value)
    prefer = EngineRequest(accelerator="openvino", options=OpenVinoOptions(device="GPU"))
    with Model(Bundle.open(wrist_bundle), variant="onnx-fp32", request=prefer) as model:
        assert model.engine == "onnx:cpu"
        assert "onnx-fp32 on openvino:openvino" in model.fallback


def test_bf16_is_refused_where_it_was_not_asked_for(
    wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import collections

    from edge.engines import openvino as adapter

    monkeypatch.setattr(adapter, "_kinds", lambda _: collections.Counter(bf16=3, f32=1))
    with pytest.raises(EngineError, match="3 nodes run in bf16, which nobody asked for"):
        TestOpenVino().build(_model(wrist_bundle))


def test_the_precision_is_the_variants(wrist_bundle: Path) -> None:
    engine = TestOpenVino().build(_model(wrist_bundle))
    compiled = engine._request.get_compiled_model()  # type: ignore[attr-defined]
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


def test_auto_takes_what_is_there(wrist_bundle: Path) -> None:
    with Model(Bundle.open(wrist_bundle), request=EngineRequest(accelerator="auto")) as model:
        assert model.engine == "openvino:cpu"


def test_a_run_reports_where_its_nodes_are(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        '[[pipeline]]\nname = "wrist"\nbundle = "builtin:wrist_activity"\nrule = []\n'
        'engine = "onnx"\naccelerator = "openvino"\npolicy = "require"\n'
        'source = { type = "demo-wrist", windows = 20, speed = 1000 }\n',
        '[[sink]]\ntype = "jsonl"\npath = "events.jsonl"\n',
    )
    ended = edge("run", config, timeout_s=60)
    assert ended.code == 0 and "9 on openvino" in ended.err
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {event["engine"] for event in events} == {"onnx:openvino"} and len(events) == 20


def test_two_streams_share_one_engine(wrist_bundle: Path) -> None:
    hosts = Hosts()
    request = EngineRequest(accelerator="openvino")
    for _ in range(2):
        Model(Bundle.open(wrist_bundle), hosts=hosts, request=request)
    (telemetry,) = hosts.telemetry.values()
    assert telemetry.streams == 2
    hosts.close()


def _model(folder: Path) -> bytes:
    bundle = Bundle.open(folder)
    return bundle.read(bundle.manifest.variant("onnx-fp32").file)
