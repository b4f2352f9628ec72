"""What is read out of model files without a library, from good bytes and from any."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import needs
import numpy as np
import pytest

needs.need_module("onnx")

import lookalikes as like  # noqa: E402

from edge.bundle import Bundle  # noqa: E402
from edge.recognize.graph import Graph, literal, read  # noqa: E402


@pytest.fixture
def files(wrist_bundle: Path) -> dict[str, bytes]:
    bundle = Bundle.open(wrist_bundle)
    return {
        variant.format: bundle.read(variant.file)
        for variant in bundle.manifest.variants
        if variant.precision == "int8"
    }


def test_operators_metadata_and_producer_are_read(files: dict[str, bytes]) -> None:
    made = like.model(
        {"out": np.ones((1, 2))}, metadata={"task": "detect", "names": "{0: 'a'}"},
        first="Div", producer="somebody",
    )  # fmt: skip
    graph = read(made, "onnx")
    assert graph.producer == "somebody" and graph.metadata["task"] == "detect"
    assert [operator.type for operator in graph.consumers("image")] == ["Div"]
    assert graph.outputs == ("out",) and literal(graph.metadata["names"]) == {0: "a"}
    assert read(files["onnx"], "onnx").types > {"QuantizeLinear", "Conv"}
    tflite = read(files["tflite"], "tflite")
    assert len(tflite.outputs) == 1 and "QUANTIZE" in tflite.types
    assert all(operator.outputs for operator in tflite.operators)


def test_labels_and_notes_behind_a_tflite_file_are_read(files: dict[str, bytes]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("labels.txt", "cat\n\ndog\n")
        packed.writestr("metadata.json", "{'task': 'detect', 'names': {0: 'cat'}}")
    graph = read(files["tflite"] + archive.getvalue(), "tflite")
    assert graph.labels == ("cat", "dog") and graph.metadata["task"] == "detect"


def test_a_file_cut_off_within_a_field_gives_nothing_rather_than_half_a_name() -> None:
    metadata = {"task": "detect", "names": "{0: 'a'}"}
    made = like.model({"out": np.ones((1, 2))}, metadata=metadata)
    assert read(made, "onnx").metadata == metadata
    within = made.index(b"{0: 'a'}") + 4
    assert read(made[:within], "onnx") == Graph()


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_any_bytes_give_a_graph_and_nothing_else(files: dict[str, bytes], format: str) -> None:
    dice = np.random.default_rng(11)
    good = files[format]
    for number in range(150):
        bad = bytearray(good)
        for place in dice.integers(0, min(len(bad), 4000 if number % 2 else len(bad)), 12):
            bad[place] = dice.integers(0, 256)
        cut = bytes(bad[: int(dice.integers(0, len(bad)))] if number % 3 else bad)
        assert isinstance(read(cut, format), Graph)
    for odd in (b"", b"\x00" * 40, b"\xff" * 40, b"PK\x05\x06" + b"\x00" * 18):
        assert isinstance(read(odd, format), Graph)


def test_only_plain_literals_are_read() -> None:
    assert literal("{0: 'a', 1: 'b'}") == {0: "a", 1: "b"}
    assert literal('["a"]') == ["a"] and literal("[640, 480]") == [640, 480]
    for text in ("__import__('os')", "a b", "", "(" * 10_000, "1" * (2 << 20)):
        assert literal(text) is None
