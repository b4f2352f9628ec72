"""Surgery on graphs written by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from needs import need_module

need_module("onnx")
need_module("onnxruntime")

import onnx

from convert import graph, onnx_graph
from convert.errors import CannotConvert, ConversionError
from edge.engines.onnx import OnnxEngine
from edge.manifest import ImagePreprocess
from edge.types import TensorSpec

PICTURE = """
<ir_version: 9, opset_import: ["" : 17]>
seen (float[1, 3, 4, 5] image) => (float[1, 3, 4, 5] doubled, float[1, 3, 4, 5] negative)
<float two = {2.0}> {
    doubled = Mul(image, two)
    negative = Neg(image)
}
"""
HEAD = """
<ir_version: 9, opset_import: ["" : 17]>
seen (float[1, 8] x) => (float[1, 8] out)
<float[1] stride = {32.0}, int64[2] four = {4, 4}> {
    raw_boxes, raw_scores = Split<axis = 1>(x, four)
    grown = Exp(raw_boxes)
    boxes = Mul(grown, stride)
    scores = Sigmoid(raw_scores)
    joined = Concat<axis = 1>(boxes, scores)
    out = Identity(joined)
}
"""
SPEC = TensorSpec(name="image", shape=(1, 3, 4, 5), layout="nchw")


def _bytes(text: str) -> bytes:
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.0,) * 3, (255.0,) * 3), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), ((0,) * 3, (1,) * 3)],
)
def test_a_folded_model_takes_the_camera_s_picture_and_gives_the_same(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    plain = _bytes(PICTURE)
    folded, spec = onnx_graph.fold(plain, ImagePreprocess(mean=mean, std=std), SPEC)
    assert spec == TensorSpec(name="image", shape=(1, 4, 5, 3), dtype="uint8", layout="nhwc")
    picture = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
    tensor = ((picture - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2)
    expected = OnnxEngine(plain).run({"image": np.ascontiguousarray(tensor, np.float32)})
    engine = OnnxEngine(folded)
    assert [(s.name, s.shape, s.dtype) for s in engine.inputs] == [("image", (1, 4, 5, 3), "uint8")]
    for name, value in engine.run({"image": picture}).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-5)


def test_folding_keeps_a_dynamic_batch_open() -> None:
    text = PICTURE.replace("[1, 3, 4, 5]", "[N, 3, 4, 5]")
    spec = msgspec.structs.replace(SPEC, shape=(-1, 3, 4, 5))
    folded, spec = onnx_graph.fold(_bytes(text), ImagePreprocess(), spec)
    assert spec.shape == (-1, 4, 5, 3)
    found = OnnxEngine(folded).run({"image": np.ones((2, 4, 5, 3), np.uint8)})
    assert found["doubled"].shape == (2, 3, 4, 5)


def test_what_is_no_picture_cannot_be_folded() -> None:
    rows = TensorSpec(name="x", shape=(1, 8), layout="nc")
    with pytest.raises(CannotConvert, match="no picture"):
        onnx_graph.fold(_bytes(HEAD), ImagePreprocess(), rows)
    with pytest.raises(CannotConvert, match="mean 1"):
        onnx_graph.fold(_bytes(PICTURE), ImagePreprocess(mean=(0.0,), std=(1.0,)), SPEC)


def test_a_tensor_inside_can_be_looked_at() -> None:
    seen = OnnxEngine(onnx_graph.with_outputs(_bytes(HEAD), ["boxes", "out"]))
    found = seen.run({"x": np.zeros((1, 8), np.float32)})
    assert list(found) == ["out", "boxes"]
    np.testing.assert_array_equal(found["boxes"], np.full((1, 4), 32.0))
    with pytest.raises(ConversionError, match="no tensor 'missing'"):
        onnx_graph.with_outputs(_bytes(HEAD), ["missing"])


def test_every_node_gets_a_name_of_its_own_and_the_same_one_each_time() -> None:
    def names(first: str, second: str) -> list[str]:
        proto = onnx.parser.parse_model(PICTURE)
        proto.graph.node[0].name, proto.graph.node[1].name = first, second
        onnx_graph.name_nodes(proto)
        return [node.name for node in proto.graph.node]

    assert names("", "") == ["Mul:doubled", "Neg:negative"]
    assert names("n", "n") == ["n", "Neg:negative"]


def test_a_joined_head_is_found_by_the_ranges_of_its_parts() -> None:
    seen = graph.read("onnx", _bytes(HEAD))
    kept = graph.joined_heads(seen, {"boxes": (0.0, 300.0), "scores": (0.0, 1.0)}, apart=4)
    assert kept == {"Concat:joined", "Identity:out"}
    alike = graph.joined_heads(seen, {"boxes": (0.0, 1.0), "scores": (0.0, 1.0)}, apart=4)
    assert alike == frozenset()


def test_bytes_that_are_no_model_are_refused() -> None:
    for damaged in (b"", b"not a model", _bytes(HEAD)[:60]):
        with pytest.raises(CannotConvert, match="cannot be read"):
            onnx_graph.load(damaged)
