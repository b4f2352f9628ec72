"""A model file and flags -> the document of a recipe, so that both are read by one reader."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigError

COMMAND_LINE = Path("command line")
"""Stands for the file in what the reader says about mistakes; paths start at the working folder."""


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said about a model file; None and empty where it said nothing."""

    name: str | None = None
    task: str | None = None
    labels: Path | None = None
    factory: str | None = None
    input: str | None = None
    outputs: str | None = None
    color: str | None = None
    mean: str | None = None
    std: str | None = None
    resize: str | None = None
    pad: int | None = None
    channels: str | None = None
    length: int | None = None
    rate_hz: float | None = None
    decoder: str | None = None
    param: tuple[str, ...] = ()
    score: float | None = None
    licence: str | None = None

    def given(self) -> list[str]:
        """The names of the flags that were given."""
        return [
            name for name, value in msgspec.structs.asdict(self).items() if value not in (None, ())
        ]


def document(model: Path, flags: Flags) -> dict[str, Any]:
    """The recipe of a model file. ConfigError for a flag that cannot be understood."""
    return {
        "name": flags.name or _plain(model.stem),
        "version": "1",
        "task": flags.task or "classify",
        **({"labels": str(flags.labels)} if flags.labels else {}),
        "model": _model(model, flags),
        **({"input": [_input(flags.input)]} if flags.input else {}),
        "output": [{"name": name.strip()} for name in (flags.outputs or "").split(",") if name],
        "preprocess": _preprocess(flags),
        "decoder": _decoder(flags),
        **({"thresholds": {"score": flags.score}} if flags.score is not None else {}),
        "licence": {"weights": flags.licence or "not stated"},
    }


def _model(model: Path, flags: Flags) -> dict[str, str]:
    if not flags.factory:
        return {"file": str(model)}
    code, colon, factory = flags.factory.rpartition(":")
    if not colon:
        raise ConfigError(f"--factory {flags.factory}: must be FILE.py:FUNCTION")
    return {"code": code, "factory": factory, "weights": str(model)}


def _input(text: str) -> dict[str, Any]:
    """NAME:1,3,224,224:nchw, the layout by the number of dimensions where it is left out."""
    name, _, rest = text.partition(":")
    shape, _, layout = rest.partition(":")
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        raise ConfigError(f"--input {text}: must be NAME:SHAPE, as image:1,3,224,224") from None
    usual = {4: "nchw" if sizes[1] in (1, 3) else "nhwc", 3: "ntc", 2: "nc"}
    return {"name": name, "shape": sizes, "layout": layout or usual.get(len(sizes), "other")}


def _preprocess(flags: Flags) -> dict[str, Any]:
    if flags.channels:
        channels = flags.channels.split(",")
        return {
            "kind": "window",
            "length": flags.length or 1,
            "hop": flags.length or 1,
            "rate_hz": flags.rate_hz or 1.0,
            "channels": channels,
            "mean": _numbers("--mean", flags.mean, len(channels)) or [0.0] * len(channels),
            "std": _numbers("--std", flags.std, len(channels)) or [1.0] * len(channels),
        }
    planes = 1 if flags.color == "gray" else 3
    return {
        "kind": "image",
        "resize": flags.resize or ("letterbox" if flags.task == "detect" else "stretch"),
        "color": flags.color or "rgb",
        **({"pad": flags.pad} if flags.pad is not None else {}),
        "mean": _numbers("--mean", flags.mean, planes) or [0.0] * planes,
        "std": _numbers("--std", flags.std, planes) or [255.0] * planes,
    }


def _decoder(flags: Flags) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in flags.param:
        key, _, value = text.partition("=")
        try:
            params |= tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            params[key] = value  # a bare word
    return {**({"name": flags.decoder} if flags.decoder else {}), **params}


def _numbers(flag: str, text: str | None, count: int) -> list[float]:
    if text is None:
        return []
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} {text}: must be numbers with commas between") from None
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ConfigError(f"{flag} {text}: {len(values)} values for {count} channels")
    return values


def _plain(stem: str) -> str:
    """A file's name as the name of a model."""
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in stem)[:64]


def data_section(
    calibrate: Path | None, evaluate: Path | None, truth: str | None, golden: Path | None
) -> dict[str, str]:
    """[data] by the flags that name the user's own data."""
    named: Sequence[tuple[str, object]] = (
        ("calibration", calibrate),
        ("evaluation", evaluate),
        ("truth", truth),
        ("golden", golden),
    )
    return {key: str(value) for key, value in named if value is not None}
