"""`edge config-schema` and `edge event-schema`: what other programs may rely on."""

from __future__ import annotations

import json

import click

from edge import wire
from edge.config_schema import json_schema


@click.command("config-schema")
def config_schema() -> None:
    """Print the JSON Schema of edge.toml."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command("event-schema")
def event_schema() -> None:
    """Print the JSON Schema of an event as it stands on the wire."""
    click.echo(json.dumps(wire.event_schema(), indent=2))
