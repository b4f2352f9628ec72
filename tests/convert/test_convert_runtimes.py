"""tflite-runtime, in its own environment: what is right on LiteRT need not be right there."""

from __future__ import annotations

import numpy as np
import pytest
from needs import ROOT, missing

from convert.recipe import Gate
from edge.errors import ConfigError
from edge.types import Array

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("converters")]

INT8_DYNAMIC = Gate().int8_dynamic


@pytest.fixture(scope="module")
def environment() -> None:
    """The environment that `edge convert-env tflite-runtime` makes."""
    from convert import isolated

    try:
        isolated.find("tflite-runtime")
    except ConfigError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def dense(converters: None) -> bytes:
    """A model at fp32 that ends in dense layers."""
    return (ROOT / "models/wrist_activity/bundle/variants/tflite-fp32.tflite").read_bytes()


def _inputs(count: int = 12) -> list[Array]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=(1, 100, 6)).astype(np.float32) for _ in range(count)]


def _outputs(model: bytes) -> list[dict[str, Array]]:
    """What LiteRT gives, which stands for the original here."""
    from edge.engines.tflite import TfliteEngine

    engine = TfliteEngine(model)
    name = engine.inputs[0].name
    return [engine.run({name: tensor}) for tensor in _inputs()]


def _per_channel(model: bytes) -> bytes:
    """Dynamic int8 with a scale for each row of a FULLY_CONNECTED."""
    from litert_quantizer import qtyping, quantizer, recipe_manager

    rules = recipe_manager.RecipeManager()
    rules.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    made = quantizer.Quantizer(model, rules.get_quantization_recipe()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(made.quantized_model)


def test_a_float_model_gives_the_same_there(environment: None, dense: bytes) -> None:
    from convert import runtimes

    found = runtimes.parity_there(dense, _inputs(), _outputs(dense))
    assert all(parity.max_error < 1e-5 for parity in found.parity.values())
    assert runtimes.refusals(dense, _inputs(), _outputs(dense), Gate().fp32) == []


def test_dense_layers_with_a_scale_per_channel_are_refused_and_named(
    environment: None, dense: bytes
) -> None:
    from convert import gate, runtimes
    from convert.parity import Tally
    from convert.report import Measured

    wanted = _outputs(dense)
    quantized = _per_channel(dense)
    tally = Tally()
    for one, other in zip(wanted, _outputs(quantized), strict=True):
        tally.add(*one.values(), *other.values())
    here = Measured(parity={"y": tally.parity()})
    assert gate.refusals(here, INT8_DYNAMIC, reference={}) == []  # right on LiteRT
    reasons = runtimes.refusals(quantized, _inputs(), wanted, INT8_DYNAMIC)
    assert reasons[0].startswith("on tflite-runtime: ")
    assert "1 FULLY_CONNECTED with a scale per channel, which this runtime computes" in reasons[-1]


def test_what_does_not_load_there_is_refused_and_not_an_end(environment: None) -> None:
    from convert import runtimes

    (reason,) = runtimes.refusals(b"\x1c\0\0\0TFL3" + bytes(64), _inputs(1), [{}], Gate().fp32)
    assert reason.startswith("does not run on tflite-runtime: ")


def test_without_the_environment_it_says_how_to_make_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from convert import runtimes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_TFLITE_RUNTIME_PYTHON", raising=False)
    with pytest.raises(ConfigError, match="edge convert-env tflite-runtime"):
        runtimes.refusals(b"", [], [], Gate().fp32)
