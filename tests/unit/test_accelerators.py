"""Accelerators by name: their options in edge.toml, and what the runtimes are given."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from edge import accelerators, config_schema
from edge import config as configuration
from edge.accelerators import (
    AclOptions,
    CardOptions,
    CoreMlOptions,
    DelegateOptions,
    GpuOptions,
    OpenVinoOptions,
    Options,
    PluginOptions,
    QnnOptions,
    Settings,
    TensorRtOptions,
)
from edge.engines.onnx import OnnxEngine, provider_options
from edge.engines.tflite import TfliteEngine
from edge.errors import ConfigError, EngineError


def parse(**pipeline: Any) -> configuration.PipelineConfig:
    document = {
        "device": {"id": "d"},
        "pipeline": [{"name": "one", "bundle": "b", "source": {"type": "demo-wrist"}, **pipeline}],
        "sink": [{"type": "jsonl", "path": "-"}],
    }
    jsonschema.Draft202012Validator(config_schema.json_schema()).validate(document)
    return configuration.parse(document, file=Path("/etc/edge.toml"), environ={}).pipelines[0]


def mistakes(**pipeline: Any) -> list[str]:
    document = {
        "pipeline": [{"name": "one", "bundle": "b", "source": {"type": "demo-wrist"}, **pipeline}],
        "sink": [{"type": "jsonl", "path": "-"}],
    }
    with pytest.raises(ConfigError) as caught:
        configuration.parse(document, file=Path("/etc/edge.toml"), environ={})
    return caught.value.problems


def test_options_are_decoded_by_the_accelerator_that_is_named() -> None:
    assert parse().request == accelerators.EngineRequest(options=Options())
    chosen = parse(
        accelerator="openvino",
        accelerator_options={"device": "NPU", "extra": {"num_streams": "1"}},
        policy="require",
        max_latency_ms=20,
        threads=2,
    ).request
    assert chosen.options == OpenVinoOptions(device="NPU", extra={"num_streams": "1"})
    assert (chosen.policy, chosen.max_latency_ms, chosen.settings.threads) == ("require", 20, 2)
    assert parse(accelerator="auto").request.options is None


def test_mistakes_are_told_with_their_key() -> None:
    where = "/etc/edge.toml: pipeline[0]"
    (unknown,) = mistakes(accelerator="npu")
    assert unknown.startswith(f"{where}.accelerator: no accelerator is called 'npu'; there are")
    (typo,) = mistakes(accelerator="cuda", accelerator_options={"device": 1})
    assert typo.startswith(f"{where}.accelerator_options.device: unknown key; did you mean device")
    (kind,) = mistakes(accelerator="cuda", accelerator_options={"device_id": "0"})
    assert kind.startswith(f"{where}.accelerator_options.device_id: Expected `int`")
    (missing,) = mistakes(accelerator="delegate")
    assert missing == f"{where}.accelerator_options.library: missing"
    (policy,) = mistakes(policy="hope")
    assert policy.startswith(f"{where}.policy: Invalid enum value 'hope'")
    (engine,) = mistakes(engine="tvm")
    assert engine.startswith(f"{where}.engine: no engine is called 'tvm'; there are auto, onnx")
    assert len(mistakes(accelerator="auto", accelerator_options={"device": "GPU"})) == 1


def test_options_as_text_are_the_same_for_the_same_options() -> None:
    for name, row in accelerators.TABLE.items():
        given = {"library": "lib.so", "provider": "Own"}
        fields = {field.name for field in msgspec.structs.fields(row.options)}
        options = row.options(**{key: given[key] for key in given.keys() & fields})
        assert accelerators.decode(name, accelerators.canonical(options)) == options
    assert accelerators.canonical(None) == accelerators.canonical(Options()) == "{}"


@pytest.mark.parametrize(
    ("accelerator", "options", "precision", "wanted"),
    [
        ("cpu", Options(), "fp32", {}),
        ("cuda", GpuOptions(device_id=1), "fp32", {"device_id": "1", "use_tf32": "0"}),
        (
            "cuda",
            GpuOptions(memory_mb=64, extra={"use_tf32": "1"}),
            "fp32",
            {"device_id": "0", "use_tf32": "1", "gpu_mem_limit": "67108864"},
        ),
        (
            "tensorrt",
            TensorRtOptions(cache_dir="/c"),
            "fp16",
            {
                "device_id": "0",
                "trt_fp16_enable": "1",
                "trt_int8_enable": "0",
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "/c",
            },
        ),
        (
            "openvino",
            OpenVinoOptions(),
            "int8",
            {"device_type": "CPU", "precision": "FP32", "num_of_threads": "2"},
        ),
        (
            "qnn",
            QnnOptions(performance="burst"),
            "fp32",
            {
                "backend_path": "libQnnHtp.so",
                "htp_performance_mode": "burst",
                "enable_htp_fp16_precision": "0",
            },
        ),
        (
            "coreml",
            CoreMlOptions(),
            "fp32",
            {"MLComputeUnits": "ALL", "ModelFormat": "MLProgram"},
        ),
        ("acl", AclOptions(), "fp32", {"enable_fast_math": "false"}),
        ("migraphx", CardOptions(), "fp32", {"device_id": "0"}),
        ("cann", CardOptions(device_id=2), "fp32", {"device_id": "2"}),
        ("xnnpack", Options(), "fp32", {"intra_op_num_threads": "2"}),
        ("webgpu", Options(extra={"a": "b"}), "fp32", {"a": "b"}),
    ],
)
def test_a_provider_gets_its_options_under_its_own_names(
    accelerator: str, options: Options, precision: str, wanted: dict[str, str]
) -> None:
    assert provider_options(accelerator, options, precision=precision, threads=2) == wanted


# ---- what ONNX Runtime does is played; the real one has no GPU here


class Session:
    """A session that gives `got`, and says that these nodes went to these providers."""

    got: list[str]
    assigned: list[tuple[str, str]]
    given: dict[str, Any]

    def __init__(self, model: bytes, **given: Any) -> None:
        type(self).given = given

    def get_providers(self) -> list[str]:
        return self.got

    def disable_fallback(self) -> None:
        pass

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            types.SimpleNamespace(
                ep_name=provider,
                get_nodes=lambda operator=operator: [types.SimpleNamespace(op_type=operator)],
            )
            for provider, operator in self.assigned
        ]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    import onnxruntime

    class Played(Session):
        got = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
        assigned = (("TensorrtExecutionProvider", "Conv"),)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Played)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*Played.got])
    return Played


def test_cuda_and_tensorrt_are_asked_for_by_their_names(session: type[Session]) -> None:
    engine = OnnxEngine(b"", accelerator="tensorrt", options=TensorRtOptions(), precision="fp16")
    names = [item if isinstance(item, str) else item[0] for item in session.given["providers"]]
    assert names == [*session.got]
    assert session.given["providers"][0][1]["trt_fp16_enable"] == "1"
    assert session.given["enable_fallback"] == 0
    assert engine.name == "onnx:tensorrt" and engine.placement.nodes == {"tensorrt": 1}
    session.assigned = [("CUDAExecutionProvider", "Conv"), ("CPUExecutionProvider", "Shape")]
    engine = OnnxEngine(b"", accelerator="cuda", options=GpuOptions())
    assert engine.name == "onnx:cuda+cpu"
    assert engine.placement.nodes == {"cuda": 1, "cpu": 1}
    assert engine.placement.elsewhere == {"Shape": 1}


def test_a_provider_that_was_silently_dropped_is_an_error(session: type[Session]) -> None:
    session.got = ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match="no CUDAExecutionProvider; it has CPUExecutionProvider"):
        OnnxEngine(b"", accelerator="cuda", options=GpuOptions())


def test_a_provider_that_takes_no_node_is_an_error(session: type[Session]) -> None:
    session.assigned = [("CPUExecutionProvider", "Conv")]
    with pytest.raises(EngineError, match="takes no node of this model; all are on the CPU"):
        OnnxEngine(b"", accelerator="cuda", options=GpuOptions())


def test_a_runtime_that_cannot_tell_is_not_guessed_for(
    session: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Session, "get_provider_graph_assignment_info")
    engine = OnnxEngine(b"", accelerator="cuda", options=GpuOptions())
    assert engine.placement.nodes == {} and str(engine.placement) == "nodes: unknown"


def test_the_real_runtime_drops_a_provider_without_an_error(wrist_bundle: Path) -> None:
    import onnxruntime

    model = (wrist_bundle / "variants/onnx-fp32.onnx").read_bytes()
    with pytest.warns(UserWarning, match="not in available provider names"):
        bare = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider"])
    assert bare.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider"):
        OnnxEngine(model, accelerator="cuda", options=GpuOptions())


def test_libraries_that_are_not_there_are_an_error(wrist_bundle: Path) -> None:
    onnx = (wrist_bundle / "variants/onnx-fp32.onnx").read_bytes()
    with pytest.raises(EngineError, match=r"onnx: none\.so cannot be used"):
        OnnxEngine(
            onnx, accelerator="plugin", options=PluginOptions(library="none.so", provider="Own")
        )
    tflite = (wrist_bundle / "variants/tflite-fp32.tflite").read_bytes()
    with pytest.raises(EngineError, match=r"litert: none\.so cannot be used"):
        TfliteEngine(tflite, accelerator="delegate", options=DelegateOptions(library="none.so"))
    with pytest.raises(EngineError, match=r"needs accelerator_options\.library"):
        TfliteEngine(tflite, accelerator="delegate")


def test_openvino_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.engines.openvino import OpenVinoEngine

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'edgewright\[openvino\]'"):
        OpenVinoEngine(b"")
    with pytest.raises(EngineError, match="accelerator 'cuda' is not supported"):
        OpenVinoEngine(b"", accelerator="cuda")


README = Path(accelerators.__file__).parent / "engines/README.md"


def test_the_readme_of_engines_is_true() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    documents = [{**tomllib.loads(one), "sink": [{"type": "jsonl", "path": "-"}]} for one in blocks]
    pipeline, tuned = [
        configuration.parse(document, file=Path("edge.toml"), environ={}).pipelines[0]
        for document in documents
    ]
    assert pipeline.request.options == OpenVinoOptions(device="GPU", extra={"num_streams": "1"})
    assert (tuned.variant, tuned.accelerator) == ("auto", "auto")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) ?\|$", text, re.MULTILINE)
    table = {name: (runs, options) for name, runs, options in rows if name in accelerators.TABLE}
    assert table.keys() == accelerators.TABLE.keys()
    for name, row in accelerators.TABLE.items():
        runs, options = table[name]
        assert name in ("cpu", "plugin") or row.provider in runs or runs == "–"
        known = {field.name for field in msgspec.structs.fields(row.options)} - {"extra"}
        assert {*re.findall(r"`(\w+)`", options)} == known, name
    for operator in accelerators.SHAPE_OPS:
        assert f"`{operator}`" in text


def test_the_schema_knows_every_accelerators_options() -> None:
    schema = json.dumps(config_schema.json_schema())
    for row in accelerators.TABLE.values():
        for field in msgspec.structs.fields(row.options):
            assert f'"{field.name}"' in schema


def test_the_settings_reach_the_runtimes(
    session: type[Session], wrist_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.got = ["CPUExecutionProvider"]
    session.assigned = [("CPUExecutionProvider", "Conv")]
    OnnxEngine(b"", settings=Settings(threads=2, spinning=True, layout="plain", arena=False))
    options = session.given["sess_options"]
    assert options.intra_op_num_threads == 2 and not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.graph_optimization_level.name == "ORT_ENABLE_EXTENDED"
    OnnxEngine(b"")
    options = session.given["sess_options"]
    assert options.intra_op_num_threads == 1 and options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    tflite = (wrist_bundle / "variants/tflite-fp32.tflite").read_bytes()
    assert {*TfliteEngine(tflite).placement.nodes} == {"xnnpack"}
    assert {*TfliteEngine(tflite, settings=Settings(xnnpack=False)).placement.nodes} == {"cpu"}
