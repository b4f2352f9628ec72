"""`edge fleet`: what runs beside the broker."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from edge.cli import logs, tables
from edge.errors import ConfigError, EdgeError
from edge.fleet.store import SqliteStore, totals
from edge.signals import stop_on_signals


@click.group("fleet")
def fleet() -> None:
    """Beside the broker: receive events into a database, and account for every one of them."""


@fleet.command("ingest")
@click.option("--broker", metavar="URL", required=True, help="mqtt://host or mqtts://host.")
@click.option("--db", default="fleet.db", show_default=True, type=click.Path(path_type=Path))
@click.option("--mqtt-version", type=click.Choice(["5", "3.1.1"]), default="5", show_default=True)
@click.option("--prefix", default="edge/v1", show_default=True, help="Start of devices' topics.")
@click.option(
    "--group", default="edgewright", show_default=True, help="Ingests that share the load."
)
@click.option("--busy-s", default=5.0, show_default=True, help="Wait for a locked database.")
@click.option("--username", default="")
@click.option("--password-file", type=click.Path(path_type=Path))
@click.option("--ca", type=click.Path(path_type=Path), help="CA certificate of the broker.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
def ingest(
    broker: str,
    db: Path,
    mqtt_version: str,
    prefix: str,
    group: str,
    busy_s: float,
    username: str,
    password_file: Path | None,
    ca: Path | None,
    log_format: str,
) -> None:
    """Store the events of all devices in a SQLite file, without duplicates.

    Devices whose sink says confirm = "ingest" keep every event until it is committed here. Several
    ingests on one file share the load (MQTT 5). SIGTERM and Ctrl-C stop it; nothing is lost by it.
    """
    logs.configure(log_format)
    from edge.fleet.ingest import Ingest
    from edge.mqtt import BrokerConfig

    try:
        config = msgspec.convert(
            {
                "url": broker,
                "version": mqtt_version,
                "prefix": prefix,
                "username": username,
                "password_file": password_file,
                "ca": ca,
            },
            BrokerConfig,
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"--broker: {error}") from error
    stop = stop_on_signals()
    store = SqliteStore(db, busy_s=busy_s)
    try:
        Ingest(config, store, group=group).run(stop)
    finally:
        store.close()


@fleet.command("ledger")
@click.option("--db", default="fleet.db", show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def ledger(db: Path, as_json: bool) -> None:
    """Account for every event: captured = stored + declared lost + unexplained.

    Exit code 1 when something is unexplained: still in a device's outbox, or lost.
    """
    if not db.is_file():
        raise ConfigError(f"{db}: no such file; `edge fleet ingest` writes it")
    store = SqliteStore(db)
    try:
        accounts, days, poisoned = store.accounts(), store.days(), store.poisoned()
    finally:
        store.close()
    sums = totals(accounts)
    if as_json:
        answer = {
            **sums,
            "poisoned": poisoned,
            "devices": msgspec.to_builtins(accounts),
            "days": msgspec.to_builtins(days),
        }
        click.echo(json.dumps(answer))
    else:
        tables.show(
            ["device", "day", "stored", "declared", "duplicates removed"],
            [[r.device, r.day, str(r.stored), str(r.declared), str(r.duplicates)] for r in days],
        )
        click.echo()
        tables.show(
            ["device", "epoch", "captured", "stored", "declared", "unexplained"],
            [
                [a.device, a.epoch, *map(str, (a.captured, a.stored, a.declared, a.unexplained))]
                for a in accounts
            ],
        )
        click.echo(f"\n{poisoned} messages kept aside")
    if sums["unexplained"]:
        raise EdgeError(f"{sums['unexplained']} events are unexplained")
