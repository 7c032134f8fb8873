"""
Python's share of a batch of labels: 1 − (time in llama_decode / wall), measured in the child.

    python benchmarks/share.py MODEL [--threads 2] [--rows 200]

The child (`llmcli.engines.llama.child`) runs here, in this process, and a thread plays its parent: the
child's own clocks can then be read. What that thread does counts as Python's share too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import socket
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import texts
from contestants.task import Task

from llmcli.engines.llama import amx, wire
from llmcli.engines.llama.child import Child
from llmcli.messages import Prompt

MEMORY = 4 * 2**30


def load_message(task: Task) -> wire.Load:
    """What the parent would say first."""
    return wire.Load(
        path=str(task.model),
        space_prefix=None,
        gpu_layers=0,
        context=None,
        parallel=None,
        threads=task.threads,
        memory=MEMORY,
        cell_bytes=32768,
        kv_type=None,
        flash_attention=None,
        lora=(),
        sequential=False,
        chat_template=None,
        thinking=None,
        temperature_scale=1.0,
        started=datetime.datetime.now().timestamp(),
    )


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


def measure(task: Task, parent: Parent, child: Child) -> None:
    """Warm up, score, print, and end the process: the child would go on for ever."""
    parent.load(task)
    warm, rows = task.labels()
    parent.score(warm)
    scheduler = child._scheduler
    before = scheduler.decode_seconds
    wall = parent.score(rows)
    decoding = scheduler.decode_seconds - before
    found = {"rows": len(rows), "seconds": wall, "decode_seconds": decoding, "share": 1 - decoding / wall}
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=Task.rows)
    given = parser.parse_args()
    amx.keep_off()
    ours, theirs = socket.socketpair()
    served = Child(Connection(theirs.detach()))
    speaker = Parent(Connection(ours.detach()))
    arguments = (Task(given.model, given.threads, rows=given.rows), speaker, served)
    threading.Thread(target=measure, args=arguments, daemon=True).start()
    served.run()
