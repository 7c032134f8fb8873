"""
Who answers the rows: the engine that is open in this process, or actors on a cluster (`ray_runner`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from llmcli.engines.base import Engine, EngineInfo
from llmcli.errors import LlmError
from llmcli.messages import Prompt
from llmcli.rows.job import Job
from llmcli.tasks import Result, run_tasks


class Workers(Protocol):
    """Something that answers texts with a job's template, in any order."""

    @property
    def info(self) -> EngineInfo:
        """Who answers."""
        ...

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each item."""
        ...

    def answer(self, texts: Iterable[str]) -> Iterator[tuple[int, Result | LlmError]]:
        """(position, answer) as they finish; texts are drawn as there is room for them."""
        ...

    def close(self) -> None:
        """Let go of what was started for this run."""
        ...


class LocalWorkers:
    """An engine that the caller opened, and closes."""

    def __init__(self, job: Job, engine: Engine) -> None:
        self._job, self._engine = job, engine

    @property
    def info(self) -> EngineInfo:
        """The engine's."""
        return self._engine.info

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """The engine's count."""
        return self._engine.count_tokens(items)

    def answer(self, texts: Iterable[str]) -> Iterator[tuple[int, Result | LlmError]]:
        """The one path from texts to answers."""
        job = self._job
        return run_tasks(job.template, texts, self._engine, job.values, job.sampling, truncate=job.truncate)

    def close(self) -> None:
        """The engine is the caller's."""
