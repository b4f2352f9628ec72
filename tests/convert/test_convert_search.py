"""The search for the layers that must stay in float."""

from __future__ import annotations

import pytest
from needs import need_module

for package in ("torch", "onnx", "onnxruntime", "litert_torch", "litert_quantizer"):
    need_module(package)

from small_models import Outlier, error, exported, samples

from convert.errors import CannotConvert
from convert.layers import LayerError, blame
from convert.original import Exported, Format
from convert.quantize import quantize
from convert.search import SearchResult, search
from edge.types import TensorSpec

NAMES = "abcdefgh"
BLAMED = [
    LayerError(layer=name, op="Conv", error=0.5, added=0.5 - place / 20)
    for place, name in enumerate(NAMES)
]


def _look(needed: str, budget: int = 20) -> SearchResult:
    """A search where a candidate passes once all of `needed` are in float."""

    def make(kept: frozenset[str]) -> Exported:
        text = "".join(sorted(kept)).encode()
        spec = TensorSpec(name="x", shape=(1,))
        return Exported(format="onnx", precision="int8", model=text, input=spec, outputs=())

    def judge(candidate: Exported) -> list[str]:
        return [name for name in needed if name not in candidate.model.decode()]

    told: list[int] = []
    result = search(make, judge, BLAMED, budget=budget, advance=lambda: told.append(1))
    assert len(told) == result.tried <= budget
    if result.exported is not None:
        assert not judge(result.exported)
        assert set(result.exported.model.decode()) == set(result.kept)
    return result


@pytest.mark.parametrize("needed", ["a", "b", "ab", "c", "ac", "abc", "e", "bf", "h"])
def test_no_more_is_kept_than_is_needed(needed: str) -> None:
    assert set(_look(needed).kept) == set(needed)


def test_what_the_budget_finds_passes_even_if_more_is_kept_than_needed() -> None:
    assert _look("a", budget=1) == _look("a")
    found = _look("c", budget=3)
    assert set(found.kept) == set("abcd") and found.tried == 3


def test_without_success_it_says_so_and_stops() -> None:
    assert _look("z") == SearchResult(exported=None, kept=(), tried=4)
    assert _look("h", budget=2).exported is None
    assert search(lambda _: pytest.fail(), lambda _: [], [], budget=9).tried == 0


def test_a_set_that_cannot_be_made_is_one_that_does_not_pass() -> None:
    def make(kept: frozenset[str]) -> Exported:
        raise CannotConvert("nothing is left to quantise")

    assert search(make, lambda _: [], BLAMED, budget=9).exported is None


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_net_that_one_layer_ruins_passes_with_exactly_that_one_in_float(format: Format) -> None:
    model = exported(Outlier, (1, 3, 64, 64), format)
    tensors = samples(model, 8)

    def make(kept: frozenset[str]) -> Exported:
        return quantize(model, "int8", tensors=tensors, keep_float=kept)

    def judge(candidate: Exported) -> list[str]:
        lost = error(model, candidate, tensors)
        return [f"error {lost}"] if lost > 0.02 else []

    plain = make(frozenset())
    assert judge(plain)
    blamed = blame(model, plain, tensors[:3])
    result = search(make, judge, blamed, budget=6)
    assert result.exported is not None
    assert result.kept == (blamed[0].layer,)
    assert result.tried == 1
