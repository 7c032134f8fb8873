"""The engines: who answers. One module each, found by name; `base` says what they promise."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.engines.base import Engine, EngineOptions
    from llmcli.models import ModelFile

LOCAL = "llama"  # the engine of model files; every other one is named in the reference


def engine_names() -> list[str]:
    """The engines that a reference can name: `scripted:replies.yaml`, `server:URL#model`."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(modules - {"base", LOCAL})


def engine_of(reference: str) -> str | None:
    """
    The engine that a reference names; None for a model, which is the local engine's.

    >>> engine_of("scripted:replies.yaml"), engine_of("hf:owner/model:Q4_K_M")
    ('scripted', None)
    """
    name, colon, _ = reference.partition(":")
    return name if colon and name in engine_names() else None


def open_engine(reference: str, options: EngineOptions, model: ModelFile | None = None) -> Engine:
    """
    Open the engine for a reference; its module is imported now and not before.

    `NAME:REST` goes to engines/NAME as REST. Everything else is a model: an alias, a path, or
    hf:owner/repo:quant; `model` is what it resolved to, where the caller already knows.

    Raises what the engine raises: ModelError, MissingInput, BackendUnreachable, BadConfig.
    """
    named = engine_of(reference)
    if named is not None:
        opened: Engine = import_module(f"llmcli.engines.{named}").open_engine(
            reference.partition(":")[2], options
        )
        return opened
    if model is None:
        from llmcli.models import resolve

        model = resolve(reference)
    local: Engine = import_module(f"llmcli.engines.{LOCAL}").open_engine(model, options)
    return local
