"""`edge doctor`: what this machine has, and what of it really works."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge import config as configuration
from edge.cli import logs, tables
from edge.errors import EngineError


@click.command("doctor")
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option("--clear-quarantine", is_flag=True, help="Let the engines be tried again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(config: str | None, clear_quarantine: bool, as_json: bool) -> None:
    """Try every engine and accelerator of this machine with a real model and its known answers.

    With CONFIG (an edge.toml) also show which engines its agent keeps in quarantine, and why. Exit
    code 5 when no engine works.
    """
    logs.configure(quiet=True)
    if clear_quarantine and config is None:
        raise click.UsageError("--clear-quarantine needs the CONFIG whose quarantine is meant")
    from edge.doctor import examine, quarantined

    records = []
    if config is not None:
        folder = Path(configuration.load(config).device.state_dir)
        records = quarantined(folder, clear=clear_quarantine)
    if clear_quarantine:
        _show_cleared(records, as_json)
        return
    found = {**examine(), "quarantine": records}
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, value in {**found["machine"], **found["libraries"]}.items():
            if value not in ("", None):
                click.echo(f"{name:14}{value}")
        click.echo()
        rows = [
            [
                trial["variant"],
                trial["engine"],
                "works" if trial["works"] else "no",
                trial["detail"],
            ]
            for trial in [*found["engines"], *found["accelerators"]]
        ]
        tables.show(["variant", "engine", "tried", "detail"], rows)
        for record in records:
            click.echo(f"quarantine: {record}")
    if not any(trial["works"] for trial in found["engines"]):
        raise EngineError("no engine works here; pip install 'edgewright[onnx]' or [tflite]")


def _show_cleared(records: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"cleared": records}))
        return
    for record in records:
        click.echo(f"cleared: {record}")
    click.echo(f"{len(records)} engines may be tried again; the agent does it at its next start")
