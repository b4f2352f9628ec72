"""The table of convert/README.md is what comes out when its models are really converted.

A few kinds a day, others every day; `make convert-table` converts all of them.
"""

from __future__ import annotations

import datetime
import re
import shlex
from pathlib import Path

import click
import pytest
import table
import zoo

from convert import cli, compare_cli, env_cli

README = table.README.read_text(encoding="utf-8")
COMMANDS = {
    "convert": cli.convert,
    "compare": compare_cli.compare,
    "convert-env": env_cli.convert_env,
}
QUICK = [name for name, kind in zoo.KINDS.items() if not kind.slow]
SLOW = [name for name, kind in zoo.KINDS.items() if kind.slow]
EVERY = 5
"""Days between two slow kinds."""


def of_day(day: int) -> list[str]:
    """Four quick kinds, and now and then a slow one."""
    chosen = [QUICK[(4 * day + place) % len(QUICK)] for place in range(4)]
    return chosen + ([SLOW[day // EVERY % len(SLOW)]] if day % EVERY == 0 else [])


def test_every_kind_has_its_turn() -> None:
    span = EVERY * max(len(SLOW), len(QUICK))
    assert {kind for day in range(span) for kind in of_day(day)} == set(zoo.KINDS)


def test_the_table_has_a_row_for_every_kind_and_a_reason_for_every_no() -> None:
    assert list(table.read(README)) == list(zoo.KINDS)
    inside = README.partition(table.BEGIN)[2].partition(table.END)[0]
    named = {int(number) for number in re.findall(r"(?:refused|no way) \((\d+)\)", inside)}
    listed = [int(number) for number in re.findall(r"^(\d+)\. \S", inside, flags=re.MULTILINE)]
    assert listed == sorted(named) == list(range(1, len(named) + 1))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", of_day(datetime.datetime.now(datetime.UTC).toordinal()))
def test_the_table_is_what_comes_out_today(kind: str, converters: None) -> None:
    assert table.differences(kind, table.convert(kind), table.read(README)[kind]) == []


def test_another_verdict_or_a_larger_error_is_a_difference() -> None:
    cell, row = table.Cell, dict.fromkeys(table.COLUMNS, table.Cell(verdict="ok", error=0.01))
    assert table.differences("cnn", row, row) == []
    assert table.differences("cnn", {**row, "onnx-int8": cell(verdict="ok", error=0.02)}, row) == []
    for other in (cell(verdict="ok", error=0.15), cell(verdict="refused", reason="why")):
        (line,) = table.differences("cnn", {**row, "onnx-int8": other}, row)
        assert line.startswith("cnn, onnx-int8: ok 0.01 stands in the table, ")
    noise = dict.fromkeys(table.COLUMNS, cell(verdict="ok", error=6e-8))
    assert table.differences("cnn", noise, {**noise, "onnx-fp32": cell(verdict="ok")}) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [(0, "0"), (6.3e-8, "6e-8"), (0.00052, "5e-4"), (0.0123, "0.01"), (0.96, "1")],
)
def test_errors_are_told_by_one_digit(error: float, text: str) -> None:
    assert table.write({"cnn": dict.fromkeys(table.COLUMNS, table.Cell(verdict="ok", error=error))})
    assert table._digit(error) == text


def _commands() -> list[list[str]]:
    """Every command of the code blocks, its words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", README, flags=re.MULTILINE)
    lines = "\n".join([*blocks, *indented]).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip().startswith("edge ")]


def test_the_commands_of_the_guide_have_only_options_that_exist() -> None:
    commands = _commands()
    assert len(commands) >= 8
    for _, name, *words in commands:
        command = COMMANDS[name]
        try:
            # Parses and checks every option and choice, and runs nothing.
            command.make_context(name, list(words))
        except click.ClickException as error:
            pytest.fail(f"{name} {shlex.join(words)}: {error.format_message()}")


def test_the_guide_names_files_that_are_there() -> None:
    folder = Path(table.README).parent
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (folder / name).exists(), name
