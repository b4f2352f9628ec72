"""The command `edge convert-env`."""

from __future__ import annotations

import sys

import click

from convert import isolated
from edge.errors import EdgeError


@click.command("convert-env")
@click.argument("name", type=click.Choice(sorted(isolated.ENVIRONMENTS)))
def convert_env(name: str) -> None:
    """Make the environment that one converter needs for itself.

    onnx2tf turns ONNX files into TFLite; tflite-runtime is the old runtime that some devices still
    have. Their packages cannot be installed beside the others. Needs the network once.
    """
    try:
        python = isolated.make(name)
    except EdgeError as error:
        click.echo(f"edge: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(str(python))
