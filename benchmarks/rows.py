"""
What rows, journal and output cost beside the model: seconds a row, and memory.

    python benchmarks/rows.py                      # 100,000 and 1,000,000 rows, scripted engine
    python benchmarks/rows.py --rows 20000         # one size
    python benchmarks/rows.py --format jsonl
    python benchmarks/rows.py --model starter --input reviews.csv --field body    # the command, end to end

Each size runs in a process of its own (`llmcli.rows.runner.run_rows`, as the command does). The overhead is
the whole run's time less that of the same texts through `run_tasks` alone, which is what the engine and
the template take. The machine must be otherwise idle; the load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SENTENCES = (
    "The parcel came two days late and the box was open.",
    "Works as described, I would buy it again.",
    "It is a phone.",
    "Battery life is a joke, but the screen is lovely.",
)


def write_rows(path: Path, rows: int) -> None:
    """A file of distinct short reviews; the format by its ending."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            file.write("id,text,stars\n")
        for number in range(rows):
            text = f"{SENTENCES[number % 4]} Order {number * 7919 % 1_000_003}, shop {number}."
            if path.suffix == ".csv":
                file.write(f'{number},"{text}",{number % 5 + 1}\n')
            else:
                file.write(json.dumps({"id": number, "text": text, "stars": number % 5 + 1}) + "\n")


def run_once(folder: Path, format: str) -> dict[str, float]:
    """In a process of its own: the whole run, then the engine alone."""
    from llmcli.cli.environment import from_system
    from llmcli.engines.base import EngineOptions
    from llmcli.engines.scripted import open_engine
    from llmcli.messages import Sampling
    from llmcli.rows.runner import Job, RowOptions, run_rows
    from llmcli.tasks import run_tasks
    from llmcli.templates import Template

    template = Template("sentiment", "", "{{ text }}", labels=("positive", "negative"), mode="label")
    engine = open_engine(str(folder / "script.json"), EngineOptions())
    source = folder / f"rows.{format}"
    begun, used = time.perf_counter(), time.process_time()
    job = Job(template, {}, Sampling(), model="scripted")
    run_rows(job, RowOptions(source=source, output=folder / f"out.{format}"), engine, from_system())
    whole, cpu = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    rows = sum(1 for _ in source.open("rb")) - (format == "csv")
    texts = (f"{SENTENCES[n % 4]} Order {n * 7919 % 1_000_003}, shop {n}." for n in range(rows))
    begun, used = time.perf_counter(), time.process_time()
    for _ in run_tasks(template, texts, engine, {}, Sampling()):
        pass
    alone, cpu_alone = time.perf_counter() - begun, time.process_time() - used
    return {
        "rows": rows,
        "seconds": round(whole, 2),
        "engine_seconds": round(alone, 2),
        "overhead_us_per_row": round((whole - alone) / rows * 1e6, 1),
        "overhead_cpu_us_per_row": round((cpu - cpu_alone) / rows * 1e6, 1),
        "peak_mib": round(peak, 1),
    }


def measure(rows: int, format: str) -> dict[str, float]:
    """One size, in a fresh process and folder."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        write_rows(folder / f"rows.{format}", rows)
        (folder / "script.json").write_text(json.dumps({"default": {"positive": 0.7, "negative": 0.3}}))
        done = subprocess.run(
            [sys.executable, __file__, "--once", str(folder), "--format", format],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def end_to_end(model: str, source: Path, options: list[str]) -> dict[str, object]:
    """`llm sentiment FILE -m MODEL -o …` as a user runs it; peak memory is that of its largest process."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        output = Path(name) / "out.csv"
        llm = [sys.executable, "-m", "llmcli", "sentiment", source, "-m", model, "-o", output, "-v", *options]
        begun = time.perf_counter()
        done = subprocess.run(llm, stderr=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - begun
        rows = sum(1 for _ in output.open("rb")) - 1 if output.exists() else 0
    return {
        "exit_code": done.returncode,
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "said": done.stderr.splitlines(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--format", choices=["csv", "jsonl"], default="csv")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", help="a real one, for --input")
    parser.add_argument("--input", type=Path, help="a table of real texts; other options go to the command")
    given, options = parser.parse_known_args()
    if given.once:
        print(json.dumps(run_once(given.once, given.format)))
        return
    print("load:", *(f"{load:.2f}" for load in os.getloadavg()))
    if given.input:
        print(json.dumps(end_to_end(given.model or "starter", given.input, options), indent=2))
        return
    for rows in given.rows or (100_000, 1_000_000):
        print(json.dumps(measure(rows, given.format)), flush=True)


if __name__ == "__main__":
    main()
