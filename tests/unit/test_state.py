from __future__ import annotations

import io
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import MODEL_FILES, manifest

from edge import golden, seams
from edge.bundle import Bundle, with_files, write
from edge.engines.host import Hosts
from edge.errors import BundleError, ConfigError, FrameError
from edge.manifest import GoldenCase, StatePair, Variant
from edge.model import Model
from edge.pipeline import Pipeline
from edge.recognize.bundles import save
from edge.state import Gaps, State, find_state
from edge.types import Array, Classification, Frame, TensorSpec
from edge.wire import Placement

from .test_pipeline import Script


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


class Adder:
    """An engine that adds up what it sees: hn = h + gain * the window's sums; logits = hn."""

    formats = ("onnx",)
    name = "toy:cpu"
    version = "toy 1"
    placement = Placement()
    inputs = (spec("window", 1, 4, 2), spec("h", 1, 2), spec("gain"))
    outputs = (spec("logits", 1, 2), spec("hn", 1, 2))

    def __init__(self, model: bytes, **given: Any) -> None:
        pass

    def run(
        self, inputs: Mapping[str, Array], into: dict[str, Array] | None = None
    ) -> dict[str, Array]:
        into = into or {"logits": np.empty((1, 2)), "hn": np.empty((1, 2))}
        for array in into.values():
            array.fill(np.nan)  # an engine may begin to write before it has read everything
        into["logits"][:] = inputs["h"] + inputs["gain"] * inputs["window"].sum(axis=1)
        into["hn"][:] = into["logits"]
        return into

    def close(self) -> None:
        pass


def bundle(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Bundle:
    """A recurrent bundle whose engine is the Adder."""
    monkeypatch.setitem(sys.modules, "toy_engine", types.SimpleNamespace(Adder=Adder))  # type: ignore[arg-type]
    monkeypatch.setitem(seams.ENGINES, "onnx", "toy_engine:Adder")
    variant: dict[str, Any] = {
        "name": "onnx-fp32",
        "format": "onnx",
        "precision": "fp32",
        "file": "models/a.onnx",
        "inputs": [
            {"name": "window", "shape": [1, 4, 2], "layout": "ntc"},
            {"name": "h", "shape": [1, 2]},
            {"name": "gain", "shape": []},
        ],
        "outputs": [{"name": "logits", "shape": [1, 2]}, {"name": "hn", "shape": [1, 2]}],
        "state": [{"input": "h", "output": "hn"}],
        "constants": {"gain": 0.5},
        **changes,
    }
    decoder = {"name": "scores", "params": {"output": "logits"}}
    made = manifest(variants=[variant], decoder=decoder, requires=["state"])
    return write(folder / "bundle", made, MODEL_FILES)


def scores(model: Model, value: float) -> list[float]:
    prediction = model.predict(np.full((4, 2), value, np.float32))
    assert isinstance(prediction, Classification)
    return [float(score) for score in prediction.scores]


# ---- a stream's state


def test_state_goes_from_one_frame_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(bundle(tmp_path, monkeypatch)) as model:
        assert [scores(model, 1)[0] for _ in range(3)] == [2, 4, 6], "the constant halves them"
        model.state.reset()
        assert scores(model, 1) == [2, 2]


def test_streams_share_an_engine_and_not_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, hosts = bundle(tmp_path, monkeypatch), Hosts()
    one, other = Model(opened, hosts=hosts), Model(opened, hosts=hosts)
    assert [scores(one, 1)[0], scores(other, 10)[0], scores(one, 1)[0]] == [2, 20, 4]
    hosts.close()


def test_a_state_that_is_not_finite_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(bundle(tmp_path, monkeypatch)) as model:
        scores(model, 1)
        with pytest.raises(FrameError, match="state hn is not finite; it starts anew"):
            model.infer(np.full((1, 4, 2), np.nan, np.float32))
        assert scores(model, 1)[0] == 2


def test_a_frame_whose_answer_cannot_be_used_leaves_the_state_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(bundle(tmp_path, monkeypatch)) as model:
        host: Any = model._host
        infer = host.infer

        def refused(*given: Any) -> None:
            infer(*given)
            raise FrameError("the model's output is not finite")

        assert scores(model, 1)[0] == 2
        for _ in range(3):
            monkeypatch.setattr(host, "infer", refused)
            with pytest.raises(FrameError):
                scores(model, 1)
            monkeypatch.setattr(host, "infer", infer)
        assert scores(model, 1)[0] == 4


def test_golden_cases_start_from_nothing_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = bundle(tmp_path, monkeypatch)
    window = np.ones((1, 4, 2), np.float32)
    case = GoldenCase(
        name="one", kind="variant", input="golden/input.npy", outputs={"hn": "golden/out.npy"},
        tolerance={"error": 0.001},
    )  # fmt: skip
    arrays = {"golden/input.npy": window, "golden/out.npy": np.full((1, 2), 2, np.float32)}
    files = {**MODEL_FILES, **{name: npy(array) for name, array in arrays.items()}}
    listed = with_files(opened.manifest, files)
    changed = msgspec.structs.replace(listed, golden=(case, case))
    with Model(write(tmp_path / "golden", changed, files)) as model:
        scores(model, 7)
        assert [result.passed for result in golden.check(model)] == [True, True]
        assert scores(model, 1)[0] == 2


def npy(array: Array) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_state_of_no_certain_size_is_refused() -> None:
    free = spec("h", 2, -1)
    variant = Variant(
        name="v", format="onnx", precision="fp32", file="a", inputs=(spec("x", 1, 2), free),
        outputs=(spec("y", 1), spec("hn", 2, -1)), state=(StatePair(input="h", output="hn"),),
    )  # fmt: skip
    with pytest.raises(BundleError, match="0 does not fit the input h float32"):
        State(variant)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": [{"input": "h", "output": "no"}]}, "state h <- no: there must be an input and"),
        ({"state": [{"input": "gain", "output": "hn"}]}, "of one shape and dtype, not gain"),
        ({"constants": {"again": 1}}, "constant again is no input of the model"),
        ({"constants": {"gain": [1, 2, 3]}}, "does not fit the input gain float32"),
        ({"constants": {"gain": "loud"}}, "'loud' does not fit the input gain"),
        ({"constants": {}}, "left are window, gain"),
        ({"state": [], "constants": {"gain": 1}}, "left are window, h"),
    ],
)
def test_state_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        Model(bundle(tmp_path, monkeypatch, **changes))


