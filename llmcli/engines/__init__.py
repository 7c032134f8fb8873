"""
The engines: who answers. One module each, found by name; `base` says what they promise.

A reference `NAME:REST` whose NAME is a module here goes to that module's `open_engine(REST, options)`;
everything else is a model file, and goes to `llama`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from llmcli.engines.base import Engine, EngineOptions
    from llmcli.models.resolve import ModelFile

_NOT_BY_NAME = ("__init__", "base", "llama")


def engine_of(reference: str) -> str | None:
    """
    The engine that a reference names; None where it names a model instead.

    >>> engine_of("scripted:replies.yaml"), engine_of("hf:owner/repo:Q4_K_M"), engine_of("starter")
    ('scripted', None, None)
    """
    name, colon, _ = reference.partition(":")
    if not colon or not name.isidentifier() or name in _NOT_BY_NAME:
        return None
    folder = Path(__file__).parent
    there = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
    return name if there else None


def open_engine(reference: str, options: EngineOptions, model: ModelFile | None = None) -> Engine:
    """
    Open the engine that a reference means; `model` is its file, where the caller has resolved it already.

    Raises what the engine raises: ModelError, MissingInput, BackendUnreachable, BadConfig.
    """
    name = engine_of(reference)
    if name is not None:
        module = import_module(f"llmcli.engines.{name}")
        return cast("Engine", module.open_engine(reference.partition(":")[2], options))
    from llmcli.engines import llama

    if model is None:
        from llmcli.models.resolve import resolve

        model = resolve(reference)
    return llama.open_engine(model, options)
