"""`edge tune` with real engines: its record is what `edge run` runs, while it holds, and nothing
that is wrong gets into it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
from broker import wait_until
from needs import ROOT

from edge.bundle import Bundle, write
from edge.engines.faults import golden_inputs
from edge.engines.tflite import TfliteEngine
from edge.errors import EngineError
from edge.tuning import Objective

from .running import EDGE, edge, jsonl, of, wrist, write_config


def tuned(state: Path, *arguments: str) -> dict[str, Any]:
    ended = edge("tune", *arguments, "--minutes", "0.01", "--json", timeout_s=90)
    assert ended.code == 0, ended.err
    (answer,) = json.loads(ended.out)["tuned"]
    assert Path(answer["path"]).parent == state / "tuning"
    assert json.loads(Path(answer["path"]).read_text()) == answer["record"]
    record: dict[str, Any] = answer["record"]
    return record


def ran(config: Path) -> tuple[dict[str, Any], str]:
    """The model and engine of the first prediction, and the log."""
    events = config.parent / "events.jsonl"
    events.unlink(missing_ok=True)
    ended = edge("run", config.name, "--no-supervise", cwd=config.parent, timeout_s=60)
    assert ended.code == 0, ended.err
    every = map(json.loads, events.read_text().splitlines())
    first = next(event for event in every if event["kind"] == "classification")
    return {**first["model"], "engine": first["engine"]}, ended.err


def test_what_is_tuned_is_run_until_the_machine_is_another(tmp_path: Path) -> None:
    config = write_config(tmp_path, wrist(windows=5), jsonl())
    state = tmp_path / "edge-state"
    record = tuned(state, "builtin:wrist_activity", "--state-dir", str(state))
    best = record["ranking"][0]
    model, log = ran(config)
    assert (model["variant"], model["engine"].partition(":")[0] == "onnx") == (
        best["variant"],
        best["engine"] == "onnx",
    )
    assert f"as the tuning record of {record['wall']} has it" in log

    shown = edge("tune", "edge.toml", "--show", cwd=tmp_path)
    assert shown.code == 0 and f"best: {best['variant']} on {best['engine']}:cpu" in shown.out

    (path,) = (state / "tuning").iterdir()
    other = {**record, "key": {**record["key"], "hardware": {**record["key"]["hardware"]}}}
    other["key"]["hardware"]["cpu"] = "Another 3000"
    other["ranking"] = [row for row in record["ranking"] if row["variant"] == "onnx-int8"]
    path.write_text(json.dumps(other))
    _, log = ran(config)
    assert "its tuning record is not used" in log and "cpu was Another 3000, is " in log
    assert "as the tuning record" not in log
    shown = edge("tune", "edge.toml", "--show", "--json", cwd=tmp_path)
    (answer,) = json.loads(shown.out)["records"]
    assert "cpu was Another 3000" in answer["void"] and answer["record"] is None
    assert answer["look"]["objective"] == "look", "the agent took a look instead"


def test_a_variant_that_is_wrong_is_never_chosen_however_fast(
    wrist_bundle: Path, tmp_path: Path
) -> None:
    bundle = planted(wrist_bundle, tmp_path / "bundle")
    table = of(
        'type = "demo-wrist", windows = 5, speed = 1000.0', bundle="bundle", more="threads = 1"
    )
    config = write_config(tmp_path, table, jsonl())
    record = tuned(tmp_path / "edge-state", str(config))
    assert {row["variant"] for row in record["ranking"]} == {"onnx-fp32", "onnx-int8"}
    refused = record["refused"]
    assert "wrong: golden case variant-tflite-int8" in refused["tflite-int8 on tflite:cpu"]
    assert "wrong: golden case reference-tflite-fp32" in refused["tflite-fp32 on tflite:cpu"]

    (path,) = (tmp_path / "edge-state/tuning").iterdir()
    forged = {**record["ranking"][0], "variant": "tflite-int8", "engine": "tflite"}
    path.write_text(json.dumps({**record, "ranking": [forged, *record["ranking"]]}))
    assert ran(config)[0]["variant"].startswith("onnx-"), "not even when a record says so"
    path.unlink()
    assert ran(config)[0]["variant"].startswith("onnx-"), "nor by a look"
    assert bundle.identity == record["key"]["bundle"]


def planted(source: Path, place: Path) -> Bundle:
    """A bundle in which the two fast variants are wrong: the answers known of the one are not those
    that it gives, and the other's weights are damaged, with its own answers made to agree."""
    shutil.copytree(source, place)
    bundle = Bundle.open(place)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    cases = {case.name: case for case in bundle.manifest.golden}
    (path,) = cases["variant-tflite-int8"].outputs.values()
    files[path] = files[path][:-4] + np.float32(99).tobytes()
    variant = bundle.manifest.variant("tflite-fp32")
    inputs = golden_inputs(bundle, variant)
    (path,) = cases["variant-tflite-fp32"].outputs.values()
    right = np.load(place / path)
    for start in range(4000, 20000, 500):
        damaged = bytearray(files[variant.file])
        damaged[start : start + 400] = np.full(100, 0.7, np.float32).tobytes()
        try:
            (given,) = TfliteEngine(bytes(damaged)).run(inputs).values()
        except EngineError:
            continue
        if np.isfinite(given).all() and abs(given - right).max() > 1:
            files[variant.file] = bytes(damaged)
            files[path] = files[path][: -given.nbytes] + given.astype(np.float32).tobytes()
            return write(place, bundle.manifest, files)
    raise AssertionError("no place in the file is one of weights")