def test_a_bundle_with_state_says_so_to_older_readers() -> None:
    recurrent = {"state": [{"input": "h", "output": "hn"}]}
    plain = msgspec.to_builtins(manifest())["variants"][0]
    with pytest.raises(msgspec.ValidationError, match="`requires` must name state"):
        manifest(variants=[{**plain, **recurrent}])
    assert manifest(variants=[{**plain, **recurrent}], requires=["state"]).requires == ("state",)


def test_a_pipeline_starts_anew_after_a_frame_that_could_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, broken = np.ones((4, 2), np.float32), np.full((4, 2), np.nan, np.float32)
    source = {"type": "csv", "path": "-"}
    with Pipeline("s", bundle=bundle(tmp_path, monkeypatch), source=source, rules=[]) as pipeline:
        pipeline.intake.source = Script(one, one, broken, one)
        predictions = [step.prediction for step in pipeline]
        sums = [one.scores[0] for one in predictions if isinstance(one, Classification)]
        assert sums == [2, 4, 2] and pipeline.telemetry.state_resets == 1


def test_a_recurrent_model_has_one_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, source = bundle(tmp_path, monkeypatch), {"type": "csv", "path": "-"}
    monkeypatch.setattr("edge.lanes.cores", lambda: 4)
    for lanes in (0, 1):
        with Pipeline("s", bundle=opened, source=source, rules=[], lanes=lanes) as pipeline:
            assert len(pipeline._lanes) == 1
    with pytest.raises(ConfigError, match=r"lanes: .* is recurrent, so that its frames are worked"):
        Pipeline("s", bundle=opened, source=source, rules=[], lanes=2)


# ---- gaps


def at(number: int, seconds: float) -> Frame:
    return Frame(data=np.zeros(1), source="s", number=number, mono_ns=int(seconds * 1e9), wall_ns=0)


def gaps(gap_s: float, *frames: tuple[int, float]) -> list[bool]:
    stream = Gaps(gap_s)
    return [stream.before(at(*frame)) for frame in frames]


def test_a_missing_number_is_a_gap() -> None:
    assert gaps(0, (5, 0), (6, 1), (8, 1.1), (9, 100), (0, 101)) == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_pause_is_a_gap_where_one_is_asked_for() -> None:
    assert gaps(2, (0, 0), (1, 1.9), (2, 4), (3, 5)) == [False, False, True, False]


def test_a_frame_that_could_not_be_used_is_a_gap() -> None:
    stream = Gaps(0)
    assert not stream.before(at(0, 0))
    stream.missed()
    assert [stream.before(at(number, 0)) for number in (1, 2)] == [True, False]


# ---- finding state


