"""
The engine beside its rivals: one table, from one run, the contestants in turn.

    python benchmarks/engine.py                      # everything, three rounds: some 40 minutes on 2 cores
    python benchmarks/engine.py --tasks labels share --rounds 1
    python benchmarks/engine.py --small              # a try-out of seconds; its figures mean nothing

Builds what is missing first (build_llama.py, make_model.py). In every round each contestant does each task
once, in a fresh process, one after the other; the table has the median of the rounds and the ratio to
ours. Nothing else may run meanwhile: the load is printed, and a busy machine is a warning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import build_llama
import make_model

from llmcli.engines.llama import process
from llmcli.models import gguf

HERE = Path(__file__).parent
STARTER = HERE.parent / "llmcli" / "models" / "starter" / "starter.gguf"
BUSY = 0.3  # a load above which figures are not worth much
RIVALS = (
    "ours",
    "llama_loop",
    "llama_loop_p",
    "llama_server -np 8",
    "llama_server -np 16",
    "batched_bench",
    "bare",
    "llama_bench",
)
ABLE: dict[str, tuple[str, ...]] = {
    "labels": ("ours", "llama_loop", "llama_loop_p", "llama_server -np 8", "llama_server -np 16", "bare"),
    "generate-1": ("ours", "llama_loop", "llama_server -np 8", "batched_bench", "llama_bench"),
    "generate-8": ("ours", "llama_loop", "llama_server -np 8", "llama_server -np 16", "batched_bench"),
    "generate-32": ("ours", "llama_loop", "llama_server -np 8", "llama_server -np 16", "batched_bench"),
    "long": ("ours", "llama_loop", "llama_server -np 8", "bare", "llama_bench"),
    "turn": ("ours", "llama_loop", "llama_server -np 8"),
    "start": ("ours", "llama_loop", "llama_server -np 8"),
}
UNITS = {"labels": "rows/s", "long": "tokens/s", "turn": "s", "start": "s"}  # generate: tokens/s
TITLES = {
    "labels": "labels, {rows} rows",
    "generate-1": "{answer} tokens, 1 row",
    "generate-8": "{answer} tokens, 8 rows",
    "generate-32": "{answer} tokens, 32 rows",
    "long": "{documents} prompts of {words} words",
    "turn": "first token of turn {turns}",
    "start": "start to first answer",
}
FULL = {"rows": 200, "documents": 4, "words": 1600, "answer": 64, "turns": 10}
SMALL = {"rows": 32, "documents": 1, "words": 150, "answer": 8, "turns": 3}


@dataclass
class Cell:
    """One contestant at one task: its rate (or seconds) in every round."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        spread = f" ({figure(min(self.values))}–{figure(max(self.values))})" if len(self.values) > 1 else ""
        return figure(self.median) + spread


def figure(value: float) -> str:
    """
    Three digits, without an exponent.

    >>> figure(1740.2), figure(23.97), figure(0.0312)
    ('1,740', '24.0', '0.0312')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


Table = dict[str, dict[str, Cell]]


@dataclass
class Runs:
    """Measurements of one model; the rivals' command lines gather in `commands`."""

    model: Path
    threads: int
    sizes: dict[str, int]
    commands: dict[str, None] = field(default_factory=dict)

    def all(self, tasks: Sequence[str], rounds: int) -> Table:
        """Every contestant at every task, in turn, so many times."""
        table: Table = {task: {name: Cell() for name in ABLE[task]} for task in tasks}
        for number in range(rounds):
            for task in tasks:
                for name in ABLE[task] if number % 2 == 0 else ABLE[task][::-1]:
                    value = self.one(name, task)
                    table[task][name].values.append(value)
                    print(f"round {number + 1}, {task}, {name}: {value:.4g}; load {load()}", file=sys.stderr)
        return table

    def one(self, contestant: str, task: str) -> float:
        """One measurement: a rate, or seconds where these are the result."""
        name, _, slots = contestant.partition(" -np ")
        command = [sys.executable, str(HERE / "contestant.py"), name, task, str(self.model)]
        for option, value in {**self.sizes, "threads": self.threads, "slots": int(slots or 8)}.items():
            command += [f"--{option}", str(value)]
        given = environment(child=name == "bare")  # the same process and threads as ours
        done = subprocess.run(command, capture_output=True, text=True, env=given)
        if done.returncode:
            raise SystemExit(f"{contestant} failed at {task}:\n{done.stderr[-2000:]}")
        self.commands.update(dict.fromkeys(line for line in done.stderr.splitlines() if "bin/llama-" in line))
        found = json.loads(done.stdout.splitlines()[-1])
        return found["seconds"] if task in ("turn", "start") else found["amount"] / found["seconds"]

    def share(self, rounds: int) -> str:
        """Python's share of a batch of labels; labels beside bare prompt processing in the same process."""
        command = [sys.executable, str(HERE / "share.py"), str(self.model), "--threads", str(self.threads)]
        command += ["--rows", str(self.sizes["rows"]), "--rounds", str(rounds)]
        given = environment(child=True)
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=given)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        part = statistics.median(one["share"] for one in found)
        speed = statistics.median(one["rows_per_second"] for one in found)
        ratios = [one["rows_per_second"] / one["bare_rows_per_second"] for one in found]
        return (
            f"In the child: Python's share of {self.sizes['rows']} labels {part:.2%}; {speed:.1f} rows/s, "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) of bare prompt processing"
        )


