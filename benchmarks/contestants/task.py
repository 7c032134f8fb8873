"""
What every contestant is given, and how it measures.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import texts

from llmcli.messages import Prompt

Measured = tuple[float, float]
WARM_UP = 16


@dataclass(frozen=True)
class Task:
    """What is measured with: the model, threads, and how much of everything."""

    model: Path
    threads: int
    rows: int = 200
    documents: int = 4
    words: int = 1600
    answer: int = 64
    turns: int = 10
    slots: int = 8  # of llama-server

    def labels(self) -> tuple[list[Prompt], list[Prompt]]:
        """Rows to warm up with, and rows to measure."""
        prompts = texts.rows(texts.LABEL_QUESTION, self.rows + WARM_UP)
        return prompts[-WARM_UP:], prompts[: self.rows]

    def writing(self, count: int) -> tuple[list[Prompt], list[Prompt]]:
        """The same for generation."""
        prompts = texts.rows(texts.WRITE_QUESTION, count + WARM_UP)
        return prompts[-WARM_UP:], prompts[:count]

    def long(self) -> tuple[list[Prompt], list[Prompt]]:
        """The same for long prompts, two of them to warm up with."""
        prompts = texts.documents(self.documents + 2, self.words)
        return prompts[:2], prompts[2:]


def timed(work: Iterable[Any]) -> tuple[list[Any], float]:
    """What an iterable gives, and how long it took."""
    begun = time.perf_counter()
    results = list(work)
    return results, time.perf_counter() - begun
