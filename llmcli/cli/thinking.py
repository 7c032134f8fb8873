"""An engine that lets its model think before each answer: what --show-thinking puts around the chosen one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from llmcli.engines.base import Engine, EngineInfo
from llmcli.errors import LlmError
from llmcli.messages import Completion, LabelScores, Piece, Prompt, Sampling


class ThinkingEngine:
    """The same engine; prompts that it answers with text are asked with thinking on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        """The engine's."""
        return self._engine.info

    @property
    def activity(self) -> str:
        """The engine's."""
        return self._engine.activity

    @property
    def where(self) -> str:
        """The engine's."""
        return self._engine.where

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each item, with thinking on."""
        return self._engine.count_tokens([item if isinstance(item, str) else _on(item) for item in items])

    def read_ahead(self, prompt: Prompt, sampling: Sampling) -> None:
        """The engine's, with thinking on."""
        self._engine.read_ahead(_on(prompt), sampling)

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Piece | Completion]:
        """The engine's pieces, thoughts among them."""
        return self._engine.stream(_on(prompt), sampling)

    def generate(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | LlmError]]:
        """The engine's answers."""
        return self._engine.generate(map(_on, prompts), sampling)

    def score(
        self, prompts: Iterable[Prompt], labels: Sequence[str]
    ) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """Labels are scored without thinking."""
        return self._engine.score(prompts, labels)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def _on(prompt: Prompt) -> Prompt:
    return replace(prompt, thinking=True)
