"""
llama-bench: llama.cpp's own loop for one sequence, tokens drawn at random, no text and no sampling.
"""

from __future__ import annotations

import json
import subprocess
import sys

from build_llama import programs, work_folder

from contestants.bare import Contestant as Bare
from contestants.task import Measured, Task


class Contestant:
    """One run of the program for each task."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def close(self) -> None:
        """Nothing is left open."""

    def generate(self, count: int) -> Measured:
        if count != 1:
            raise SystemExit("llama-bench writes one row only")
        return self._run(0, self._task.answer)

    def long(self) -> Measured:
        bare = Bare(self._task)
        tokens = [len(row) for row in bare.tokens(self._task.long()[1])]
        bare.close()
        return self._run(round(sum(tokens) / len(tokens)), 0)

    def _run(self, read: int, written: int) -> Measured:
        command = [str(programs(work_folder())["llama-bench"]), "-m", str(self._task.model)]
        command += ["-p", str(read), "-n", str(written), "-b", "512", "-ub", "512", "-r", "1"]
        command += ["-t", str(self._task.threads), "-o", "json"]
        print(" ".join(command), file=sys.stderr)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return 1, 1 / float(json.loads(done.stdout)[0]["avg_ts"])
