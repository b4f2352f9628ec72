"""`edge check`: validate an edge.toml and try everything in it, without running it."""

from __future__ import annotations

import dataclasses
import json

import click

from edge import config as configuration
from edge.cli import logs


@click.command("check")
@click.argument("config", default="edge.toml", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(config: str, as_json: bool) -> None:
    """Validate CONFIG (default: edge.toml) and try its bundles, engines, sources and sinks.

    Ends with the exit code of the first thing that is not well.
    """
    logs.configure(quiet=True)
    loaded = configuration.load(config)
    from edge.check import try_everything

    findings = []
    for finding in try_everything(loaded):
        findings.append(finding)
        if not as_json:
            mark = "FAILED" if finding.exit_code else "ok"
            click.echo(f"{mark:7}{finding.what}: {finding.detail}")
    code = next((finding.exit_code for finding in findings if finding.exit_code), 0)
    if as_json:
        answer = {"ok": not code, "findings": [dataclasses.asdict(item) for item in findings]}
        click.echo(json.dumps(answer))
    raise click.exceptions.Exit(code)
