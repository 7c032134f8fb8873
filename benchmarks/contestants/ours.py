"""
llmcli's own engine, through `open_engine`: child process and wire included.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, closing
from typing import Literal

import texts

from contestants.task import Measured, Task, timed
from llmcli.engines import open_engine
from llmcli.engines.base import Engine, EngineOptions
from llmcli.messages import Completion, Message, Prompt, Sampling


class Contestant:
    """One engine for all that is measured."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._opened = ExitStack()

    def close(self) -> None:
        self._opened.close()

    def _open(self, expected: Literal["one", "some", "many"], only_labels: bool = False) -> Engine:
        options = EngineOptions(threads=self._task.threads, texts=expected, only_labels=only_labels)
        return self._opened.enter_context(closing(open_engine(str(self._task.model), options)))

    def labels(self) -> Measured:
        engine = self._open("many", only_labels=True)
        warm, rows = self._task.labels()
        list(engine.score(warm, texts.LABELS))
        return len(rows), timed(engine.score(rows, texts.LABELS))[1]

    def generate(self, count: int) -> Measured:
        engine = self._open("many" if count > 1 else "some")
        warm, rows = self._task.writing(count)
        sampling = Sampling(max_tokens=self._task.answer)
        list(engine.generate(warm[: min(count, 2)], sampling))  # a context as large as will be needed
        answers, seconds = timed(engine.generate(rows, sampling))
        return sum(answer.usage.answer for _, answer in answers), seconds

    def long(self) -> Measured:
        engine = self._open("some")
        warm, others = self._task.long()
        list(engine.generate(warm, Sampling(max_tokens=1)))
        answers, seconds = timed(engine.generate(others, Sampling(max_tokens=1)))
        return sum(answer.usage.prompt for _, answer in answers), seconds

    def turn(self) -> Measured:
        engine = self._open("some")
        messages: list[Message] = []
        seconds = 0.0
        for said in texts.turns(self._task.turns):
            messages.append(Message("user", said))
            begun = time.perf_counter()
            seconds, text = 0.0, ""
            for item in engine.stream(Prompt(tuple(messages)), Sampling(max_tokens=self._task.answer)):
                seconds = seconds or time.perf_counter() - begun
                if isinstance(item, Completion):
                    text = item.text
            messages.append(Message("assistant", text))
        return 1, seconds

    def start(self) -> Measured:
        text = texts.reviews(1)[0]
        model = ["-m", str(self._task.model), "--threads", str(self._task.threads)]
        command = [sys.executable, "-m", "llmcli", "sentiment", "--text", text, *model]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return 1, time.perf_counter() - begun
