"""The committed meter bundle on photographs that nobody trained on (the shared assets)."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from needs import ROOT, need_assets


@pytest.fixture(scope="module")
def evaluation(converters: None) -> ModuleType:
    path = ROOT / "models/meter_reader/evaluate_photographs.py"
    spec = importlib.util.spec_from_file_location("evaluate_photographs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_variant_reads_photographs_worse_than_the_trained_model(
    evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = need_assets() / "meter_digits"
    monkeypatch.setattr(evaluation, "ROUNDS", 1)
    files, _ = evaluation.photographs(folder)
    plain = [(path, kind) for path, kind in files if kind != evaluation.model.BETWEEN]
    trained = evaluation.judge(evaluation.trained(), plain)
    assert trained["right"] > 0.95
    for name, predict in evaluation.variants():
        measured = evaluation.judge(predict, plain)
        assert measured["right"] > trained["right"] - 0.01, name
        assert measured["missed"] < trained["missed"] + 0.01, name
