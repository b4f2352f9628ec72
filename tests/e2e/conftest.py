"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .running import Running


@pytest.fixture
def agents() -> Iterator[list[Running]]:
    """Whatever is put in here does not outlive the test."""
    started: list[Running] = []
    yield started
    for agent in started:
        agent.kill_tree()
