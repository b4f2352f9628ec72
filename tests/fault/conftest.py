"""A stage for each test. At a desk these tests run by `make test-fault`: they take four minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need_module

from .stage import Stage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI") == "true" or os.environ.get("EDGE_FAULT"):
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="takes minutes at a desk; make test-fault"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    need_module("paho.mqtt")
    with Stage(tmp_path) as it:
        yield it
