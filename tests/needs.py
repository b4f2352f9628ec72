"""The rule for what is missing on a machine: skipped at a desk, failed where CI forbids it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def missing(what: str) -> None:
    """A test, or a whole file of tests, cannot run here: skipped at a desk, failed in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; with CI=true nothing may skip")
    pytest.skip(what, allow_module_level=True)


def need_program(name: str) -> str:
    """The path of a program; see `missing`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        missing(f"{name} is not installed")
        raise AssertionError  # not reached
    return found


def need_module(name: str) -> None:
    """A package that has to be installed; see `missing`."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        missing(f"the package {name} is not installed")
