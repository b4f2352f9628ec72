"""`edge init`: write a commented edge.toml to start from."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import click

from edge.errors import ConfigError


@click.command("init")
@click.argument("path", default="edge.toml", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def command(path: Path, force: bool) -> None:
    """Write a commented configuration to PATH (default: edge.toml)."""
    target = path / "edge.toml" if path.is_dir() else path
    if target.exists() and not force:
        raise ConfigError(f"{target}: is there already; --force overwrites it")
    template = importlib.resources.files("edge.cli").joinpath("edge.toml").read_text("utf-8")
    try:
        target.write_text(template, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error
    click.echo(f"wrote {target}; try it with: edge check {target}")