def environment(*, child: bool = False) -> dict[str, str]:
    """This one, with project and folder importable; `child`: with what the engine's child is given."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    return {**(process.ENVIRONMENT if child else {}), **os.environ, "PYTHONPATH": path}


def rows_of(table: Table, sizes: dict[str, int]) -> Iterator[str]:
    """The table in Markdown: figures, and in brackets how many times faster ours is."""
    names = [name for name in RIVALS if any(name in cells for cells in table.values())]
    yield f"| | unit | {' | '.join(name.replace('_', '-') for name in names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for task, cells in table.items():
        ours = cells["ours"].median
        shown = []
        for name in names:
            if name not in cells:
                shown.append("–")
                continue
            ratio = cells[name].median / ours if task in ("turn", "start") else ours / cells[name].median
            shown.append(str(cells[name]) if name == "ours" else f"{cells[name]}, ours ×{ratio:.2f}")
        title = TITLES[task].format(**sizes)
        yield f"| {title} | {UNITS.get(task, 'tokens/s')} | {' | '.join(shown)} |"


def machine() -> str:
    """What this ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line),
            cpu,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    software = f"Python {platform.python_version()}, llama-cpp-python {version('llama-cpp-python')}"
    return f"{cpu}, {cores} cores, {platform.system()}, {software}"


def load() -> str:
    """What the machine did in the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def fitting(model: Path, sizes: dict[str, int]) -> dict[str, int]:
    """Sizes that the model's context has room for: a turn of a chat takes some 120 tokens."""
    context = gguf.check(model).context_length
    most = {"words": context // 2, "turns": context // 160}
    return {name: min(size, most.get(name, size)) for name, size in sizes.items()}


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=[*ABLE, "share"], default=[*ABLE, "share"])
    parser.add_argument("--models", nargs="+", choices=["qwen", "starter"], default=["qwen", "starter"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--source", type=Path, help="an unpacked llama.cpp, instead of fetching it")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the benchmark itself")
    given = parser.parse_args()
    folder = build_llama.work_folder()
    source = given.source or build_llama.fetch(folder)
    if len(build_llama.programs(folder)) < len(build_llama.TARGETS):
        build_llama.build(source, folder, jobs=given.threads)
    models = {"qwen": make_model.make(source), "starter": STARTER}
    if os.getloadavg()[0] > BUSY:
        print(f"warning: the load is {load()}: the figures are worth little", file=sys.stderr)
    print(f"{machine()}, {given.threads} threads, load {load()} before\n")
    for name in given.models:
        report(name, models[name], given)


def report(name: str, model: Path, given: argparse.Namespace) -> None:
    """One model's table."""
    wanted = [task for task in given.tasks if task != "share"]
    sizes = fitting(model, SMALL if given.small else FULL)
    runs = Runs(model, given.threads, sizes)
    print(f"### {name}: {model.name}, {model.stat().st_size / 1e6:,.0f} MB\n")
    print("\n".join(rows_of(runs.all(wanted, given.rounds), sizes)) + "\n")
    if "share" in given.tasks:
        print(runs.share(given.rounds) + "\n")
    print("\n".join(["Command lines:", "", *(f"    {command}" for command in runs.commands), ""]), flush=True)


if __name__ == "__main__":
    main()
