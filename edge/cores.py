"""How many cores this process may use: by its affinity, and by the quota of its control groups.

ONNX Runtime asks for neither of the two. A share of a core is not counted: a thread more than the
quota pays for only waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")


def cores() -> int:
    """At least 1."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _quotas())]))


def _quotas() -> Iterator[float]:
    """Cores that the control groups of this process allow, version 2 and 1, each up to its root."""
    for hierarchy, group in _groups():
        # In a container the group's own name is not below the root that it sees.
        for folder in (group, *group.parents):
            try:
                yield _quota(_GROUPS / hierarchy / str(folder).lstrip("/"))
            except (OSError, ValueError, ZeroDivisionError):
                continue


def _groups() -> Iterator[tuple[str, Path]]:
    try:
        lines = _OURS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, Path(group)


def _quota(folder: Path) -> float:
    """ValueError where there is none."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
    if int(quota) < 0:
        raise ValueError("no quota")
    return int(quota) / int(period)
