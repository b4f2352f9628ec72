"""`edge run`: run an edge.toml, or any model on a source; the parent is edge.supervisor's."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import click

from edge import board, supervisor
from edge import config as configuration
from edge.bundle import Bundle
from edge.cli import logs, model_options
from edge.config import Config
from edge.errors import ConfigError
from edge.signals import stop_on_signals


@click.command("run")
@click.argument("config", default="edge.toml", type=click.Path(dir_okay=False))
@click.option("--model", metavar="FILE", help="An .onnx or .tflite file, in place of CONFIG.")
@click.option("--source", metavar="PLACE", help="A camera, video, pictures or samples.")
@click.option("--broker", metavar="URL", help="mqtt://host; without it events are printed.")
@click.option("--device", default="", metavar="ID", help="What the device is called.")
@click.option("--state-dir", default="edge-state", show_default=True, help="For the outbox.")
@click.option("--save-bundle", metavar="DIR", help="Write the recognised model as a bundle.")
@model_options.model_options
@click.option(  # read by edge.supervisor, before this is
    "--no-supervise",
    is_flag=True,
    expose_value=False,
    help="Run without the parent that restarts it.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option("-v", "--verbose", is_flag=True, help="Log details.")
def command(
    config: str,
    model: str | None,
    source: str | None,
    broker: str | None,
    device: str,
    state_dir: str,
    save_bundle: str | None,
    log_format: str,
    verbose: bool,
    **given: Any,
) -> None:
    """Run the pipelines of CONFIG (default: edge.toml) until they end or are stopped.

    With --model and --source no CONFIG is needed: the model is recognised, what is assumed of it is
    said on standard error, and the other options override it (`edge inspect MODEL` shows it all).

    SIGTERM and Ctrl-C stop it in order: pipelines end, the outbox is written, sinks get
    device.drain_s to deliver it. A second one stops at once. What is not delivered stays in the
    outbox. An agent that dies is restarted with back-off; use --no-supervise under systemd or in
    a container.
    """
    logs.configure(log_format, verbose=verbose)
    if model is None:
        _refuse_without_model(source, broker, device, save_bundle, given)
        loaded = configuration.load(config)
    else:
        if source is None:
            raise ConfigError("--model needs a --source: a camera, a video, pictures or samples")
        loaded = _config(Path(model), source, broker, device=device, state_dir=state_dir)
    bundles = {}
    if model is not None:
        bundles[loaded.pipelines[0].name] = _recognize(model, save_bundle, given)
    stop = stop_on_signals()
    from edge.agent import Agent
    from edge.engines import deaths

    deaths.arm(Path(loaded.device.state_dir))
    agent = Agent(loaded, bundles=bundles)
    gc.freeze()  # what stands now stands for good, and need not be looked through again and again
    gc.enable()
    board.give_back_memory()
    agent.run(stop)


def _recognize(model: str, save_bundle: str | None, given: dict[str, Any]) -> Bundle:
    """The model as a bundle. What is assumed of it is said, and the bundle saved, by the first
    agent, and not again by one that was started in its place."""
    from edge.recognize.bundles import recognize_file, save

    if supervisor.start > 1 and save_bundle and Path(save_bundle).exists():
        return Bundle.open(save_bundle)
    recognition, bundle = recognize_file(model, model_options.hints_of(given))
    if supervisor.start <= 1:
        model_options.show(recognition, err=True)
        if save_bundle:
            return save(bundle, Path(save_bundle))
    return bundle


def _refuse_without_model(
    source: str | None,
    broker: str | None,
    device: str,
    save_bundle: str | None,
    given: dict[str, Any],
) -> None:
    """An option for a model is a mistake where an edge.toml says it all."""
    named = {"--source": source, "--broker": broker, "--device": device}
    named |= {"--save-bundle": save_bundle}
    used = [name for name, value in named.items() if value]
    used += [f"--{name.replace('_', '-')}" for name in model_options.NAMES if given[name]]
    if used:
        raise ConfigError(f"{', '.join(used)}: only together with --model; else edge.toml says it")


def _config(model: Path, source: str, broker: str | None, *, device: str, state_dir: str) -> Config:
    """What edge.toml would say of one model on one source."""
    sink = {"type": "mqtt", "url": broker} if broker else {"type": "jsonl"}
    document: dict[str, Any] = {
        "device": {"state_dir": state_dir, **({"id": device} if device else {})},
        "pipeline": [
            {
                "name": model_options.name_of(model),
                "bundle": str(model),
                "source": model_options.source_of(source),
            }
        ],
        "sink": [sink],
    }
    return configuration.parse(document, file=Path("edge run --model"), environ=os.environ)
