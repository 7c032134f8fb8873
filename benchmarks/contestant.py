"""
One contestant at one task, in a process of its own: one line of JSON on standard output.

    python benchmarks/contestant.py ours labels MODEL [--threads 2] [--rows 200]
    python benchmarks/contestant.py llama_server generate-32 MODEL --slots 8
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import closing
from importlib import import_module
from pathlib import Path

from contestants.task import Task

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="a module of contestants/")
    parser.add_argument("task", help="labels, generate-N, long, turn, start")
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for option in ("rows", "documents", "words", "answer", "turns", "slots"):
        parser.add_argument(f"--{option}", type=int, default=getattr(Task, option))
    given = vars(parser.parse_args())
    name, (task, _, count) = given.pop("name"), given.pop("task").partition("-")
    with closing(import_module(f"contestants.{name}").Contestant(Task(**given))) as contestant:
        amount, seconds = getattr(contestant, task)(*([int(count)] if count else []))
    print(json.dumps({"amount": amount, "seconds": seconds}))
