"""What a machine offers, read from a /proc and a /sys of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcli.machine import free_memory, usable_cores

MIB = 1 << 20
HERE = usable_cores(Path("nowhere"))


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


@pytest.mark.parametrize(
    ("files", "memory", "cores"),
    [
        pytest.param(
            {
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/memory.max": str(1000 * MIB),
                "sys/fs/cgroup/outer/memory.current": str(400 * MIB),
                "sys/fs/cgroup/outer/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/outer/inner/memory.max": "max\n",
                "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            },
            600 * MIB, 1, id="the narrowest of nested groups",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(500 * MIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(100 * MIB),
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            400 * MIB, 1, id="version 1, from within a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4096 * MIB, HERE, id="no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": str(MIB),
                "sys/fs/cgroup/memory.current": str(2 * MIB),
                "sys/fs/cgroup/cpu.max": "20000 100000",
            },
            0, 1, id="over the limit",
        ),
    ],
)  # fmt: skip
def test_the_limits_of_control_groups_count(root, files, memory, cores):
    machine = root(**files)

    assert free_memory(machine) == memory
    assert usable_cores(machine) == cores
