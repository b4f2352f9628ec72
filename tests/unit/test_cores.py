"""How many cores there are for us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge import cores as module
from edge.cores import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5, 6, 7})
    monkeypatch.setattr(module, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(module, "_OURS", tmp_path / "ours")
    return tmp_path


def group(groups: Path, name: str, **files: str) -> None:
    folder = groups / "groups" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)


def test_without_a_quota_it_is_the_affinity(groups: Path) -> None:
    assert cores() == 8
    (groups / "ours").write_text("0::/\n1:cpu:/\n")
    group(groups, "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cores() == 8


@pytest.mark.parametrize(
    ("quota", "count"), [("250000", 2), ("100000", 1), ("50000", 1), ("max", 8)]
)
def test_a_quota_is_counted_in_whole_cores(groups: Path, quota: str, count: int) -> None:
    (groups / "ours").write_text("0::/a/b\n")
    group(groups, "a/b", cpu__max=f"{quota} 100000\n")
    assert cores() == count


def test_every_group_above_counts_too(groups: Path) -> None:
    (groups / "ours").write_text("0::/a/b\n")
    group(groups, "a", cpu__max="300000 100000\n")
    group(groups, "a/b", cpu__max="600000 100000\n")
    assert cores() == 3


def test_in_a_container_the_quota_is_at_the_root_that_it_sees(groups: Path) -> None:
    (groups / "ours").write_text("4:cpu,cpuacct:/docker/4711\n")
    group(groups, "cpu,cpuacct", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert cores() == 2
