"""Engines for the tests of this folder: the built-in model, and tiny ones of every kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ggufs import tiny

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama import wire
from llmcli.engines.llama.calls import Call
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.messages import Message, Prompt, Sampling
from llmcli.models.resolve import ModelFile, resolve


def ask(text: str) -> Prompt:
    """A prompt of one user message."""
    return Prompt((Message("user", text),))


# Three characters at each place: drawn at a high temperature, they make no loop that would end an answer.
PERIOD = "".join(f"[{n % 7}{chr(97 + n % 26)}{chr(65 + n % 11)}]" for n in range(50))
LONG = Sampling(temperature=5.0, seed=4, grammar=f"root ::= ({PERIOD}){{99}}", max_tokens=3000)
"""Some three thousand tokens of any model."""


def ask_unchecked(engine: LlamaEngine, prompts: list[Prompt], sampling: Sampling) -> Iterator[Any]:
    """
    As `engine.generate`, but the grammar goes to the child unseen.

    The check in front of the child refuses every grammar that harms one. What the child does with one
    shows what that check saves it from, and what is left when it errs.
    """
    engine.info  # noqa: B018  (loaded)
    call = Call(engine, prompts, lambda i, prompt, many: wire.Generate(i, prompt, sampling, many=many))
    return call.results()


@pytest.fixture(scope="module")
def starter() -> Iterator[LlamaEngine]:
    """The built-in model, loaded once a file."""
    engine = LlamaEngine(resolve("starter"), EngineOptions())
    yield engine
    engine.close()


@pytest.fixture
def open_tiny(tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    """Open an engine on a tiny random model: `open_tiny("mamba", parallel=4)`."""
    opened = []

    def open_one(architecture: str = "llama", made: Any = None, **options: Any) -> LlamaEngine:
        path = tmp_path / f"{architecture}{len(opened) or ''}.gguf"
        (made or tiny(architecture)).write(path)
        opened.append(LlamaEngine(ModelFile(architecture, path), EngineOptions(threads=1, **options)))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LlamaEngine]]:
    """
    As `open_tiny`, but each engine is opened once a file: for tests that leave it as it was.

    `trained` is the context, in tokens, that the model says it was trained with.
    A child's start takes longer than most of what is asked of it.
    """
    opened: dict[tuple[Any, ...], LlamaEngine] = {}

    def open_one(architecture: str = "llama", trained: int = 512, **options: Any) -> LlamaEngine:
        key = (architecture, trained, *sorted(options.items()))
        if key not in opened:
            path = tmp_path_factory.mktemp("tiny") / f"{architecture}.gguf"
            tiny(architecture, context=trained).write(path)
            opened[key] = LlamaEngine(ModelFile(architecture, path), EngineOptions(threads=1, **options))
        return opened[key]

    yield open_one
    for engine in opened.values():
        engine.close()
