"""What all tests share: the committed bundles and a broker. Missing programs: see needs.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from broker import Mosquitto

from needs import ROOT

# Needs an environment of its own: see the Makefile.
collect_ignore = [] if os.environ.get("EDGE_OPENVINO") else ["on_openvino"]


@pytest.fixture
def wrist_bundle() -> Path:
    """The committed bundle of models/wrist_activity: small, windows, classify."""
    return ROOT / "models/wrist_activity/bundle"


@pytest.fixture
def meter_bundle() -> Path:
    """The committed bundle of models/meter_reader: pictures, detect."""
    return ROOT / "models/meter_reader/bundle"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A fresh broker that lets everybody in and keeps nothing. Others are made by hand."""
    from broker import Mosquitto

    with Mosquitto(tmp_path) as broker:
        yield broker
