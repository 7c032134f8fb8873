"""
Which model answers, and opening its engine: the one way every command does it.

Option, then LLMCLI_MODEL, then config.yaml, then `starter`. The engine is opened before input is read:
its process loads the model while we read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcli import config, engines
from llmcli.cli.environment import Environment
from llmcli.errors import MissingInput, ModelError, UsageError
from llmcli.paths import cache_dir, make_private

if TYPE_CHECKING:
    from llmcli.cli.options import ModelOptions
    from llmcli.engines.base import Engine, EngineOptions
    from llmcli.models.entries import MadeFor
    from llmcli.models.resolve import ModelFile
    from llmcli.templates import Template

STARTER_NOTE = "answering with the built-in model, which is small; `llm models list` shows larger ones"


@dataclass(frozen=True)
class Chosen:
    """Which model answers: its reference, its options, its file (if it is one), its templates' overrides."""

    reference: str
    options: EngineOptions
    model: ModelFile | None
    templates: Mapping[str, Mapping[str, Any]]

    def to_run(self, **options: Any) -> Chosen:
        """The same model, its engine opened with these options."""
        from msgspec import structs

        return replace(self, options=structs.replace(self.options, **options))


def choose(env: Environment, options: ModelOptions, named_by: str | None = None) -> Chosen:
    """
    The model that the options and settings name. Raises UsageError, ModelError, MissingInput.

    Errors say what names it where that is not the command line: the settings, or `named_by`.
    """
    settings = config.load(env.environ)
    if options.model == "":  # "$MODEL" with nothing in it
        raise UsageError("-m is empty", hint="name a model; `llm models list` shows them")
    reference = options.model or settings.model
    model, templates = None, {}
    if engines.engine_of(reference) is None:
        from llmcli.models.resolve import resolve

        try:
            model = resolve(reference)
        except (UsageError, ModelError, MissingInput) as error:
            if options.model is not None and named_by is None:
                raise
            raise type(error)(f"{error.message}: {named_by or _chosen_by(env)}", hint=error.hint) from error
        templates = model.entry.templates if model.entry else {}
        _say_longest(model, options.context, env)
    return Chosen(reference, options.engine_options(settings), model, templates)


def _say_longest(model: ModelFile, asked: int | None, env: Environment) -> None:
    from llmcli.models import gguf

    longest = gguf.check(model.path).context_length if asked else None
    if asked and longest and longest < asked:
        env.note(f"{model.name} has at most {longest:,} tokens of context")


def _chosen_by(env: Environment) -> str:
    """What names the model where the command line does not."""
    return "LLMCLI_MODEL names it" if env.environ.get("LLMCLI_MODEL") else f"{config.config_path()} names it"


@contextmanager
def opened(env: Environment, chosen: Chosen) -> Iterator[Engine]:
    """The chosen model's engine, loading; it is closed on the way out."""
    say_where(chosen.reference, env)
    name = chosen.model.name if chosen.model else chosen.reference.partition(":")[0]
    env.status(f"asking {name}")
    engine = engines.open_engine(chosen.reference, chosen.options, chosen.model)
    env.activity = lambda: engine.activity
    try:
        if env.verbose:
            env.note(engine.where)
        yield engine
    finally:
        env.status("")
        engine.close()


def say_where(reference: str, env: Environment) -> None:
    """
    Tell a text's owner what reads it: a server elsewhere every time, the built-in model once.

    Raises UsageError where a server's URL is none.
    """
    if reference.startswith("server:"):
        from llmcli.engines.server.reference import parse

        server = parse(reference.removeprefix("server:"))
        if not server.is_local:
            env.complain(f"llm: note: the text is sent to {server.host}")
    if reference == "starter" and env.stderr_is_terminal and not env.quiet:
        seen = cache_dir() / "starter-note"
        if not seen.exists():
            env.note(STARTER_NOTE)
            try:
                make_private(seen.parent)
                seen.touch()
            except OSError:
                pass


def say_unfit(
    chosen: Chosen, template: Template, values: Mapping[str, Any], labels: Sequence[str], env: Environment
) -> None:
    """
    Tell that answers are guesses, where models.yaml says what the model can do and this is not of it.

    Raises UsageError for such labels of a template of ours: a guess among them looks like an answer. Who
    writes a template of labels may try it with any model.
    """
    entry = chosen.model.entry if chosen.model else None
    task = _unfit(entry.made_for, template, values, labels) if entry and entry.made_for else ""
    if not task:
        return
    name = chosen.reference
    if template.mode == "label" and template.source == "built in":
        raise UsageError(
            f"{name} is not made for {task} and would guess",
            hint=f"use -m with a larger one, see `llm models list`; its own labels: `llm models show {name}`",
        )
    env.note(f"{name} is not made for {task}: expect guesses; `llm models list` shows larger models")


def _unfit(made_for: MadeFor, template: Template, values: Mapping[str, Any], labels: Sequence[str]) -> str:
    """What of this the model is not made for, in words; empty where it is."""
    known = made_for.templates.get(template.name) if template.source == "built in" else None
    if template.mode == "label" and not (known is not None and template.labels):
        strange = [label for label in labels if label not in made_for.labels]
        shown = ", ".join(strange[:5]) + (", …" if len(strange) > 5 else "")
        return f"the label{'s' if len(strange) > 1 else ''} {shown}" if strange else ""
    if known is None:
        return f"`llm {template.name}`"
    for param, allowed in known.items():
        value = values.get(param)
        if value is not None and value not in allowed:
            return f"`llm {template.name} --{param} {value}`"
    return ""
