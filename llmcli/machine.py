"""
What this machine offers: processor cores and memory that this process may use.

Read from the operating system; nothing here is cached, and nothing is installed for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
"""Where /proc and /sys are; a test has its own."""


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may run on: its affinity, and the quota of its control groups."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets by Linux's names, such as avx2; elsewhere none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split()[2:] for line in lines if line.startswith("flags")), ()))


def total_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(root: Path = ROOT) -> int:
    """
    Bytes that can be taken without swapping; within a container or another limited group, of its share.

    Linux says so itself (MemAvailable); elsewhere half of the machine's memory is assumed.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return total_memory() // 2
    return max(0, min([available, *_left_in_groups(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """How many cores each control group lets its processes fill, rounded down."""
    for folder, version in _groups(root, "cpu"):
        with suppress(OSError, ValueError):  # no file, or "max"
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (
                    int((folder / f"cpu.cfs_{one}_us").read_text()) for one in ("quota", "period")
                )
            if quota > 0:  # version 1 says -1 for no limit
                yield quota // period


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the limit of each control group leaves, in bytes."""
    for folder, version in _groups(root, "memory"):
        limit, used = (
            ("memory.max", "memory.current")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        with suppress(OSError, ValueError):  # no file, or "max"
            yield int((folder / limit).read_text()) - int((folder / used).read_text())


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """
    The control group of this process and those above it: folder, and version of the interface.

    cgroup-v2.rst and cgroup-v1/ of Linux's documentation name the files in them.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.lstrip("/")  # of the host, where a container does not see it
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder, 1 if controllers else 2
