"""`llm complete`: continue a text as it stands. The only command that takes its text as an argument."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from msgspec.structs import replace

from llmcli import config
from llmcli.cli import opening
from llmcli.cli.door import Command, environment, new_app
from llmcli.cli.environment import Environment
from llmcli.cli.keeping import keeping
from llmcli.cli.options import ModelOptions, SamplingOptions, takes
from llmcli.engines.base import Engine
from llmcli.errors import InputTooLong, RowsFailed, UnusableAnswer, UsageError
from llmcli.messages import DEGENERATE, Completion, Prompt, Sampling

TEMPERATURE = 0.7  # where the model's maker recommends none
MAX_TOKENS = 256  # a raw continuation has no end of its own

EXAMPLES = """
llm complete "Once upon a time" -n 3 --seed 7
cat draft.txt | llm complete --max-tokens 80
"""

app = new_app()


@app.command(cls=Command, epilog=EXAMPLES)
@takes(model=ModelOptions, sampling=SamplingOptions)
def complete(
    ctx: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The beginning; - is standard input.")
    ] = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", metavar="N", min=1, max=1000, help="How many continuations.")
    ] = 1,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a continuation.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Keep text and continuation in `llm history`.")] = False,
    *,
    model: ModelOptions,
    sampling: SamplingOptions,
) -> None:
    """Continue a text as it stands, without a chat template. Prints what follows, not the beginning."""
    env = environment(ctx)
    if text is None and env.stdin_is_terminal:
        raise UsageError("no text to continue", hint='for example: llm complete "Once upon a time"')
    if stop and "" in stop:
        raise UsageError("--stop is empty", hint="give it the text to end before")
    chosen = opening.choose(env, model)
    wanted = log or config.load(env.environ).log_commands
    with (
        opening.opened(env, chosen.to_run(texts="one")) as engine,
        keeping(wanted, "complete", chosen.reference) as keep,
        _told_here(),
    ):
        prompt = Prompt(raw=_read(text, env))
        drawn = _sampling(sampling, stop, engine)
        if env.verbose:
            env.note(f"seed {drawn.seed}")
        unusable = 0
        for number in range(samples):
            one = replace(drawn, sample=number)
            if as_json:
                last = _print_json(prompt, one, engine, env)
            else:
                if samples > 1 and not env.quiet:
                    env.write(("\n" if number else "") + f"==> {number + 1} <==\n")
                last = _print(prompt, one, engine, env)
            keep(str(prompt.raw), last.text)
            unusable += last.finish_reason == "degenerate"
    if unusable and samples > 1:
        raise RowsFailed(f"{unusable} of {samples} continuations are degenerate: empty or repetitions")
    if unusable:
        raise UnusableAnswer(DEGENERATE)


def _sampling(options: SamplingOptions, stop: list[str] | None, engine: Engine) -> Sampling:
    """As the command line says, else as the model's maker recommends; a seed of its own for each call."""
    default = Sampling(temperature=TEMPERATURE, max_tokens=MAX_TOKENS, seed=secrets.randbits(31))
    return options.sampling(replace(default, **engine.info.recommended, stop=tuple(stop or ())))


def _read(text: str | None, env: Environment) -> str:
    """The beginning; one that comes by a pipe loses the newline that ends it."""
    if text is not None and text != "-":
        return text
    from llmcli.documents import read_stream

    return read_stream(env.stdin).removesuffix("\n")


@contextmanager
def _told_here() -> Iterator[None]:
    """What is too long for a model, with the remedies that this command has."""
    try:
        yield
    except InputTooLong as error:
        hint = "give a shorter beginning, or a model with a longer context"
        raise InputTooLong(error.message, hint, error.tokens, error.context) from error


def _print(prompt: Prompt, sampling: Sampling, engine: Engine, env: Environment) -> Completion:
    """Print one continuation as it is written; gives it."""
    last = Completion("")
    for piece in engine.stream(prompt, sampling):
        if isinstance(piece, Completion):
            last = piece
            _note_cut(piece, env)
        else:
            env.status("")
            env.write(piece.text, flush=True)
    if not env.at_line_start:
        env.write("\n")
    return last


def _print_json(prompt: Prompt, sampling: Sampling, engine: Engine, env: Environment) -> Completion:
    """Print one continuation as a JSON object; gives it."""
    last = next(piece for piece in engine.stream(prompt, sampling) if isinstance(piece, Completion))
    record = {
        "source": prompt.raw,
        "complete": last.text,
        "sample": sampling.sample,
        "seed": sampling.seed,
        "error": DEGENERATE if last.finish_reason == "degenerate" else None,
        "finish_reason": last.finish_reason,
        "tokens": {"prompt": last.usage.prompt, "answer": last.usage.answer},
        "model": engine.info.model,
    }
    env.write_json(record)
    return last


def _note_cut(completion: Completion, env: Environment) -> None:
    if completion.finish_reason == "length":
        if not env.at_line_start:
            env.write("\n")
        env.note(f"the continuation is cut at {completion.usage.answer:,} tokens (see --max-tokens)")
