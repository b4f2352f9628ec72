"""What every engine must do; one subclass an adapter. The models are those of wrist_activity."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edge import seams
from edge.accelerators import TABLE
from edge.bundle import Bundle
from edge.engines import faults
from edge.engines.kept import Outputs, arrays_for
from edge.errors import EngineError
from edge.seams import Engine
from edge.types import Array, TensorSpec

WINDOW = np.linspace(-1, 1, 600, dtype=np.float32).reshape(1, 100, 6)


OPEN = (
    "CAg6YwoUCgF4EgZwbGFjZXMiB05vblplcm8KCwoBeBIBeSIDTmVnEgFnWg8KAXgSCgoICAESBAoCCARiGQoGcGxhY2Vz"
    "Eg8KDQgHEgkKAggBCgMSAW5iDwoBeRIKCggIARIECgIIBEIECgAQDQ=="
)
"""ONNX: places = NonZero(x), y = -x, of x [4]."""
LYING = (
    "CAg6RAoUCgF4EgZwbGFjZXMiB05vblplcm8SAWdaDwoBeBIKCggIARIECgIIBGIYCgZwbGFjZXMSDgoMCAcSCAoC"
    "CAEKAggCQgQKABAN"
)
"""ONNX: places = NonZero(x) of x [4], said to be [1, 2]."""


class EngineContract:
    engine_name: str
    format: str
    name: str
    accelerator = "cpu"
    nodes: dict[str, dict[str, int]]
    """Where the runtime says that the nodes of each precision are."""
    version = ""

    def build(
        self, model: bytes, *, accelerator: str | None = None, precision: str = "fp32"
    ) -> Engine:
        accelerator = accelerator or self.accelerator
        row = TABLE.get(accelerator)
        engine: Engine = seams.find("engines", self.engine_name)(
            model,
            accelerator=accelerator,
            options=row.options() if row else None,
            precision=precision,
            threads=1,
        )
        return engine

    @pytest.fixture(params=["fp32", "int8"])
    def variant(self, request: pytest.FixtureRequest) -> str:
        return f"{self.format}-{request.param}"

    @pytest.fixture
    def engine(self, wrist_bundle: Path, variant: str) -> Iterator[Engine]:
        bundle = Bundle.open(wrist_bundle)
        listed = bundle.manifest.variant(variant)
        engine = self.build(bundle.read(listed.file), precision=listed.precision)
        yield engine
        engine.close()

    def test_it_gives_the_golden_answers_of_its_variant(
        self, engine: Engine, wrist_bundle: Path, variant: str
    ) -> None:
        bundle = Bundle.open(wrist_bundle)
        proof = faults.prove(engine, bundle, bundle.manifest.variant(variant))
        assert proof.cases == 1 and proof.error <= 1

    def test_it_says_where_its_nodes_are(self, engine: Engine, variant: str) -> None:
        assert engine.placement.nodes == self.nodes[variant.rpartition("-")[2]]
        assert engine.placement.elsewhere == {}
        assert engine.version.startswith(self.version)
        assert self.format in engine.formats

    def test_it_says_where_it_runs_and_what_it_takes(
        self, engine: Engine, wrist_bundle: Path, variant: str
    ) -> None:
        listed = Bundle.open(wrist_bundle).manifest.variant(variant)
        assert engine.name == self.name
        assert [str(spec) for spec in engine.inputs] == [str(spec) for spec in listed.inputs]
        assert [str(spec) for spec in engine.outputs] == [str(spec) for spec in listed.outputs]

    def test_named_tensors_go_in_and_come_out(self, engine: Engine) -> None:
        outputs = engine.run({"window": WINDOW})
        assert {name: (array.shape, str(array.dtype)) for name, array in outputs.items()} == {
            spec.name: (spec.shape, spec.dtype) for spec in engine.outputs
        }
        assert np.isfinite(outputs["logits"]).all()

    def test_it_is_stateless(self, engine: Engine) -> None:
        first = engine.run({"window": WINDOW})["logits"]
        engine.run({"window": -WINDOW})
        np.testing.assert_array_equal(engine.run({"window": WINDOW})["logits"], first)

    def test_outputs_belong_to_the_caller_and_inputs_stay_as_they_are(self, engine: Engine) -> None:
        given = WINDOW.copy()
        first = engine.run({"window": given})["logits"]
        kept = first.copy()
        second = engine.run({"window": -5 * WINDOW})["logits"]
        np.testing.assert_array_equal(first, kept)
        assert (first != second).any()
        first.fill(7)
        np.testing.assert_array_equal(engine.run({"window": given})["logits"], kept)
        np.testing.assert_array_equal(given, WINDOW)

    def test_outputs_are_written_where_the_caller_keeps_them(self, engine: Engine) -> None:
        windows = [WINDOW.copy(), WINDOW.copy()]
        into = [arrays_for(engine.outputs) for _ in range(2)]
        before: Array | None = None
        for turn in range(6):
            window, arrays = windows[turn % 2], into[turn % 2]
            window[:] = (turn - 2) * WINDOW
            wanted = engine.run({"window": window.copy()})["logits"]
            found = engine.run({"window": window}, arrays)
            assert found["logits"] is arrays["logits"] and [*found] == ["logits"]
            np.testing.assert_array_equal(found["logits"], wanted)
            if before is not None:
                np.testing.assert_array_equal(into[~turn % 2]["logits"], before)
            before = wanted

    def test_arrays_that_are_gone_are_not_taken_for_new_ones(self, engine: Engine) -> None:
        for turn in range(20):
            window = (turn * WINDOW).copy()
            wanted = engine.run({"window": window})["logits"]
            found = engine.run({"window": window}, arrays_for(engine.outputs))["logits"]
            np.testing.assert_array_equal(found, wanted)
            del window, found  # so that the next ones lie at their addresses

    def test_arrays_that_lie_in_pieces_will_do(self, engine: Engine) -> None:
        into = np.zeros((1, 8), np.float32)[:, ::2]
        window = np.zeros((1, 100, 12), np.float32)[:, :, ::2]
        window[:] = WINDOW
        wanted = engine.run({"window": WINDOW})["logits"]
        np.testing.assert_array_equal(
            engine.run({"window": WINDOW}, {"logits": into})["logits"], wanted
        )
        np.testing.assert_array_equal(into, wanted)
        kept = arrays_for(engine.outputs)
        np.testing.assert_array_equal(engine.run({"window": window}, kept)["logits"], wanted)

    @pytest.mark.parametrize(
        "into",
        [
            {"logits": np.zeros((1, 5), np.float32)},
            {"logits": np.zeros(4, np.float32)},
            {"logits": np.zeros((1, 4), np.float64)},
            {"logits": np.frombuffer(bytes(16), np.float32).reshape(1, 4)},
            {"logits": np.zeros((1, 4), np.float32), "more": np.zeros(1)},
        ],
        ids=["too-long", "too-flat", "other-dtype", "read-only", "too-many"],
    )
    def test_arrays_into_which_no_output_fits_are_an_error(
        self, engine: Engine, into: dict[str, Array]
    ) -> None:
        before = {name: array.copy() for name, array in into.items()}
        with pytest.raises(EngineError, match=f"{self.name.partition(':')[0]}: inference failed"):
            engine.run({"window": WINDOW}, into)
        for name, array in into.items():
            np.testing.assert_array_equal(array, before[name])

    @pytest.mark.parametrize(
        "inputs",
        [
            {},
            {"samples": WINDOW},
            {"window": WINDOW, "more": WINDOW},
            {"window": WINDOW[:, :50]},
            {"window": WINDOW[0]},
            {"window": WINDOW.astype(np.float64)},
        ],
        ids=["nothing", "other-name", "too-many", "too-short", "too-flat", "other-dtype"],
    )
    def test_inputs_that_do_not_fit_are_an_error(
        self, engine: Engine, inputs: dict[str, Array]
    ) -> None:
        engine.run({"window": WINDOW})
        with pytest.raises(EngineError, match=f"{self.name.partition(':')[0]}: inference failed"):
            engine.run(inputs)
        with pytest.raises(EngineError, match=f"{self.name.partition(':')[0]}: inference failed"):
            engine.run(inputs, arrays_for(engine.outputs))
        assert engine.run({"window": WINDOW}), "and the engine still works"

    @pytest.mark.parametrize(
        "model", [b"", b"garbage " * 500, b"\0" * 64, bytes(range(256)) * 20], ids=range(4)
    )
    def test_what_is_no_model_is_an_error(self, model: bytes) -> None:
        with pytest.raises(EngineError, match="the model cannot be loaded"):
            self.build(model)

    def test_an_accelerator_that_it_does_not_know_is_an_error(self) -> None:
        with pytest.raises(EngineError, match="accelerator 'npu' is not supported; use cpu"):
            self.build(b"", accelerator="npu")

    def test_a_closed_engine_does_not_run(self, engine: Engine) -> None:
        engine.close()
        engine.close()
        with pytest.raises(EngineError):
            engine.run({"window": WINDOW})
        with pytest.raises(EngineError):
            engine.run({"window": WINDOW}, arrays_for(engine.outputs))


class TestOnnx(EngineContract):
    engine_name = format = "onnx"
    name = "onnx:cpu"
    nodes: ClassVar = {"fp32": {"cpu": 9}, "int8": {"cpu": 28}}
    version = "onnxruntime "

    def test_an_output_whose_size_is_open_is_fresh_each_time(self) -> None:
        engine = self.build(base64.b64decode(OPEN))
        kept = arrays_for(engine.outputs)
        assert [*kept] == ["y"]
        found = [
            engine.run({"x": np.array(x, np.float32)}, kept) for x in ([1, 0, 3, 4], [0, 0, 0, 5])
        ]
        assert [one["places"].tolist() for one in found] == [[[0, 2, 3]], [[3]]]
        assert found[0]["y"] is found[1]["y"] is kept["y"]
        assert kept["y"].tolist() == [0, 0, 0, -5]
        with pytest.raises(EngineError, match=r"places int64\[1, -1\] cannot be written into"):
            engine.run({"x": np.zeros(4, np.float32)}, {"places": np.zeros((1, 3), np.int64)})

    def test_an_output_that_is_not_what_the_graph_said_is_fresh(self) -> None:
        engine = self.build(base64.b64decode(LYING))
        kept = arrays_for(engine.outputs)
        assert kept["places"].shape == (1, 2)
        for x, places in (([1, 0, 3, 4], [0, 2, 3]), ([0, 2, 2, 0], [1, 2])):
            found = engine.run({"x": np.array(x, np.float32)}, kept)["places"]
            assert found.tolist() == [places]
            assert (found is kept["places"]) == (len(places) == 2)


class TestTflite(EngineContract):
    engine_name = format = "tflite"
    name = "litert:cpu"
    nodes: ClassVar = {"fp32": {"xnnpack": 26}, "int8": {"xnnpack": 28}}
    version = "ai-edge-litert "

    def test_an_output_that_is_not_what_the_graph_said_is_fresh(self, engine: Engine) -> None:
        said = (TensorSpec(name="logits", shape=(1, 7)),)
        engine._kept = Outputs(said, engine="litert")  # type: ignore[attr-defined]
        kept = arrays_for(said)
        found = engine.run({"window": WINDOW}, kept)["logits"]
        assert found.shape == (1, 4) and not np.shares_memory(found, kept["logits"])


class TestTfliteXnnpack(TestTflite):
    accelerator = "xnnpack"
    name = "litert:xnnpack"
