"""The golden cases of the committed bundles, on every engine that this environment has.

Run three times: with ONNX Runtime and LiteRT by `make test`, with tflite-runtime by
`make test-tflite-runtime`, which sets EDGE_TFLITE to the runtime that must be the one used.
"""

from __future__ import annotations

import os

import pytest

from edge import golden
from edge.bundle import Bundle
from edge.model import Model

RUNTIME = os.environ.get("EDGE_TFLITE", "litert")
FORMATS = {"litert": ("onnx", "tflite"), "tflite-runtime": ("tflite",)}[RUNTIME]
CASES = [
    (name, variant.name)
    for name in ("wrist_activity", "meter_reader")
    for variant in Bundle.open(f"builtin:{name}").manifest.variants
    if variant.format in FORMATS
]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_variant_gives_its_golden_answers(name: str, variant: str) -> None:
    with Model(Bundle.open(f"builtin:{name}"), variant=variant) as model:
        if variant.startswith("tflite"):
            assert model.engine == f"{RUNTIME}:cpu"
        results = golden.check(model)
    assert {result.kind for result in results} == {"reference", "variant", "raw"}
    assert [result for result in results if not result.passed] == []
