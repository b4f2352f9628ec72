"""The options that say what a model file does not: the same for every command that takes one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from edge.cli import tables
from edge.errors import ConfigError
from edge.manifest import Task
from edge.recognize import NORMALISATIONS, Hints, Recognition
from edge.toml_reader import NAME_PATTERN

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
_SOUNDS = {".wav", ".flac", ".ogg"}
_VIDEOS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".ts", ".m4v", ".mpg", ".mpeg"}
_MAX_LABELS_BYTES = 4 << 20

_OPTIONS = [
    click.option("--task", type=click.Choice(get_args(Task)), help="What the model is for."),
    click.option("--decoder", default="", metavar="NAME", help="How its outputs are decoded."),
    click.option(
        "--param", "params", multiple=True, metavar="NAME=VALUE",
        help="A parameter of the decoder, as JSON; may be repeated.",
    ),
    click.option("--labels", metavar="FILE", help="Names of the classes, one a line."),
    click.option("--points", default="", metavar="A,B,…", help="Names of the key points."),
    click.option("--min-score", "score", type=float, help="Detections below are dropped."),
    click.option("--size", default="", metavar="WxH", help="For a model that is open in size."),
    click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), default=None),
    click.option("--resize", type=click.Choice(["letterbox", "stretch", "crop"]), default=None),
    click.option("--anchor", type=click.Choice(["center", "topleft"]), default=None),
    click.option("--pad", type=int, help="Grey of the letterbox's border, 0..255."),
    click.option(
        "--normalize", type=click.Choice(list(NORMALISATIONS)), default=None,
        help="In which range the input wants its values.",
    ),
    click.option("--mean", default="", metavar="A[,B,C]", help="Over 0..255, with --std."),
    click.option("--std", default="", metavar="A[,B,C]"),
    click.option("--channels", default="", metavar="A,B,…", help="Columns of a window of samples."),
    click.option("--rate", "rate_hz", type=float, default=0.0, help="Samples a second."),
    click.option("--length", type=int, default=0, help="Samples in a window."),
    click.option("--hop", type=int, default=0, help="Samples from window to window."),
    click.option(
        "--constant", "constants", multiple=True, metavar="INPUT=NUMBER",
        help="The value of an input that never changes; may be repeated.",
    ),
]  # fmt: skip
NAMES = (
    *("task", "decoder", "params", "labels", "points", "score", "size", "color", "resize"),
    *("anchor", "pad", "normalize", "mean", "std", "channels", "rate_hz", "length", "hop"),
    "constants",
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as keyword arguments named NAMES."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def hints_of(given: dict[str, Any]) -> Hints:
    """The options' values as Hints. ConfigError for one that cannot be read."""
    mean, std = _numbers(given["mean"], "--mean"), _numbers(given["std"], "--std")
    if given["normalize"]:
        if mean or std:
            raise ConfigError("--normalize stands for --mean and --std: give one or the other")
        mean, std = NORMALISATIONS[given["normalize"]]
    return Hints(
        task=given["task"],
        decoder=given["decoder"],
        params=_params(given["params"]),
        labels=read_labels(given["labels"]) if given["labels"] else (),
        points=_words(given["points"]),
        score=given["score"],
        size=_size(given["size"]),
        color=given["color"] or "",
        resize=given["resize"] or "",
        anchor=given["anchor"] or "",
        pad=given["pad"],
        mean=mean,
        std=std,
        channels=_words(given["channels"]),
        rate_hz=given["rate_hz"],
        length=given["length"],
        hop=given["hop"],
        constants=_constants(given["constants"]),
    )


def read_labels(path: str) -> tuple[str, ...]:
    """Names of classes from a file, one a line. ConfigError when there are none."""
    try:
        data = Path(path).read_bytes()
        if len(data) > _MAX_LABELS_BYTES:
            raise ConfigError(f"--labels: {path} is larger than {_MAX_LABELS_BYTES} bytes")
        names = tuple(line.strip() for line in data.decode("utf-8-sig").splitlines())
    except OSError as error:
        raise ConfigError(f"--labels: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--labels: {path} is not UTF-8 text") from error
    while names and not names[-1]:
        names = names[:-1]
    if not names:
        raise ConfigError(f"--labels: {path} holds no names")
    return tuple(name or f"class {index}" for index, name in enumerate(names))


def source_of(text: str) -> dict[str, Any]:
    """The table of a source, by what an address or a path looks like."""
    path = Path(text)
    ending = path.suffix.lower()
    if text == "-" or ending == ".csv":
        return {"type": "csv", "path": text}
    if ending in (".jsonl", ".ndjson"):
        return {"type": "jsonl", "path": text}
    if ending in _SOUNDS:
        return {"type": "wav", "path": text}
    if text.isdecimal():
        return {"type": "camera", "url": int(text)}
    if re.match(r"[a-z][a-z0-9+.-]*://", text) or text.startswith("/dev/"):
        return {"type": "camera", "url": text}
    if path.is_dir() or ending in _PICTURES:
        return {"type": "images", "path": text}
    if ending in _VIDEOS:
        return {"type": "video", "path": text}
    raise ConfigError(
        f"--source {text}: neither an address (rtsp://…), a device (/dev/video0 or its number), a"
        " video, a picture, a folder of pictures, a sound, nor samples (.csv, .jsonl, or - for CSV"
        " from standard input)"
    )


def name_of(model: Path) -> str:
    """A pipeline's name from the model's file."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", model.stem).strip("-")
    return name if re.fullmatch(NAME_PATTERN, name) else "model"


def show(recognition: Recognition, *, err: bool = False) -> None:
    """What a model was recognised as, and each assumption with its reason and its flag."""
    click.echo(f"task       {recognition.task}, decoded by {recognition.decoder.name}", err=err)
    for spec in recognition.inputs:
        click.echo(f"input      {spec}", err=err)
    for spec in recognition.outputs:
        click.echo(f"output     {spec}", err=err)
    click.echo("assumed", err=err)
    rows = [[note.key, note.value, note.why, note.flag] for note in recognition.assumptions]
    if err:
        for row in rows:
            click.echo(f"  {row[0]}: {row[1]} ({row[2]}; {row[3]})", err=True)
    else:
        tables.show(["", "assumed", "because", "override"], rows)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError:
        raise ConfigError(f"{flag} {text}: numbers with commas between them") from None


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if not found:
        raise ConfigError(f"--size {text}: WIDTHxHEIGHT, for example 640x480")
    return int(found[1]), int(found[2])


def _params(given: tuple[str, ...]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--param {text}: NAME=VALUE")
        try:
            params[name] = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            params[name] = value
    return params


def _constants(given: tuple[str, ...]) -> dict[str, float]:
    constants: dict[str, float] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            constants[name] = int(value) if value.lstrip("-").isdecimal() else float(value)
        except ValueError:
            raise ConfigError(f"--constant {text}: INPUT=NUMBER") from None
    return constants
