"""A recognised model as a bundle in memory, so that everything else stays as it is."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import msgspec
import numpy as np

from edge import bundle as bundles
from edge import seams
from edge.bundle import Bundle
from edge.errors import ConfigError
from edge.manifest import GoldenCase, Provenance
from edge.recognize import Hints, Recognition, recognize
from edge.recognize.facts import trial_tensor
from edge.state import State
from edge.types import Array

MAX_BYTES = 2 << 30


def recognize_file(
    path: str | os.PathLike[str], hints: Hints | None = None
) -> tuple[Recognition, Bundle]:
    """Recognise a model file and make a bundle of it, in memory.

    ConfigError when it cannot be read or recognised; EngineError when the runtime refuses it.
    """
    file = Path(path)
    form = bundles.model_format(file)
    if form is None:
        raise ConfigError(f"{file}: a model is a file that ends in .onnx or .tflite")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_BYTES >> 30} GiB")
        model = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        recognition = recognize(model, format=form, hints=hints)
    except ConfigError as error:
        first, *rest = error.problems
        raise ConfigError([f"{file}: {first}", *rest]) from error
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-") or "model"
    manifest = recognition.manifest(name=name, model=model)
    assumed = {note.key: f"{note.value} ({note.why})" for note in recognition.assumptions}
    manifest = msgspec.structs.replace(
        manifest,
        summary=f"recognised from {file.name}",
        provenance=Provenance(recipe={}, data=[{"assumed": assumed}]),
    )
    (variant,) = manifest.variants
    return recognition, bundles.in_memory(file, manifest, {variant.file: model})


def save(bundle: Bundle, destination: Path) -> Bundle:
    """Write a bundle that was made in memory, with a golden case of this machine's answers."""
    manifest = bundle.manifest
    (variant,) = manifest.variants
    model = bundle.read(variant.file)
    state = State(variant)
    given = trial_tensor(state.frame_input, "smooth")
    engine: seams.Engine = seams.find("engines", variant.format)(model)
    try:
        answers = engine.run(state.inputs(given))
    finally:
        engine.close()
    files = {variant.file: model, "golden/input.npy": _npy(given)}
    outputs = {}
    for number, (name, array) in enumerate(answers.items()):
        if array.dtype.kind in "fiu" and np.isfinite(array).all():
            outputs[name] = f"golden/output-{number}.npy"
            files[outputs[name]] = _npy(array)
    case = GoldenCase(
        name="smooth picture" if len(state.frame_input.shape) == 4 else "waves", kind="variant",
        input="golden/input.npy", outputs=outputs, variant=variant.name, tolerance={"error": 1e-3},
    )  # fmt: skip
    golden = (case,) if outputs else ()
    manifest = bundles.with_files(msgspec.structs.replace(manifest, golden=()), files)
    return bundles.write(destination, msgspec.structs.replace(manifest, golden=golden), files)


def _npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()
