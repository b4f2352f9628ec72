"""The README cannot lie: its blocks are run, and its tables are held against the code.

Every block of code in it is marked by a comment in the line before: `<!-- test: run -->`,
`<!-- test: config -->` (an edge.toml), `<!-- test: source -->` (the table of a source),
`<!-- test: event -->`, or `<!-- test: no, because … -->`. So is edge/sources/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import ROOT, need_module

import edge as public
from convert.errors import ConversionError
from edge import config as configuration
from edge import errors, seams
from edge.cli import __doc__ as cli_text

from .running import edge

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = (ROOT / "edge/sources/README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^(?:<!-- test: (.+?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"--[a-z][a-z-]+")


@dataclasses.dataclass(frozen=True)
class Block:
    file: str
    line: int
    mark: str
    language: str
    text: str


BLOCKS = [
    Block(file, text.count("\n", 0, found.start()) + 1, found[1] or "", found[2], found[3])
    for file, text in {"README.md": README, "edge/sources/README.md": SOURCES}.items()
    for found in _BLOCK.finditer(text)
]


def _marked(mark: str) -> list[object]:
    return [
        pytest.param(block, id=f"{block.language}, {block.file}:{block.line}")
        for block in BLOCKS
        if block.mark == mark
    ]


def test_every_block_is_tested_or_says_why_not() -> None:
    assert len(BLOCKS) == (README + SOURCES).count("\n```") / 2
    for block in BLOCKS:
        reason = re.fullmatch(r"no, because \S.+", block.mark)
        tested = block.mark in {"run", "config", "source", "event"}
        assert tested or reason, f"{block.file}:{block.line}: a block without its mark"


@pytest.mark.parametrize("block", _marked("run"))
def test_blocks_run(block: Block, tmp_path: Path) -> None:
    commands = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [*commands[block.language], block.text],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stderr


@pytest.mark.parametrize("block", _marked("config"))
def test_configs_are_accepted(block: Block, tmp_path: Path) -> None:
    _load(block, tmp_path)


@pytest.mark.parametrize("block", _marked("source"))
def test_sources_are_accepted(block: Block, tmp_path: Path) -> None:
    head = '[[pipeline]]\nname = "p"\nbundle = "builtin:wrist_activity"\n'
    tail = '\n[[sink]]\ntype = "jsonl"\npath = "events.jsonl"\n'
    _load(dataclasses.replace(block, text=head + block.text + tail), tmp_path)


def _load(block: Block, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(block.text)
    secrets = dict.fromkeys(re.findall(r"\$\{(\w+)\}", block.text), "word")
    configuration.load(tmp_path / "edge.toml", secrets)


@pytest.mark.parametrize("block", _marked("event"))
def test_events_keep_to_the_schema(block: Block) -> None:
    need_module("jsonschema")
    import jsonschema

    jsonschema.Draft202012Validator(json.loads(edge("event-schema").out)).validate(
        json.loads(block.text)
    )


def test_the_table_of_commands_is_the_help() -> None:
    rows = dict(_table("command"))
    named = {code.split()[1] for cell in rows for code in _CODE.findall(cell)}
    listing = edge("--help").out.partition("Commands:")[2]
    assert named == {line.split()[0] for line in listing.splitlines() if line.startswith("  ")}
    helps = {command: _help(command) for command in sorted(named)}
    for cell, text in rows.items():
        (command, *_) = (code.split()[1] for code in _CODE.findall(cell))
        assert [o for o in _OPTION.findall(text) if o not in helps[command]] == [], command
    (sentence,) = re.findall(r"^(.+) take `--json`\.$", README, re.MULTILINE)
    with_json = {command for command, options in helps.items() if "--json" in options}
    assert {*_CODE.findall(sentence)} == with_json
    inline = _OPTION.findall(" ".join(_CODE.findall(_BLOCK.sub("", README))))
    assert [o for o in inline if not any(o in options for options in helps.values())] == []


def _help(command: str) -> set[str]:
    ended = edge(command, "--help")
    assert ended.code == 0 and ended.out.startswith("Usage: ")
    return {*_OPTION.findall(ended.out)}


def test_the_public_names_are_these_and_few() -> None:
    (paragraph,) = re.findall(r"^Public names: (.+?)\n\n", README, re.MULTILINE | re.DOTALL)
    assert {*_CODE.findall(paragraph)} == {*public.__all__}
    assert len(public.__all__) == len({*public.__all__}) <= 20
    assert all(getattr(public, name).__module__.startswith("edge.") for name in public.__all__)


def test_importing_edge_and_all_its_names_brings_no_library_of_an_adapter() -> None:
    program = (
        "import sys, edge; [getattr(edge, name) for name in edge.__all__];"
        "print(*(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    heavy = {"cv2", "click", "rich", "onnxruntime", "ai_edge_litert", "paho", "amqtt", "convert"}
    assert heavy & {*done.stdout.decode().split()} == set()


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    rows = {int(cell): text for cell, text in _table("exit code")}
    kinds = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.EdgeError)
    ]
    for error in [*kinds, ConversionError]:
        if error.exit_code > 1:
            assert rows[error.exit_code].startswith(error.__name__), error
    codes = re.findall(r"\b(\d+) [a-zC]", cli_text.partition("Exit codes:")[2])
    assert {*map(int, codes)} == rows.keys()


@pytest.mark.parametrize("seam", ["sources", "rules"])
def test_the_tables_of_adapters_are_complete(seam: str) -> None:
    named = {code for cell, _ in _table(seam) for code in _CODE.findall(cell)}
    assert named == {*seams.names(seam)}


@pytest.mark.parametrize("kind", ["camera", "sensor"])
def test_the_options_of_every_source_are_named(kind: str) -> None:
    for cell, _ in _table(kind, SOURCES):
        for name in _CODE.findall(cell):
            options = seams.find("sources", name).Config.__struct_fields__
            assert [key for key in options if f"`{key}`" not in SOURCES] == [], name


@pytest.mark.parametrize("file", ["README.md", "edge/sources/README.md"])
def test_every_link_leads_somewhere(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links and [link for link in links if not ((ROOT / file).parent / link).exists()] == []


@pytest.mark.parametrize("model", ["meter_reader", "wrist_activity"])
def test_the_readme_of_a_model_shows_what_its_bundle_says(model: str) -> None:
    text = (ROOT / f"models/{model}/README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- variants -->\n(.+?)<!-- /variants -->", text, re.DOTALL)
    inspected = edge("inspect", f"models/{model}/bundle", "--markdown", cwd=ROOT)
    assert inspected.code == 0 and inspected.out.strip() == table.strip()


def _table(head: str, text: str = README) -> list[tuple[str, str]]:
    """First and last cell of each row of the table whose head begins with this."""
    lines = text.partition(f"\n| {head} |")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.append((cells[0], cells[-1]))
    assert rows, f"there is no table with the head {head}"
    return rows
