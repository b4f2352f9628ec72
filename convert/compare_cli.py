"""The command `edge compare`. Importable without any converter; the work is in convert.compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from convert import cache, screen
from convert.original import PRECISIONS
from convert.recipe import Bounds, Gate
from convert.samples import BY_FOLDER, BY_NAME, open_samples
from edge.errors import BundleError, ConfigError, EdgeError
from edge.manifest import ImagePreprocess

if TYPE_CHECKING:
    from convert.compare import Comparison

INTERRUPTED = 130
LAYERS = 5
"""Layers that are named in the terminal; the reports have them all."""


@click.command(
    epilog="Exit codes: 0 the candidate may take the reference's place, 2 a flag or the data must"
    " be mended, 3 the gate refused it, 5 one of the files does not run here, 130 interrupted."
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of pictures, or of .npy arrays as the reference takes them.",
)
@click.option(
    "--labels",
    default="",
    metavar="WHERE",
    help=f"Truth: a csv file of file,label; '{BY_FOLDER}', a folder a class; or '{BY_NAME}', the"
    " text of a file's name before the first _. Without it only agreement is measured.",
)
@click.option(
    "--classes",
    default="",
    metavar="A,B,C",
    help="The labels in the order of the model's outputs.  [default: numbers from 0]",
)
@click.option(
    "--task",
    type=click.Choice(["classify", "detect", "tensors"]),
    default="classify",
    show_default=True,
    help="What the outputs mean; tensors compares the numbers alone.",
)
@click.option("--output", default="", help="The output that holds the scores of a classifier.")
@click.option("--decoder", default="", help="For detect: one of edge's decoders.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the decoder; may be given several times.",
)
@click.option(
    "--color", type=click.Choice(["rgb", "bgr", "gray"]), default="rgb", show_default=True
)
@click.option(
    "--mean",
    default="0",
    show_default=True,
    help="One value, or one a channel: y = (x - mean) / std, x in 0..255.",
)
@click.option("--std", default="255", show_default=True, help="As --mean.")
@click.option(
    "--resize",
    type=click.Choice(["stretch", "letterbox", "crop"]),
    default="stretch",
    show_default=True,
)
@click.option("--pad", type=click.IntRange(0, 255), default=114, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Whose bounds to apply.  [default: read from the candidate]",
)
@click.option("--max-error", type=float, help="Largest error of any output, of its range.")
@click.option("--p99-error", type=float, help="99th percentile of that error.")
@click.option("--agreement", type=float, help="Smallest share of equal answers.")
@click.option("--mean-iou", type=float, help="Smallest mean overlap of boxes.")
@click.option("--max-drop", type=float, help="Largest loss of accuracy.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write report.html and report.json there.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
def compare(reference: Path, candidate: Path, data: Path, as_json: bool, **flags: Any) -> None:
    """Hold the model file CANDIDATE against REFERENCE, whoever made them.

    Both (.onnx or .tflite) are run as a device runs them, on every picture of --data. The candidate
    must give the reference's answers, within the bounds of its precision; with --labels it must not
    lose accuracy either. Quantised inputs take the pixels as they are, 0..255.
    """
    try:
        found = _compare(reference, candidate, data, flags)
        document = found.as_json()
        if flags["report"] is not None:
            from convert import report_html

            name = found.files["candidate"]["file"]
            report_html.write(flags["report"], document, {name: found.worst})
        if as_json:
            click.echo(json.dumps(document))
        else:
            _show(found)
        for line in _complaints(found):
            click.echo(f"edge: {line}", err=True)
        if found.refusals:
            raise BundleError(f"{candidate}: refused as a stand-in for {reference}")
    except KeyboardInterrupt:
        click.echo("edge: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except EdgeError as error:
        for problem in getattr(error, "problems", [str(error)]):
            click.echo(f"edge: {problem}", err=True)
        sys.exit(error.exit_code)


def _compare(reference: Path, candidate: Path, data: Path, flags: dict[str, Any]) -> Comparison:
    """What is cheap to find out comes first."""
    preprocess = ImagePreprocess(
        resize=flags["resize"],
        color=flags["color"],
        pad=flags["pad"],
        mean=_channels("--mean", flags["mean"], flags["color"]),
        std=_channels("--std", flags["std"], flags["color"]),
    )
    if flags["labels"] and flags["task"] != "classify":
        raise ConfigError(f"--labels are for --task classify; {flags['task']} takes none")
    params = {}
    for text in flags["params"]:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--param {text}: must be KEY=VALUE")
        params[key] = value
    labels = tuple(part.strip() for part in flags["classes"].split(",")) if flags["classes"] else ()
    with screen.quiet(False, cache.folder() / "logs" / "compare.log") as stream:
        shown = screen.Screen(stream)
        from convert import compare as work
        from convert import compared
        from convert.model_file import ModelFile

        question = compared.Question(
            task=flags["task"],
            preprocess=preprocess,
            output=flags["output"],
            labels=labels,
            decoder=flags["decoder"],
            params=params,
        )
        one, other = ModelFile(reference), ModelFile(candidate)
        classes = labels or compared.classes(one, question)
        samples = open_samples(data, truth=flags["labels"], labels=classes)
        bounds = _bounds(Gate().bounds(flags["precision"] or other.precision), flags)
        with shown.step("comparing", len(samples)) as advance:
            return work.compare(one, other, samples, question, bounds, advance=advance)


def _channels(flag: str, text: str, color: str) -> tuple[float, ...]:
    """One value for every channel, or one each."""
    channels = 1 if color == "gray" else 3
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: must be numbers, separated by commas") from error
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ConfigError(f"{flag} {text}: {color} has {channels} channels")
    if flag == "--std" and not all(value > 0 for value in values):
        raise ConfigError(f"{flag} {text}: must be above 0")
    return values


def _bounds(bounds: Bounds, flags: dict[str, Any]) -> Bounds:
    """The bounds of the precision, with those that the user has set."""
    names = {
        "max_error": "max_error",
        "p99_error": "p99_error",
        "agreement": "agreement",
        "mean_iou": "mean_iou",
        "max_drop": "accuracy_drop",
    }
    given = {name: flags[flag] for flag, name in names.items() if flags[flag] is not None}
    return msgspec.structs.replace(bounds, **given)


def _show(found: Comparison) -> None:
    """The table, and under it how the pictures were prepared and what could not be used."""
    reference, candidate = found.files["reference"], found.files["candidate"]
    rows = [
        [key, str(reference[key]), str(candidate[key])] for key in ("format", "precision", "engine")
    ]
    rows.append(["size, kB", *(f"{side['size'] / 1000:.1f}" for side in (reference, candidate))])
    times = (side["latency_s"] * 1e3 for side in (reference, candidate))
    rows.append(["one inference, ms", *(f"{value:.3g}" for value in times)])
    for output, parity in found.candidate.parity.items():
        rows.append([f"{output}: max error", "", f"{parity.max_error:.2g}"])
        rows.append([f"{output}: p99 error", "", f"{parity.p99_error:.2g}"])
        rows.append([f"{output}: cosine", "", f"{parity.cosine:.5f}"])
    for name, value in found.candidate.agreement.items():
        rows.append([f"agreement: {name}", "", f"{value:.4f}"])
    for name, value in found.candidate.accuracy.items():
        rows.append([name, f"{found.reference.accuracy[name]:.4f}", f"{value:.4f}"])
    rows.append(["verdict", "", "refused" if found.refusals else "may take its place"])
    screen.show_table(["", reference["file"], candidate["file"]], rows)
    p = found.preprocess
    click.echo(
        f"{found.samples} samples, {found.labelled} with a label; preprocessing: --resize"
        f" {p.resize} --color {p.color} --mean {_listed(p.mean)} --std {_listed(p.std)}"
    )
    for why, count in found.skipped.items():
        click.echo(f"skipped: {count} × {why}")
    if found.unlabelled:
        first = sorted(found.unlabelled.items(), key=lambda item: -item[1])[:8]
        more = f" and {len(found.unlabelled) - 8} more" if len(found.unlabelled) > 8 else ""
        click.echo(
            f"not judged by a label: {sum(found.unlabelled.values())} files, whose label is no"
            f" class: {', '.join(f'{label} × {count}' for label, count in first)}{more};"
            " --classes names the classes"
        )


def _complaints(found: Comparison) -> list[str]:
    """Reasons, the layers where the error starts, and what to try."""
    lines = [f"refused: {reason}" for reason in found.refusals]
    if found.layers:
        named = [f"{x.layer} ({x.op}, +{x.added:.2g})" for x in found.layers[:LAYERS]]
        lines.append(f"the error starts in: {', '.join(named)}")
    if found.advice:
        lines.append(f"try: {found.advice}")
    return lines


def _listed(values: tuple[float, ...]) -> str:
    values = values[:1] if len(set(values)) == 1 else values
    return ",".join(f"{value:g}" for value in values)
