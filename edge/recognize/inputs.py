"""How frames become the model's input: what is known of it, what its family does, what is asked."""

from __future__ import annotations

import dataclasses

from edge.errors import ConfigError
from edge.hints import NORMALISATIONS, Hints
from edge.manifest import ImagePreprocess, Preprocess, WindowPreprocess
from edge.recognize import families
from edge.recognize.facts import Facts
from edge.recognize.reading import Reading

_SCALES = {"Sub", "Div", "Mul", "Cast", "SUB", "DIV", "MUL", "CAST", "QUANTIZE"}
_MAX_FEATURES = 64

Notes = list[tuple[str, str, str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """The preprocessing, and what was assumed: key, value, why, flag."""

    preprocess: Preprocess
    assumed: Notes


def prepare(facts: Facts, reading: Reading, hints: Hints) -> Prepared:
    """The preprocessing of a model. ConfigError when the range of its values must be told."""
    if facts.picture:
        return _picture(facts, reading, hints)
    return _window(facts, hints)


def _picture(facts: Facts, reading: Reading, hints: Hints) -> Prepared:
    spec = facts.input
    channels = spec.shape[1] if spec.layout == "nchw" else spec.shape[3]
    usual, why = families.PICTURES.get(reading.family, (None, ""))
    config = usual or ImagePreprocess(resize="stretch")
    assumed: Notes = [("input", str(spec), f"a picture, {spec.layout}", "--size")]
    color = hints.color or ("gray" if channels == 1 else config.color)
    if (color == "gray") != (channels == 1):
        raise ConfigError(f"--color {color}: the input {spec} has {channels} channels")
    resize, anchor = hints.resize or config.resize, hints.anchor or config.anchor
    pad = config.pad if hints.pad is None else hints.pad
    same = why or "usual where nothing is known of the training"
    if not hints.color:
        assumed.append(("color", color, "one channel" if channels == 1 else same, "--color"))
    if not hints.resize:
        words = f"letterbox, {anchor}" if resize == "letterbox" else resize
        assumed.append(("resize", words, same, "--resize, --anchor, --pad"))
    mean, std, range_why = _range(facts, reading, hints, usual, why)
    folded = mean is None
    if mean is None or std is None:
        mean, std = (0.0,), (1.0,)
    if range_why:
        words = "bytes as they are" if folded else f"(x - {_short(mean)}) / {_short(std)}"
        assumed.append(("range", words, range_why, "--normalize, --mean, --std"))
    return Prepared(
        preprocess=ImagePreprocess(
            resize=resize, anchor=anchor, color=color, pad=pad,
            mean=_each(mean, channels, "--mean"), std=_each(std, channels, "--std"), folded=folded,
        ),
        assumed=assumed,
    )  # fmt: skip


def _range(
    facts: Facts, reading: Reading, hints: Hints, usual: ImagePreprocess | None, why: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, str]:
    """Mean and std over 0..255, None for bytes as they are; and why, "" when that was given."""
    spec = facts.input
    if hints.mean:
        return hints.mean, hints.std, ""
    if spec.dtype == "uint8":
        return None, None, "the input takes bytes"
    if spec.dtype == "int8":
        quantization = spec.quantization
        if quantization is None:
            raise ConfigError(f"input {spec} says no scale; give --mean and --std")
        # Stored values are the bytes less 128; the preprocessor quantises real ones.
        mean = 128.0 + quantization.zero_point
        return (mean,), (1 / quantization.scale,), "the input takes bytes less 128"
    if spec.dtype == "int32":
        return (0.0,), (1.0,), "the input takes whole numbers"
    noted = facts.graph.normalisation
    if noted is not None and noted[0] and noted[1] and all(value > 0 for value in noted[1]):
        return noted[0], noted[1], "the file's metadata says so"
    scaling = {operator.type for operator in facts.graph.consumers(spec.name)} & _SCALES
    if usual is not None:
        return usual.mean, usual.std, why
    if scaling:
        operators = ", ".join(sorted(scaling))
        return (0.0,), (1.0,), f"the graph scales its input by itself ({operators})"
    choices = ", ".join(f"--normalize {name}" for name in NORMALISATIONS)
    raise ConfigError(
        f"nothing tells in which range input {spec} wants its values; choose one of {choices},"
        " or give --mean and --std over 0..255"
    )


def _window(facts: Facts, hints: Hints) -> Prepared:
    spec = facts.input
    assumed: Notes = []
    if spec.layout == "ntc":
        length, channels = spec.shape[1:]
    else:
        (size,) = spec.shape[1:]
        channels = len(hints.channels) or (1 if hints.length == size or size > _MAX_FEATURES else 0)
        channels = channels or (size // hints.length if hints.length else size)
        length = size // channels
        if length * channels != size:
            raise ConfigError(
                f"input {spec}: {size} numbers are not {channels} channels of some length"
            )
    if hints.length and hints.length != length:
        raise ConfigError(f"--length {hints.length}: input {spec} takes {length} samples")
    names = hints.channels
    if names and len(names) != channels:
        raise ConfigError(f"--channels: {len(names)} names, input {spec} has {channels}")
    if not names:
        names = ("value",) if channels == 1 else tuple(f"c{index}" for index in range(channels))
        assumed.append(
            ("channels", ", ".join(names[:6]) + (", …" if channels > 6 else ""),
             f"input {spec} is read as {length} samples of {channels}", "--channels")
        )  # fmt: skip
    hop = hints.hop or length
    if not hints.hop and length > 1:
        assumed.append(("hop", str(hop), "windows that do not overlap", "--hop"))
    rate = hints.rate_hz or 1.0
    if not hints.rate_hz and length > 1:
        assumed.append(("rate_hz", f"{rate:g}", "nothing tells the sampling rate", "--rate"))
    if not hints.mean:
        assumed.append(("range", "as it is", "sensors differ", "--mean, --std"))
    return Prepared(
        preprocess=WindowPreprocess(
            length=length, hop=hop, rate_hz=rate, channels=names,
            mean=_each(hints.mean or (0.0,), channels, "--mean"),
            std=_each(hints.std or (1.0,), channels, "--std"),
        ),
        assumed=assumed,
    )  # fmt: skip


def _each(values: tuple[float, ...], channels: int, flag: str) -> tuple[float, ...]:
    """One value a channel, from one for all or as many."""
    if len(set(values)) == 1:
        return values[:1] * channels
    if len(values) != channels:
        raise ConfigError(f"{flag}: {len(values)} numbers for {channels} channels")
    return values


def _short(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:g}" for v in values)
