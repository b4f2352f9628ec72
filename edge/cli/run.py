"""`edge run`: run an edge.toml, under a small supervising parent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edge import config as configuration
from edge import supervisor
from edge.cli import logs
from edge.signals import stop_on_signals


@click.command("run")
@click.argument("config", default="edge.toml", type=click.Path(dir_okay=False))
@click.option("--no-supervise", is_flag=True, help="Run without the parent that restarts it.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", is_flag=True, help="Log details.")
def command(config: str, no_supervise: bool, log_format: str, verbose: bool) -> None:
    """Run the pipelines of CONFIG (default: edge.toml) until they end or are stopped.

    SIGTERM and Ctrl-C stop it in order: pipelines end, the outbox is written, sinks get
    device.drain_s to deliver it. A second one stops at once. What is not delivered stays in the
    outbox. An agent that dies is restarted with back-off; use --no-supervise under systemd or in
    a container.
    """
    logs.configure(log_format, verbose=verbose)
    loaded = configuration.load(config)
    if supervisor.CHILD_MARK in os.environ:
        supervisor.follow_parent()
    if not no_supervise:
        arguments = [config, "--no-supervise", "--log-format", log_format]
        sys.exit(supervisor.run([*arguments, *(["--verbose"] if verbose else [])]))
    stop = stop_on_signals()
    from edge.agent import Agent
    from edge.engines import guard

    guard.arm(Path(loaded.device.state_dir))
    agent = Agent(loaded)
    agent.run(stop)
