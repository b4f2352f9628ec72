"""Fixtures for an image that runs under emulation: its network, its broker, its state.

These tests run from `make image-test`, which names the image in EDGE_IMAGE; elsewhere only those of
the checks themselves are collected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "deploy/image/check")]

from container import Container  # noqa: E402 - after the path
from loopback import Broker, Network  # noqa: E402

if "EDGE_IMAGE" not in os.environ:
    collect_ignore = ["test_image_build.py", "test_image_runs.py"]

CPUS = os.environ.get("EDGE_IMAGE_CPUS", "cortex-a53 cortex-a76").split()


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image under test."""
    return os.environ["EDGE_IMAGE"]


@pytest.fixture(scope="session")
def profile(image: str) -> str:
    """The profile of the image under test."""
    return image.rpartition(":")[2]


@pytest.fixture(params=CPUS)
def cpu(request: pytest.FixtureRequest) -> str:
    """The processor that is emulated."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def network(image: str) -> Iterator[Network]:
    """A network of its own with nothing but loopback, for containers and the broker."""
    with Network() as network:
        yield network


@pytest.fixture
def broker(network: Network, tmp_path: Path) -> Iterator[Broker]:
    """mosquitto with TLS on that loopback, not yet started."""
    with Broker(network, tmp_path) as broker:
        yield broker


@pytest.fixture
def container(image: str, network: Network, broker: Broker, tmp_path: Path) -> Iterator[Container]:
    """The hardened container, with a volume for its state and a read-only /etc/edgewright."""
    container = Container(image, network, tmp_path)
    (container.config / "ca.pem").write_bytes(broker.ca.read_bytes())
    with container:
        yield container
