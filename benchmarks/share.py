"""
Inside the child: Python's share of a batch of labels, and labels beside bare prompt processing.

    python benchmarks/share.py MODEL [--threads 2] [--rows 200] [--rounds 3]

The child (`llmcli.engines.llama.child`) runs here, in this process, and a thread plays its parent. So the
child's own clocks can be read (Python's share: 1 − time in llama_decode / wall; what the thread does counts
as Python's), and bare prompt processing (contestants/bare.py) runs in turn with it in the same process, on
the same loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import texts
from contestants.bare import Contestant as Bare
from contestants.task import Task

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama import loading, wire
from llmcli.engines.llama.child import Child
from llmcli.engines.llama.copies import usable_instructions
from llmcli.messages import Prompt
from llmcli.models import gguf
from llmcli.models.resolve import ModelFile


def load_message(task: Task) -> wire.Load:
    """What the parent would say first."""
    model = ModelFile(task.model.stem, task.model)
    options = EngineOptions(threads=task.threads, texts="many", only_labels=True, prefix_cache=0)
    return loading.load_message(model, gguf.check(task.model), options, time.time())


class Parent:
    """The other end of the wire."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next = 0

    def load(self, task: Task) -> None:
        """Have the model loaded."""
        self._connection.send_bytes(wire.encode(load_message(task)))
        while not isinstance(self._receive(), wire.Loaded):
            pass

    def score(self, prompts: list[Prompt]) -> float:
        """Seconds until every prompt's labels are scored."""
        begun = time.perf_counter()
        for prompt in prompts:
            self._next += 1
            message = wire.Score(self._next, prompt, texts.LABELS, many=True)
            self._connection.send_bytes(wire.encode(message))
        waiting = len(prompts)
        while waiting:
            waiting -= isinstance(self._receive(), wire.Scored)
        return time.perf_counter() - begun

    def _receive(self) -> wire.ToParent:
        message = wire.decode_to_parent(self._connection.recv_bytes())
        if isinstance(message, wire.Failed):
            raise SystemExit(message.message)
        return message


def measure(task: Task, rounds: int, parent: Parent, child: Child) -> None:
    """Warm up, measure in turn, print."""
    parent.load(task)
    warm, rows = task.labels()
    parent.score(warm)
    bare = Bare(task, child._model, child._log)
    for _ in range(rounds):
        before, _, tokens = child.lanes.measured()
        wall = parent.score(rows)
        decoded, _, tokens_decoded = child.lanes.measured()
        decoding = decoded - before
        found = {
            "share": 1 - decoding / wall,
            "rows_per_second": len(rows) / wall,
            "bare_rows_per_second": len(rows) / bare.labels()[1],
            "tokens": tokens_decoded - tokens,
        }
        print(json.dumps(found), flush=True)


def measured(*arguments: Any) -> None:
    """Measure, and end the process: the child would go on for ever, also after an error."""
    try:
        measure(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=Task.rows)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ours, theirs = socket.socketpair()
    served = Child(Connection(theirs.detach()), usable_instructions())
    speaker = Parent(Connection(ours.detach()))
    arguments = (Task(given.model, given.threads, rows=given.rows), given.rounds, speaker, served)
    threading.Thread(target=measured, args=arguments, daemon=True).start()
    served.run()
