"""Large inputs: memory that does not grow, time that does not either."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "rows.py"


def measure(folder, rows, format="csv"):
    command = [sys.executable, BENCHMARK, "--rows", str(rows), "--format", format]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_stays_small(tmp_path):
    assert measure(tmp_path, 2000)["peak_mib"] < 100


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_a_tenth_of_them(tmp_path):
    few, many = measure(tmp_path, 100_000), measure(tmp_path, 1_000_000)
    print(few, many)

    assert many["peak_mib"] < 300
    assert many["peak_mib"] <= 1.05 * few["peak_mib"]
    assert many["overhead_cpu_us_per_row"] <= 150


PEAK = """
import resource, sys
from llmcli.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


@pytest.mark.slow
def test_ten_gigabytes_with_rows_of_any_length_take_less_than_300_mib(tmp_path, script, llm_env):
    """A gzip file that unpacks to 10 GB: rows far beyond the limit between good ones."""
    with gzip.open(tmp_path / "rows.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"id,text\n")
        monster = b"x" * (1 << 20)
        for number in range(100):
            file.write(f"{number},Review {number}\n{number},".encode())
            for _ in range(100):
                file.write(monster)
            file.write(b"\n")
    out = tmp_path / "out.csv"
    arguments = ["sentiment", tmp_path / "rows.csv.gz", "-m", script(scores="hash"), "-o", out]

    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments, "--max-errors", "1000", "-q"],
        env={**os.environ, **llm_env},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 3, done.stderr
    assert int(done.stderr.split()[-1]) < 300
    assert len(out.read_text().splitlines()) == 201
