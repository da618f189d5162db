"""What this machine offers."""

from __future__ import annotations

import os
from pathlib import Path

from fedkube.core import accelerators
from fedkube.planner.machine import Machine


def look() -> Machine:
    """Cores that we may use, memory, GPUs."""
    return Machine(cores=cores(), memory_bytes=memory(), gpus=gpus())


def cores() -> int:
    """Cores this process may run on, a container's quota counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(Path("/sys/fs/cgroup"))
    return max(1, min(allowed or 1, quota or allowed or 1))


def memory() -> int:
    """Installed memory in bytes, or a container's limit where that is lower."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(Path("/sys/fs/cgroup") / name)
        if limit is not None:
            return min(installed, limit)
    return installed


def gpus() -> tuple[str, ...]:
    """Ids of the CUDA devices that we may use, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(each for each in visible.split(",") if each.strip() not in ("", "-1"))
    return accelerators.ids()


def _quota(root: Path) -> int | None:
    """CPUs that the cgroup grants, of either version; None for no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        found = _number(root / "cpu/cpu.cfs_quota_us"), _number(root / "cpu/cpu.cfs_period_us")
        if found[0] is None or not found[1] or found[0] <= 0:
            return None
        return max(1, found[0] // found[1])
    return None if quota == "max" else max(1, int(quota) // int(period))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
