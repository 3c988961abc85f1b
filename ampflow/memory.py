"""How much memory this process may use."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import psutil

__all__ = ["fair_share", "free_memory"]

_CGROUPS = Path("/sys/fs/cgroup")


def fair_share() -> int:
    """Return half of a core's share of the memory, in bytes: one training uses one core."""
    return _limit() // (2 * _cores())


def free_memory() -> int:
    """Return how much this process can still get, in bytes."""
    used = psutil.Process().memory_info().rss
    return max(min(psutil.virtual_memory().available, _limit() - used), 0)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limit() -> int:
    """Return the least of the machine's memory, its batch job's and the process's own."""
    found = [psutil.virtual_memory().total, *_cgroup_limits()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    return min(found)


def _cgroup_limits() -> list[int]:
    """Return the limits of the control groups that the process is in, versions 1 and 2."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal():  # "max": none
                found.append(int(text))
    return found