@pytest.mark.parametrize(
    ("inputs", "outputs", "pairs"),
    [
        (["x", "h", "c"], ["y", "hn", "cn"], {"h": "hn", "c": "cn"}),
        (["x", "h0", "c0"], ["y", "hn", "cn"], {"h0": "hn", "c0": "cn"}),
        (["input", "state"], ["output", "stateN"], {"state": "stateN"}),
        (["x", "h_in"], ["y", "h_out"], {"h_in": "h_out"}),
        (["x", "state_in_1", "state_in_2"], ["state_out_2", "y", "state_out_1"],
         {"state_in_1": "state_out_1", "state_in_2": "state_out_2"}),
        (["src", "r1i", "r2i"], ["fgr", "r1o", "r2o"], {"r1i": "r1o", "r2i": "r2o"}),
        (["x", "prev_hidden"], ["y", "next_hidden"], {"prev_hidden": "next_hidden"}),
        (["x", "conv_cache"], ["y", "conv_cache_out"], {"conv_cache": "conv_cache_out"}),
        (["x", "past_key_values.0.key", "past_key_values.0.value"],
         ["y", "present.0.key", "present.0.value"],
         {"past_key_values.0.key": "present.0.key", "past_key_values.0.value": "present.0.value"}),
        (["serving_default_x:0", "serving_default_hidden:0"], ["Identity", "hidden_out:0"],
         {"serving_default_hidden:0": "hidden_out:0"}),
    ],
)  # fmt: skip
def test_state_is_found_by_the_names_that_people_give(
    inputs: list[str], outputs: list[str], pairs: dict[str, str]
) -> None:
    found = find_state(specs(inputs), specs(outputs))
    assert {pair.input: pair.output for pair in found} == pairs


def specs(names: list[str]) -> list[TensorSpec]:
    """The first of the names that no state has is of another shape."""
    plain = ("x", "y", "input", "output", "src", "fgr", "serving_default_x:0", "Identity")
    return [spec(name, *((1, 64) if name in plain else (2, 1, 32))) for name in names]


def test_the_only_output_of_the_shape_is_the_state_under_whatever_name() -> None:
    inputs = [spec("x", 1, 64), spec("hidden", 2, 1, 32)]
    assert find_state(inputs, [spec("getitem", 1, 64), spec("getitem_1", 2, 1, 32)]) == (
        StatePair(input="hidden", output="getitem_1"),
    )
    two = [spec("x", 1, 64), spec("h", 2, 1, 32), spec("c", 2, 1, 32)]
    outputs = [spec("a", 1, 64), spec("b", 2, 1, 32), spec("d", 2, 1, 32)]
    assert find_state(two, outputs) == (), "which is which cannot be told"


def test_free_sizes_fit_any_other() -> None:
    inputs = [spec("input", -1, -1), spec("state", 2, -1, 128), spec("sr", dtype="int64")]
    outputs = [spec("output", -1, 1), spec("stateN", -1, -1, -1)]
    assert find_state(inputs, outputs) == (StatePair(input="state", output="stateN"),)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([spec("image", 1, 3, 64, 64)], [spec("image_out", 1, 3, 64, 64), spec("mask", 1, 64, 64)]),
        ([spec("image", 1, 8), spec("depth", 1, 8)], [spec("image_out", 1, 8), spec("y", 1)]),
        ([spec("input_1", 1, 8), spec("input_2", 1, 8)], [spec("output_1", 1, 8), spec("y", 1)]),
        ([spec("x", 1, 8), spec("h", 1, 32)], [spec("y", 1, 8), spec("hn", 1, 16)]),
        ([spec("x", 1, 8), spec("h", 1, 32)], [spec("y", 1, 8), spec("hn", 1, 32, dtype="int8")]),
        ([spec("h", 1, 32), spec("c", 1, 32)], [spec("hn", 1, 32), spec("cn", 1, 32)]),
        ([], []),
    ],
)
def test_what_is_no_state_is_not_taken_for_one(
    inputs: list[TensorSpec], outputs: list[TensorSpec]
) -> None:
    assert find_state(inputs, outputs) == ()


def test_a_saved_bundle_has_its_golden_case_for_the_frame_whatever_input_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [
        {"name": "h", "shape": [1, 2]},
        {"name": "gain", "shape": []},
        {"name": "window", "shape": [1, 4, 2], "layout": "ntc"},
    ]
    saved = save(bundle(tmp_path, monkeypatch, inputs=inputs), tmp_path / "saved")
    (case,) = saved.manifest.golden
    given = np.load(io.BytesIO(saved.read(case.input)))
    assert given.shape == (1, 4, 2)
    answer = np.load(io.BytesIO(saved.read(case.outputs["logits"])))
    np.testing.assert_allclose(answer, 0.5 * given.sum(axis=1), rtol=1e-6)
