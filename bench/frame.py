"""What a frame costs on top of a bare session.run, as a ratio taken interleaved in one process.

    python bench/frame.py [--rounds 40] [--calls 10] [--threads 1] [--json]

For every variant of the committed bundles: `bare` runs the engine alone on one kept input tensor,
`frame` is preprocess + infer + postprocess + rules of a real frame of the demo. Blocks of calls
alternate, so that a change of the machine's speed hits both; the ratio is the median over blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from edge.bundle import Bundle
from edge.config import decode_adapter
from edge.errors import EngineError
from edge.model import Model
from edge.rules import Chain
from edge.sources.synthetic import DemoMeter, DemoWrist
from edge.types import Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name in ("meter_reader", "wrist_activity"):
        bundle = Bundle.open(f"builtin:{name}")
        data = _frame(name)
        for variant in bundle.manifest.variants:
            try:
                with Model(bundle, variant=variant.name, threads=arguments.threads) as model:
                    rows.append(_measure(model, data, arguments.rounds, arguments.calls))
            except EngineError as error:
                rows.append({"model": name, "variant": variant.name, "error": str(error)})
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def _frame(name: str) -> Array:
    if name == "meter_reader":
        return DemoMeter(DemoMeter.Config(), name="bench").picture(3)
    source = DemoWrist(DemoWrist.Config(speed=1e9), name="bench")
    frame = source.read(5.0)
    assert frame is not None
    return frame.data


def _measure(model: Model, data: Array, rounds: int, calls: int) -> dict[str, Any]:
    manifest = model.manifest
    rules = Chain(
        [decode_adapter("rules", rule, where="bench") for rule in manifest.rules], manifest.labels
    )
    tensor, _ = model.preprocess(data)
    kept = tensor.copy()

    bare = _bare(model, kept)

    def frame() -> None:
        tensor, geometry = model.preprocess(data)
        rules(model.postprocess(model.infer(tensor), geometry), time.monotonic_ns())

    _block_ms(bare, calls), _block_ms(frame, calls)
    pairs = [(_block_ms(bare, calls), _block_ms(frame, calls)) for _ in range(rounds)]
    return {
        "model": manifest.name,
        "variant": model.variant.name,
        "engine": model.engine,
        "bare_ms": round(statistics.median(bare for bare, _ in pairs), 3),
        "frame_ms": round(statistics.median(frame for _, frame in pairs), 3),
        "ratio": round(statistics.median(frame / bare for bare, frame in pairs), 3),
    }


def _bare(model: Model, tensor: Array) -> Callable[[], None]:
    """The runtime's own call on the very session of the model, without anything of ours."""
    engine: Any = model._host._engine
    if model.variant.format == "onnx":
        session, names = engine._session, engine._output_names
        feed = {model._input: tensor}
        return lambda: session.run(names, feed)
    interpreter = engine._interpreter
    index = engine._inputs[model._input]["index"]
    outputs = [detail["index"] for detail in engine._outputs.values()]

    def call() -> None:
        interpreter.set_tensor(index, tensor)
        interpreter.invoke()
        for output in outputs:
            interpreter.get_tensor(output)

    return call


def _block_ms(action: Callable[[], None], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - started) / calls * 1e3


if __name__ == "__main__":
    main()
