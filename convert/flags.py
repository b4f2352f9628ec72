"""A model file and flags -> the document of a recipe, so that both are read by one reader.

What the file of an ONNX or TFLite model tells is read and not asked for again: `edge.recognize`
says what it assumed, and which flag would say otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from convert.errors import ConversionError
from convert.original import FORMATS, Format
from edge.errors import ConfigError, EngineError
from edge.recognize import Hints, recognize

COMMAND_LINE = Path("command line")
"""Stands for the file in what the reader says about mistakes; paths start at the working folder."""


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said about a model file; None and empty where it said nothing.

    `hints` say what the model does and takes, `input` is NAME:SHAPE[:LAYOUT], `outputs` are names
    with commas between, `factory` is FILE.py:FUNCTION.
    """

    hints: Hints = Hints()
    name: str | None = None
    factory: str | None = None
    input: str | None = None
    outputs: str | None = None
    licence: str | None = None


def document(model: Path, flags: Flags) -> tuple[dict[str, Any], list[str]]:
    """The recipe of a model file, and what was assumed for it.

    ConfigError for a flag that cannot be understood, or that is needed and missing.
    """
    told: dict[str, Any]
    assumed: list[str]
    format = next((name for name in FORMATS if model.suffix.lower() == f".{name}"), None)
    if format is None or flags.factory:
        told, assumed = _told(flags.hints), []
    else:
        told, assumed = _recognized(model, format, flags.hints)
    return {
        "name": flags.name or _plain(model.stem),
        "version": "1",
        "model": _model(model, flags),
        **({"input": [_input(flags.input)]} if flags.input else {}),
        "output": [{"name": name.strip()} for name in (flags.outputs or "").split(",") if name],
        **told,
        "licence": {"weights": flags.licence or "not stated"},
    }, assumed


def _recognized(model: Path, format: Format, hints: Hints) -> tuple[dict[str, Any], list[str]]:
    """What edge recognises a model file as; what is assumed is said."""
    try:
        found = recognize(model.read_bytes(), format=format, hints=hints)
    except OSError as error:
        raise ConfigError(f"{model}: cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError([f"{model}: {problem}" for problem in error.problems]) from error
    except EngineError as error:
        raise ConversionError(f"{model}: {error}") from error
    if found.state or found.constants:
        raise ConfigError(f"{model}: takes more than one input, which cannot be converted so far")
    told = {
        "task": found.task,
        "labels": list(found.labels),
        "preprocess": msgspec.to_builtins(found.preprocess),
        "decoder": {"name": found.decoder.name, **found.decoder.params},
        "thresholds": msgspec.to_builtins(found.thresholds),
    }
    return told, [f"assumed {a.key}: {a.value} ({a.why}; {a.flag})" for a in found.assumptions]


def _told(hints: Hints) -> dict[str, Any]:
    """What the flags alone say of a model whose file says nothing."""
    return {
        **({"task": hints.task} if hints.task else {}),
        **({"labels": list(hints.labels)} if hints.labels else {}),
        "preprocess": _window(hints) if hints.channels else _image(hints),
        "decoder": {**({"name": hints.decoder} if hints.decoder else {}), **hints.params},
        **({"thresholds": {"score": hints.score}} if hints.score is not None else {}),
    }


def _window(hints: Hints) -> dict[str, Any]:
    count, length = len(hints.channels), hints.length or 1
    return {
        "kind": "window",
        "length": length,
        "hop": hints.hop or length,
        "rate_hz": hints.rate_hz or 1.0,
        "channels": list(hints.channels),
        "mean": _each("--mean", hints.mean or (0.0,), count),
        "std": _each("--std", hints.std or (1.0,), count),
    }


def _image(hints: Hints) -> dict[str, Any]:
    planes = 1 if hints.color == "gray" else 3
    return {
        "kind": "image",
        "resize": hints.resize or ("letterbox" if hints.task == "detect" else "stretch"),
        "color": hints.color or "rgb",
        **({"anchor": hints.anchor} if hints.anchor else {}),
        **({"pad": hints.pad} if hints.pad is not None else {}),
        "mean": _each("--mean", hints.mean or (0.0,), planes),
        "std": _each("--std", hints.std or (255.0,), planes),
    }


def _each(flag: str, values: tuple[float, ...], count: int) -> list[float]:
    """One value a channel, from that many or from one."""
    if len(values) not in (1, count):
        raise ConfigError(f"{flag}: {len(values)} values for {count} channels")
    return list(values) * (count if len(values) == 1 else 1)


def _model(model: Path, flags: Flags) -> dict[str, str]:
    if not flags.factory:
        return {"file": str(model)}
    code, colon, factory = flags.factory.rpartition(":")
    if not colon:
        raise ConfigError(f"--factory {flags.factory}: must be FILE.py:FUNCTION")
    return {"code": code, "factory": factory, "weights": str(model)}


def _input(text: str) -> dict[str, Any]:
    """NAME:1,3,224,224:nchw, the layout by the shape where it is left out."""
    name, _, rest = text.partition(":")
    shape, _, layout = rest.partition(":")
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        raise ConfigError(f"--input {text}: must be NAME:SHAPE, as image:1,3,224,224") from None
    usual = {4: "nchw" if sizes[1:2] in ([1], [3]) else "nhwc", 3: "ntc", 2: "nc"}
    return {"name": name, "shape": sizes, "layout": layout or usual.get(len(sizes), "other")}


def _plain(stem: str) -> str:
    """A file's name as the name of a model."""
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in stem)[:64]


def data_section(
    calibrate: Path | None, evaluate: Path | None, truth: str | None, golden: Path | None
) -> dict[str, str]:
    """[data] by the flags that name the user's own data."""
    named = {"calibration": calibrate, "evaluation": evaluate, "truth": truth, "golden": golden}
    return {key: str(value) for key, value in named.items() if value is not None}
