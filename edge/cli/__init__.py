"""The command `edge`: one file a command, loaded when it is used.

Commands are found in the table below and in the entry points `edge.commands`. Exit codes: 0 done,
1 unexpected, 2 configuration or usage, 3 bundle, 4 source, 5 engine, 6 sink, 7 outbox,
8 conversion, 9 an engine went bad at work, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from edge.errors import ConfigError, EdgeError
from edge.signals import interrupt_between_imports

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMMANDS = {
    "check": "edge.cli.check",
    "completion": "edge.cli.completion",
    "config-schema": "edge.cli.schemas:config_schema",
    "demo": "edge.cli.demo",
    "doctor": "edge.cli.doctor",
    "event-schema": "edge.cli.schemas:event_schema",
    "init": "edge.cli.init",
    "inspect": "edge.cli.inspect",
    "run": "edge.cli.run",
    "status": "edge.cli.status",
    "tune": "edge.cli.tune",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *(point.name for point in _installed())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is not None:
            module, _, attribute = place.partition(":")
            command: click.Command = getattr(
                importlib.import_module(module), attribute or "command"
            )
            return command
        for point in _installed():
            if point.name == cmd_name:
                loaded: click.Command = point.load()
                return loaded
        return None


def _installed() -> tuple[EntryPoint, ...]:
    import importlib.metadata

    return tuple(importlib.metadata.entry_points(group="edge.commands"))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgewright", prog_name="edge")
def edge() -> None:
    """From a trained model to a fleet of small devices."""


def main(command: click.Command = edge) -> None:
    """Run the command line; ends the process with the documented exit code."""
    code = _run(command)
    stream = sys.modules.get("edge.sources.stream")
    if stream is not None and stream.readers_left():
        # One that comes back from a driver while Python takes itself down would abort the process.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(command: click.Command) -> int:
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see __main__
            interrupt_between_imports()
        # click returns the code of `Exit` here, instead of raising it
        code = command.main(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgeError as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        for problem in problems:
            click.echo(f"edge: {problem}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("EDGE_DEBUG"):
            import traceback

            traceback.print_exc()
        click.echo(
            f"edge: unexpected {type(error).__name__}: {error}"
            " (a bug; EDGE_DEBUG=1 shows where it happened)",
            err=True,
        )
        return 1
