from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import manifest

from edge.bundle import Bundle, encode_manifest
from edge.manifest import GoldenCase, Manifest


def variants(*names: str) -> tuple[dict[str, Any], ...]:
    first = msgspec.to_builtins(manifest().variants[0])
    return tuple({**first, "name": name} for name in names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": ()}, "at least one variant"),
        ({"variants": variants("a", "b", "a")}, "variant names must differ: a, b, a"),
        ({"variants": ({**variants("a")[0], "file": "b"},)}, "variant a names b"),
        ({"golden": ({"name": "g", "kind": "raw", "input": "x", "tolerance": {}},)}, "g names x"),
        ({"variants": ({**variants("a")[0], "format": "exe"},)}, "Invalid enum value 'exe'"),
        ({"labels": "abc"}, r"Expected `array`, got `str` - at `\$.labels`"),
        ({"preprocess": {"kind": "telepathy"}}, "Invalid value 'telepathy'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        manifest(**changes)


def test_a_variant_is_found_by_its_name() -> None:
    assert manifest().variant("tflite-int8").format == "tflite"
    with pytest.raises(KeyError, match="no variant 'gpu'; there are onnx-fp32, tflite-int8"):
        manifest().variant("gpu")


@pytest.mark.parametrize("name", ["wrist_activity", "meter_reader"])
def test_the_committed_manifests_are_written_as_we_write_them(name: str) -> None:
    opened = Bundle.open(f"builtin:{name}")
    stored = (opened.path / "manifest.json").read_bytes()
    assert encode_manifest(opened.manifest) == stored
    assert msgspec.json.decode(stored, type=Manifest) == opened.manifest
    assert all(isinstance(case, GoldenCase) for case in opened.manifest.golden)
    assert {case.kind for case in opened.manifest.golden} == {"reference", "variant", "raw"}
