"""Disks that fill up and fail: whatever call fails, the job resumes, and what was committed is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The library that makes calls fail."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


def trials(shim, folder, format, errors):
    done = subprocess.run(
        [sys.executable, HERE.parent / "fault_driver.py", shim, folder, format, errors],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_call_may_fail_and_the_job_resumes(shim, tmp_path):
    found = trials(shim, tmp_path, "csv", "some")

    assert found["problems"] == []
    assert found["calls"] > 50
    assert found["outcomes"]["74"] > 8


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "csv.gz", "jsonl", "parquet"])
def test_every_call_may_fail_in_two_ways_and_for_every_format(shim, tmp_path, format):
    found = trials(shim, tmp_path, format, "both")

    assert found["problems"] == []
    assert 2 * found["calls"] == sum(found["outcomes"].values())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system_leaves_a_job_that_resumes_when_there_is_room(batches, work):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", work], check=False).returncode:
        pytest.skip("mount is refused")
    try:
        batch = batches()
        batch.write("rows.csv", "id,text\n" + "".join(f"{n},Review {n} of a shop.\n" for n in range(2000)))

        full = batch.run("rows.csv", "out.csv")
        subprocess.run(["mount", "-o", "remount,size=8m", work], check=True)
        done = batch.run("rows.csv", "out.csv")

        assert full.code == 74
        assert "resume with the same command" in full.stderr
        assert done.code == 0
        assert batch.read("out.csv").count("\n") == 2001
        assert batch.names() == ["out.csv", "rows.csv"]
    finally:
        subprocess.run(["umount", work], check=True)
