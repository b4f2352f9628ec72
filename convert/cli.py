"""The command `edge convert`. Importable without torch; the work is in convert.build."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from convert import installed, recipe, screen
from convert.report import VARIANTS, Options, Result
from edge import bundle
from edge.errors import BundleError, ConfigError, EdgeError

DEFAULTS = Options()
INTERRUPTED = 130


@click.command(
    epilog="Exit codes: 0 a bundle was written, 2 the recipe or the installation must be"
    " mended, 3 the gate refused, 8 the recipe's code or a converter failed, 130"
    " interrupted. Whatever fails, an older bundle stays as it was."
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write the bundle.  [default: FOLDER/bundle]",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=DEFAULTS.samples,
    show_default=True,
    help="Evaluation inputs that every variant is held against.",
)
@click.option(
    "--calibration",
    type=click.IntRange(min=1),
    default=DEFAULTS.calibration,
    show_default=True,
    help="Inputs that calibrate the int8 variants.",
)
@click.option(
    "--only",
    type=click.Choice(VARIANTS),
    multiple=True,
    help="Make this variant alone; may be given several times.",
)
@click.option(
    "--seed",
    type=int,
    default=DEFAULTS.seed,
    show_default=True,
    help="Seed of the recipe's calibration and evaluation inputs.",
)
@click.option(
    "--strict", is_flag=True, help="Write no bundle when any variant is refused, and exit 3."
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the converters themselves print.")
def convert(
    folder: Path,
    output: Path | None,
    samples: int,
    calibration: int,
    only: tuple[str, ...],
    seed: int,
    strict: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Turn the trained model of FOLDER (a recipe.toml and its code) into a verified bundle.

    The model is exported to ONNX and TFLite, at fp32 and int8. Every variant is run as the device
    will run it, and compared with the recipe's own predictions; one outside of the gate is left
    out of the bundle, with a warning and the numbers.
    """
    options = Options(
        samples=samples,
        calibration=calibration,
        seed=seed,
        only=only or VARIANTS,
        strict=strict,
    )
    started = time.monotonic()
    try:
        result = _build(folder, output or folder / "bundle", options, verbose)
        _show(result, as_json=as_json, seconds=time.monotonic() - started)
    except KeyboardInterrupt:
        click.echo("edge: interrupted; no bundle was written", err=True)
        sys.exit(INTERRUPTED)
    except EdgeError as error:
        for problem in getattr(error, "problems", [str(error)]):
            click.echo(f"edge: {problem}", err=True)
        sys.exit(error.exit_code)


def _build(folder: Path, destination: Path, options: Options, verbose: bool) -> Result:
    """What is cheap to find out comes before what takes minutes."""
    wanted = recipe.load(folder)
    _check_destination(destination)
    installed.check()
    # Read when torch is imported: its idle threads would spin on the cores that the engines need,
    # which made verification 60 times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with screen.quiet(verbose) as stream:
        shown = screen.Screen(stream)
        with shown.step("loading the converters"):
            from convert import build
        return build.build(wanted, destination, options, shown)


def _check_destination(path: Path) -> None:
    """Only an empty place or an older bundle may be written to."""
    if (path / bundle.MANIFEST).is_file() or not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise ConfigError(f"{path}: not empty and not a bundle; name another place")


def _show(result: Result, *, as_json: bool, seconds: float) -> None:
    """The table (or the JSON), the refusals, and an error when there is no bundle."""
    if as_json:
        click.echo(json.dumps({**result.as_json(), "seconds": round(seconds, 1)}))
    else:
        screen.show_table(*result.rows())
    for report in result.variants:
        for reason in report.refusals:
            click.echo(f"edge: warning: {report.name} refused: {reason}", err=True)
        if report.refusals and report.advice:
            click.echo(f"edge: warning: {report.name}: {report.advice}", err=True)
    if result.bundle is None:
        refused = ", ".join(report.name for report in result.variants if report.refusals)
        raise BundleError(f"no bundle was written: the gate refused {refused}")
    if not as_json:
        size = sum(entry.size for entry in result.bundle.manifest.files.values())
        click.echo(
            f"{result.bundle.path}: {size / 1e6:.2f} MB, {result.bundle.identity},"
            f" {result.samples} samples, {seconds:.0f} s"
        )
