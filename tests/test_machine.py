"""What a machine offers, read from a /proc and a /sys of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcli.machine import free_memory, usable_cores

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path):
    """A machine with 4096 MiB free, whose files the test names."""

    def write(**files: str) -> Path:
        for name, text in {"proc/meminfo": f"MemAvailable: {4096 * 1024} kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_the_narrowest_control_group_counts(root):
    machine = root(**{
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": str(1000 * MIB),
        "sys/fs/cgroup/outer/memory.current": str(400 * MIB),
        "sys/fs/cgroup/outer/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
    })  # fmt: skip

    assert free_memory(machine) == 600 * MIB
    assert usable_cores(machine) == 1


def test_groups_of_version_1_are_seen_from_within_a_container(root):
    machine = root(**{
        "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(500 * MIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(100 * MIB),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    })  # fmt: skip

    assert free_memory(machine) == 400 * MIB
    assert usable_cores(machine) == 1


def test_without_limits_it_is_what_the_machine_has(root):
    machine = root(**{
        "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    })  # fmt: skip

    assert free_memory(machine) == 4096 * MIB
    assert usable_cores(machine) == usable_cores(machine / "nowhere") >= 1


def test_a_group_over_its_limit_leaves_nothing(root):
    machine = root(**{
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": str(MIB),
        "sys/fs/cgroup/memory.current": str(2 * MIB),
        "sys/fs/cgroup/cpu.max": "20000 100000",
    })  # fmt: skip

    assert free_memory(machine) == 0
    assert usable_cores(machine) == 1
