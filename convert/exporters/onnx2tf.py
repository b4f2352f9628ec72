"""ONNX -> TFLite at fp32, by onnx2tf in an environment of its own.

Invariant: what comes out loads in LiteRT and gives the numbers of the graph on a random input;
onnx2tf itself ends well with files that do not. Its `flatbuffer_direct` needs no TensorFlow. Every
input is named to keep its shape (-kat), and every output is laid out by reshapes, else layouts are
transposed on a guess; it gets a copy of the graph, since it writes into the file that it is given.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convert import isolated
from convert.errors import CannotConvert, ConversionError, reason
from convert.exporters import FIXED_BATCH
from convert.original import Exported
from convert.probe import noise, worst_error
from edge.engines.onnx import OnnxEngine
from edge.engines.tflite import TfliteEngine
from edge.errors import ConfigError, EngineError

DEADLINE_S = 600
SAME = 1e-3
"""Largest error relative to an output's range; right translations were below 2e-5, wrong ones
above 0.1."""


def export(graph: Exported, *, dynamic_batch: bool = False) -> Exported:
    """An ONNX graph with a batch of 1, as .tflite. CannotConvert says why not."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(_laid_out(graph))
        command = (
            *("-m", "onnx2tf", "-i", "model.onnx", "-o", "out", "-tb", "flatbuffer_direct"),
            *("-v", "error", "-kat", graph.input.name),
        )
        try:
            isolated.run("onnx2tf", command, folder=folder, deadline_s=DEADLINE_S)
        except (ConfigError, ConversionError) as error:
            raise CannotConvert(str(error)) from error
        written = folder / "out" / "model_float32.tflite"
        if not written.is_file():
            raise CannotConvert("onnx2tf wrote no file at fp32")
        model = written.read_bytes()
    exported = Exported(
        format="tflite",
        precision="fp32",
        model=model,
        input=graph.input,
        outputs=graph.outputs,
        notes=(FIXED_BATCH,) if dynamic_batch else (),
    )
    check(graph, exported)
    return exported


def _laid_out(graph: Exported) -> bytes:
    """The graph with two reshapes behind each output that could be transposed: into one row, and
    back. Nothing else makes onnx2tf keep the order of an output's axes."""
    proto = onnx.load_from_string(graph.model)
    for spec in graph.outputs:
        if len(spec.shape) < 3:
            continue
        inner, row = f"{spec.name}_inner", f"{spec.name}_row"
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == spec.name else name for name in names]
        for tensor, after, shape in ((inner, row, (1, -1)), (row, spec.name, spec.shape)):
            sizes = numpy_helper.from_array(np.array(shape, np.int64), f"{after}_shape")
            proto.graph.initializer.append(sizes)
            proto.graph.node.append(helper.make_node("Reshape", [tensor, sizes.name], [after]))
    return bytes(proto.SerializeToString())


def check(graph: Exported, translated: Exported) -> None:
    """CannotConvert when the .tflite does not load, or says something else than the graph."""
    tensor = noise(graph.input)
    wanted = OnnxEngine(graph.model).run({graph.input.name: tensor})
    try:
        found = TfliteEngine(translated.model).run({graph.input.name: tensor})
    except EngineError as error:
        raise CannotConvert(f"onnx2tf made a file that does not run: {reason(error)}") from error
    names = {spec.name for spec in graph.outputs}
    if set(found) != names:
        raise CannotConvert(f"onnx2tf made the outputs {', '.join(sorted(found))}, not these")
    worst = worst_error({name: wanted[name] for name in names}, found)
    if worst > SAME:
        raise CannotConvert(
            f"onnx2tf made a file that says something else: off by {worst:.2g} of an output's"
            " range on a random input; bring the model that the ONNX was made from"
        )
