"""`edge status`: ask the running agent how it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge import config as configuration
from edge import status


@click.command("status")
@click.argument("config", default="edge.toml", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(config: str, as_json: bool) -> None:
    """Show how the agent that runs CONFIG is doing.

    Exit code 0 when all is well, 1 when it reports problems or does not answer.
    """
    folder = Path(configuration.load(config).device.state_dir)
    try:
        answer = status.ask(folder)
    except OSError as error:
        answer = {
            "ok": False,
            "problems": [
                f"no agent answers at {folder / status.SOCKET}: {error.strerror or error}"
            ],
        }
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _print(answer)
    raise click.exceptions.Exit(0 if answer["ok"] else 1)


def _print(answer: dict[str, object]) -> None:
    click.echo("ok" if answer["ok"] else "problems:")
    for problem in answer["problems"]:  # type: ignore[attr-defined]
        click.echo(f"  {problem}")
    for kind in ("pipelines", "sinks"):
        for name, facts in answer.get(kind, {}).items():  # type: ignore[attr-defined]
            shown = ", ".join(f"{key} {value}" for key, value in facts.items())
            click.echo(f"{kind[:-1]} {name}: {shown}")
    if board := answer.get("board"):
        click.echo(_board(board))  # type: ignore[arg-type]


def _board(facts: dict[str, Any]) -> str:
    temperature = facts["temperature_c"]
    shown = "no temperature" if temperature is None else f"{temperature:.1f} °C"
    throttled = ", ".join(facts["throttled"]) or "not throttled"
    return f"board: {shown}, {throttled}, frame rates at {facts['pace']:.0%}"
