"""
Which model answers, and opening its engine: the one way every command does it.

Option, then LLMCLI_MODEL, then config.yaml, then `starter`. The engine is opened before input is read:
its process loads the model while we read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmcli import config, engines
from llmcli.cli.environment import Environment
from llmcli.paths import cache_dir, make_private

if TYPE_CHECKING:
    from llmcli.cli.options import ModelOptions
    from llmcli.engines.base import Engine, EngineOptions

STARTER_NOTE = "answering with the built-in model, which is small; `llm models list` shows larger ones"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Opened:
    """An engine with the reference it was opened from, its options, and its models.yaml overrides."""

    engine: Engine
    reference: str
    options: EngineOptions
    templates: dict[str, Any]


@contextmanager
def opened(env: Environment, options: ModelOptions) -> Iterator[Opened]:
    """Open the engine that the options and settings name; it is closed on the way out."""
    settings = config.load(env.environ)
    reference = options.model or settings.model
    engine_options = options.engine_options(settings, env.verbose)
    model = None
    if not reference.startswith(engines.WITHOUT_FILE):
        from llmcli import models

        model = models.resolve(reference, settings)
    _say_where(reference, env)
    engine = engines.open_engine(reference, engine_options, model)
    try:
        entry = getattr(model, "entry", None)
        yield Opened(engine, reference, engine_options, dict(getattr(entry, "templates", None) or {}))
    finally:
        engine.close()


def _say_where(reference: str, env: Environment) -> None:
    """Tell a text's owner what reads it: a server elsewhere every time, the built-in model once."""
    if reference.startswith("server:"):
        host = urlsplit(reference.removeprefix("server:").partition("#")[0]).hostname or "?"
        if host not in LOOPBACK:
            env.complain(f"llm: note: the text is sent to {host}")
    if reference == "starter" and env.stderr_is_terminal and not env.quiet:
        seen = cache_dir() / "starter-note"
        if not seen.exists():
            env.note(STARTER_NOTE)
            try:
                make_private(seen.parent)
                seen.touch()
            except OSError:
                pass