def test_ctrl_c_keeps_what_was_measured_and_bounds_are_kept(tmp_path: Path) -> None:
    table = of('type = "demo-meter"', bundle="builtin:meter_reader", more="threads = 1")
    write_config(tmp_path, table, jsonl())
    log = tmp_path / "log"
    with open(log, "wb") as err, open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            [*EDGE, "tune", "--max-accuracy-drop", "0.005", "--minutes", "10"],
            cwd=tmp_path, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(lambda: "measure lap 2" in log.read_text(), timeout_s=60)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()
    said = (tmp_path / "out").read_text()
    assert "ended early" in said and "best: " in said, said
    (path,) = (tmp_path / "edge-state/tuning").iterdir()
    ranking = json.loads(path.read_text())["ranking"]
    assert {row["variant"] for row in ranking} == {"onnx-fp32", "tflite-fp32"}
    assert "not taken: onnx-int8: loses 0.01 of accuracy, at most 0.005 allowed" in said
    assert "Traceback" not in log.read_text()


def test_what_cannot_be_tuned_is_one_clear_line(tmp_path: Path) -> None:
    for arguments, code, says in (
        (("builtin:nothing",), 3, "no such bundle"),
        (("builtin:wrist_activity", "--show"), 2, "no tuning record of wrist_activity"),
        (("builtin:wrist_activity", "--streams", "4"), 2, "--objective throughput"),
        (("none.toml",), 2, "none.toml"),
        (("builtin:meter_reader", "--max-accuracy-drop", "0"), 2, "at most 0 allowed"),
    ):
        ended = edge("tune", *arguments, cwd=tmp_path)
        assert ended.code == code, ended.err
        (line,) = ended.complaints
        assert says in line


def test_the_readme_names_the_options_that_there_are() -> None:
    text = (ROOT / "edge/engines/README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Tuning$(.+?)^## ", text, re.MULTILINE | re.DOTALL)
    shown = edge("tune", "--help").out
    options = {*re.findall(r"--[a-z][a-z-]+", section)} - {"--state-dir"}
    assert options and all(option in shown for option in options)
    for objective in get_args(Objective):
        assert f"| `{objective}` |" in section and objective in shown
