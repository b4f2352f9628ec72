"""The command `edge convert`. Importable without torch; the work is in convert.build."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from convert import flags, installed, recipe_reader, screen
from convert.cache import Cache, folder
from convert.recipe import VARIANTS, Recipe
from convert.report import Options, Result
from edge import bundle
from edge.errors import BundleError, ConfigError, EdgeError

INTERRUPTED = 130
DEFAULTS = Options()
_PATH = click.Path(path_type=Path)


@click.command(
    epilog="Exit codes: 0 a bundle was written, 2 the recipe, a flag or the installation must be"
    " mended, 3 the gate refused, 8 the recipe's code, the model or a converter failed, 130"
    " interrupted. Whatever fails, an older bundle stays as it was."
)
@click.argument("source", type=_PATH)
@click.option(
    "-o", "--output", type=_PATH, help="Where to write the bundle.  [default: SOURCE/bundle]"
)
@click.option("--task", type=click.Choice(["classify", "detect"]), help="What the model does.")
@click.option("--labels", type=_PATH, help="A file with the name of one class a line.")
@click.option(
    "--calibrate", type=_PATH, help="Folder of pictures, or .npz: calibrates static int8."
)
@click.option("--evaluate", type=_PATH, help="Folder or .npz to judge on.  [default: --calibrate]")
@click.option(
    "--truth",
    help="What is to be seen in them: `folder` (a folder a class), `name` (what stands before the"
    " first _), a CSV of file,label, or a COCO .json.",
)
@click.option("--golden", type=_PATH, help="Folder or .npz that may be given away with the bundle.")
@click.option(
    "--factory", metavar="FILE.py:FUNCTION", help="Makes the torch module of a state dict."
)
@click.option("--input", "input_", metavar="NAME:SHAPE[:LAYOUT]", help="As image:1,3,224,224:nchw.")
@click.option(
    "--outputs",
    metavar="A,B,…",
    help="Names of the model's outputs, in its order.  [default: those of the file]",
)
@click.option("--name", metavar="NAME", help="Of the model.  [default: the file's name]")
@click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), help="What the model takes.")
@click.option("--mean", help="One number, or one a channel, in 0..255.  [default: 0]")
@click.option("--std", help="As --mean.  [default: 255, so that pictures are in 0..1]")
@click.option("--resize", type=click.Choice(["stretch", "letterbox", "crop"]))
@click.option("--pad", type=click.IntRange(0, 255), help="Colour around a letterboxed picture.")
@click.option(
    "--channels", metavar="A,B,…", help="Sensor channels: the model takes windows of them."
)
@click.option("--length", type=click.IntRange(min=1), help="Samples in a window.  [default: 1]")
@click.option("--rate-hz", type=float, help="Sampling rate of a window.  [default: 1]")
@click.option("--decoder", metavar="NAME", help="How outputs become predictions.")
@click.option("--param", multiple=True, metavar="KEY=VALUE", help="Of the decoder; repeatable.")
@click.option("--score", type=float, help="Detections below it are dropped.")
@click.option("--licence", metavar="TEXT", help="Of the weights.")
@click.option("--fold", is_flag=True, help="Normalise inside of the graph: uint8 NHWC goes in.")
@click.option("--dynamic-batch", is_flag=True, help="Leave the batch of ONNX variants open.")
@click.option(
    "--only",
    type=click.Choice(VARIANTS),
    multiple=True,
    help="Make this variant alone, even if another dominates it; repeatable.",
)
@click.option(
    "--keep-dominated", is_flag=True, help="Ship variants that another one beats in everything."
)
@click.option("--samples", type=click.IntRange(min=1), help="To judge on.  [default: 400]")
@click.option(
    "--calibration", type=click.IntRange(min=1), help="To calibrate with.  [default: 128]"
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    help="How ranges are found.  [default: minmax]",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Of the inputs.")
@click.option(
    "--search",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=12,
    default=0,
    metavar="[N]",
    help="Keep the worst layers of a refused int8 variant in float until it passes, in at most N"
    " attempts.  [12]",
)
@click.option(
    "--strict", is_flag=True, help="Write no bundle when any variant is refused, and exit 3."
)
@click.option(
    "--unsafe-joblib",
    is_flag=True,
    help="Load a .joblib: it is a pickle, and whoever wrote it can run code here.",
)
@click.option("--no-cache", is_flag=True, help="Make everything anew.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the converters themselves print.")
def convert(
    source: Path,
    output: Path | None,
    calibrate: Path | None,
    evaluate: Path | None,
    truth: str | None,
    golden: Path | None,
    input_: str | None,
    fold: bool,
    dynamic_batch: bool,
    only: tuple[str, ...],
    keep_dominated: bool,
    samples: int | None,
    calibration: int | None,
    method: str | None,
    seed: int,
    search: int,
    strict: bool,
    unsafe_joblib: bool,
    no_cache: bool,
    as_json: bool,
    verbose: bool,
    **described: Any,
) -> None:
    """Turn a trained model into a verified bundle.

    SOURCE is a recipe (a folder with a recipe.toml), or a model file that the flags describe:
    .onnx, .tflite, .pt2, .keras, .skops, .joblib, XGBoost .json or .ubj, LightGBM .txt, or a state
    dict (.safetensors, .pt) with --factory and --input:

        edge convert model.onnx --task classify --labels names.txt --calibrate images/ -o bundle/

    The model is exported to ONNX and TFLite at fp32, fp16, dynamic and static int8. Every variant
    is run as the device will run it, and compared with the original. One outside of the gate is
    left out, with the numbers, the layers where the error starts, and what to try; so is one that
    another variant beats in everything. OUTPUT-report/ holds a page with all that was measured.
    """
    started = time.monotonic()
    shown = flags.Flags(input=input_, **described)
    overrides = {
        "data": flags.data_section(calibrate, evaluate, truth, golden),
        "calibration": _given(samples=calibration, method=method),
        "evaluation": _given(samples=samples),
    }
    options = Options(
        seed=seed,
        only=tuple(only),
        strict=strict,
        search=search,
        keep_dominated=keep_dominated,
        unsafe_joblib=unsafe_joblib,
    )
    try:
        wanted = _recipe(source, shown, overrides, fold=fold, dynamic_batch=dynamic_batch)
        destination = _destination(source, output)
        cache = Cache(None if no_cache else folder() / "convert")
        result = _build(wanted, destination, options, cache, verbose)
        _show(result, as_json=as_json, seconds=time.monotonic() - started)
    except KeyboardInterrupt:
        click.echo("edge: interrupted; no bundle was written", err=True)
        sys.exit(INTERRUPTED)
    except EdgeError as error:
        for problem in getattr(error, "problems", [str(error)]):
            click.echo(f"edge: {problem}", err=True)
        sys.exit(error.exit_code)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _recipe(
    source: Path,
    shown: flags.Flags,
    overrides: dict[str, dict[str, Any]],
    *,
    fold: bool,
    dynamic_batch: bool,
) -> Recipe:
    """The recipe of a folder, or of a model file and flags; data and counts by flag go first."""
    if source.is_dir():
        given = ", ".join(f"--{name.replace('_', '-')}" for name in shown.given())
        if given:
            raise ConfigError(f"{given}: belongs into {source / 'recipe.toml'}")
        document, file = recipe_reader.document(source)
        here = {key: str(Path(value).absolute()) if key != "truth" else value
                for key, value in overrides["data"].items()}  # fmt: skip
        overrides = {**overrides, "data": here}
    elif source.is_file():
        document, file = flags.document(source, shown), flags.COMMAND_LINE
    else:
        raise ConfigError(f"{source}: no such folder or model file")
    for section, values in overrides.items():
        document[section] = {**document.get(section, {}), **values}
    if fold:
        document["preprocess"] = {**document.get("preprocess", {}), "folded": True}
    if dynamic_batch:
        document["dynamic_batch"] = True
    return recipe_reader.read(document, file)


def _destination(source: Path, output: Path | None) -> Path:
    """Only an empty place or an older bundle may be written to."""
    if output is None and not source.is_dir():
        raise ConfigError("-o OUTPUT is missing: where should the bundle be written?")
    path = output or source / "bundle"
    if (path / bundle.MANIFEST).is_file() or not path.exists():
        return path
    if not path.is_dir() or any(path.iterdir()):
        raise ConfigError(f"{path}: not empty and not a bundle; name another place")
    return path


def _build(
    wanted: Recipe, destination: Path, options: Options, cache: Cache, verbose: bool
) -> Result:
    """What is cheap to find out comes before what takes minutes."""
    installed.check()
    # Read when torch is imported: its idle threads would spin on the cores that the engines need,
    # which made verification 60 times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    log = folder() / "logs" / f"convert-{wanted.name}.log"
    with screen.quiet(verbose, log) as stream:
        shown = screen.Screen(stream)
        from convert import finished

        known = finished.known(wanted, destination, options, cache)
        if known is not None:
            return known
        with shown.step("loading the converters"):
            from convert import build, report_html
            from convert.job import Job
        job = Job(recipe=wanted, options=options, screen=shown, cache=cache)
        result = build.build(job, destination)
        page = destination.with_name(f"{destination.name}-report")
        report_html.write(page, result.as_json(), result.worst)
        finished.remember(result, wanted, destination, options, cache)
        return result


def _show(result: Result, *, as_json: bool, seconds: float) -> None:
    """The table (or the JSON), the refusals, and an error when there is no bundle."""
    if as_json:
        click.echo(json.dumps({**result.as_json(), "seconds": round(seconds, 1)}))
    else:
        screen.show_table(*result.rows())
    for line in result.lines():
        click.echo(f"edge: {line}", err=True)
    if result.bundle is None:
        refused = ", ".join(report.name for report in result.variants if report.refusals)
        reason = f"the gate refused {refused}" if refused else "no variant could be made"
        raise BundleError(f"no bundle was written: {reason}")
    if not as_json:
        size = sum(entry.size for entry in result.bundle.manifest.files.values())
        state = "unchanged since the last run" if result.unchanged else f"{seconds:.0f} s"
        click.echo(
            f"{result.bundle.path}: {size / 1e6:.2f} MB, {result.bundle.identity},"
            f" {result.samples} samples, {state}"
        )
