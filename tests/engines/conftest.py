"""Engines for the tests of this folder: the built-in model, and tiny ones of every kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ggufs import tiny

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.messages import Message, Prompt
from llmcli.models import ModelFile, resolve


def ask(text: str) -> Prompt:
    """A prompt of one user message."""
    return Prompt((Message("user", text),))


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
        opened.append(LlamaEngine(ModelFile(architecture, path), EngineOptions(**options)))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()
