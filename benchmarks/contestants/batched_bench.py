"""
llama-batched-bench: llama.cpp's own decode loop, no text and no sampling.

Its prompt is as long as what a row of ours does not share with the others.
"""

from __future__ import annotations

import json
import subprocess
import sys

from build_llama import programs, work_folder

from contestants import bare
from contestants.task import Measured, Task


class Contestant:
    """One run of the program for each task."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def close(self) -> None:
        """Nothing is left open."""

    def generate(self, count: int) -> Measured:
        own = bare.own_tokens(self._task)
        answer = self._task.answer
        command = [str(programs(work_folder())["llama-batched-bench"]), "-m", str(self._task.model)]
        command += ["-npp", str(own), "-ntg", str(answer), "-npl", str(count), "-b", "512", "-ub", "512"]
        command += ["-c", str(max(512, count * (own + answer))), "--output-format", "jsonl"]
        command += ["-t", str(self._task.threads), "-tb", str(self._task.threads)]
        print(" ".join(command), file=sys.stderr)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
        return count * answer, json.loads(line)["t"]
