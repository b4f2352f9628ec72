"""`edge demo`: see a camera pipeline and a sensor pipeline report over MQTT."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edge.cli import logs, tables
from edge.errors import ConfigError, EdgeError
from edge.signals import stop_on_signals

PICTURE = "edge-demo.jpg"


@click.command("demo")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1, 86400))
@click.option("--broker", metavar="URL", help="A broker of yours: mqtt://host or mqtts://host.")
@click.option("--username", default="", help="User name for --broker.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Password for --broker.")
@click.option("--ca", type=click.Path(path_type=Path), help="CA certificate for --broker.")
@click.option("--headless", is_flag=True, help="No live table.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object.")
@click.option("--picture", default=PICTURE, show_default=True, type=click.Path(path_type=Path))
def command(
    seconds: float,
    broker: str | None,
    username: str,
    password_file: Path | None,
    ca: Path | None,
    headless: bool,
    as_json: bool,
    picture: Path,
) -> None:
    """Run two trained models on rendered input and report over MQTT, all on this machine.

    A meter before a camera is read by ONNX Runtime, the samples of a wrist are classified by
    LiteRT. A separate subscriber counts what arrives. Ctrl-C ends it early, with the summary.
    """
    logs.configure(quiet=True)
    from edge import demo

    stop = stop_on_signals()
    with ExitStack() as stack:
        sink: dict[str, Any] = {"url": broker, "username": username}
        if password_file is not None:
            sink["password_file"] = str(password_file.absolute())
        if ca is not None:
            sink["ca"] = str(ca.absolute())
        if broker is None:
            embedded = demo.Broker()
            embedded.start()
            stack.callback(embedded.close)
            sink = {"url": embedded.url}
        state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-demo-")))
        running = demo.start(state_dir, sink=sink)
        stack.callback(running.subscriber.close)
        if not as_json:
            click.echo(f"broker {sink['url']}, topics {demo.PREFIX}/{running.device}/#")
        live = not headless and not as_json and sys.stdout.isatty()
        _run(running, stop, seconds, live=live)
        summary = running.summary()
        summary["picture"] = demo.save_picture(running, picture)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _print(summary, running)
    if summary["events_missing"]:
        raise EdgeError(f"{summary['events_missing']} events did not arrive")


def _run(running: Any, stop: threading.Event, seconds: float, *, live: bool) -> None:
    """Run the demo; with a live table while it lasts where a person watches."""
    if not live:
        running.run(stop, seconds)
        return
    try:
        from rich.live import Live
    except ImportError as error:
        raise ConfigError("the live table needs rich; pip install 'edgewright[demo]'") from error
    failure: list[BaseException] = []

    def work() -> None:
        try:
            running.run(stop, seconds)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="demo")
    thread.start()
    with Live(refresh_per_second=4) as view:
        while thread.is_alive():
            view.update(tables.build(*_rows(running)))
            thread.join(0.25)
    if failure:
        raise failure[0]


def _rows(running: Any) -> tuple[list[str], list[list[str]]]:
    header = ["pipeline", "variant", "engine", "frames", "fps", "drops", "last event"]
    rows = []
    for figures in running.summary()["pipelines"]:
        rows.append(
            [
                figures["name"],
                figures["variant"],
                figures["engine"],
                str(figures["frames"]),
                f"{figures['fps']:.1f}",
                str(figures["drops"]),
                running.last_event(figures["name"]),
            ]
        )
    return header, rows


def _print(summary: dict[str, Any], running: Any) -> None:
    tables.show(*_rows(running))
    click.echo(
        f"\n{summary['events_sent']} events sent, {summary['events_received']} received by the"
        f" subscriber, {summary['events_missing']} missing,"
        f" {summary['events_duplicated']} duplicated"
    )
    if summary["picture"]:
        click.echo(f"last frame with its boxes: {summary['picture']}")
