"""`edge doctor`: what this machine has, and what of it really works."""

from __future__ import annotations

import json

import click

from edge.cli import logs, tables
from edge.errors import EngineError


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> None:
    """Try every engine of this machine with a real model and its known answers.

    Exit code 5 when none works.
    """
    logs.configure(quiet=True)
    from edge.doctor import examine

    found = examine()
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
            for trial in found["engines"]
        ]
        tables.show(["variant", "engine", "tried", "detail"], rows)
    if not any(trial["works"] for trial in found["engines"]):
        raise EngineError("no engine works here; pip install 'edgewright[onnx]' or [tflite]")
