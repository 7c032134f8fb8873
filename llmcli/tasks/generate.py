"""Write an answer to each text."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from llmcli.errors import InputTooLong, LlmError, UnusableAnswer
from llmcli.messages import Completion, Prompt
from llmcli.tasks.flow import Work
from llmcli.tasks.long import answer_room, context_of, cut, joined, too_long, too_tight
from llmcli.tasks.nouns import Failed, Result, Task, closing, in_full, total
from llmcli.templates import render, renderer


class Generate:
    """One prompt a text; a text over the context is read in parts where the template can join them."""

    mends: tuple[type[LlmError], ...] = ()

    def __init__(self, task: Task) -> None:
        self.task = task
        self._render = renderer(task.template, task.values)

    def plan(self, text: str) -> Sequence[Any]:
        """The text itself, once."""
        return (text,)

    def prompt(self, text: str, item: Any) -> Prompt:
        """The template's prompt."""
        return self._render(text)

    def ask(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion | LlmError]]:
        """The engine's completions."""
        return self.task.engine.generate(prompts, self.task.sampling)

    def finish(self, work: Work[Completion]) -> Result:
        """The completion's text, checked."""
        answer = work.answers[0]
        error = too_long(answer)
        if isinstance(answer, Completion):
            error = self._too_tight(answer.usage.prompt)
            if error is None:
                return result_of(self.task, answer)
        assert error is not None
        shortened = shorten(self.task, work.text, error)
        completion = in_full(self.ask([shortened.prompt]), 1, self.task.notify)[0]
        return finished(self.task, shortened, completion)

    def stream(self, text: str) -> Iterator[str | Result]:
        """The answer as it is written, then its result. Raises Failed, and what the engine raises."""
        shortened = Shortened(self._render(text), Result(""))
        tokens = self.task.count([shortened.prompt])[0] if self._can_shorten else 0
        error = self._too_tight(tokens)
        if error is None:
            try:
                completion = yield from _written(self.task, shortened.prompt)
            except InputTooLong as refused:
                error = refused
        if error is not None:
            shortened = shorten(self.task, text, error)
            completion = yield from _written(self.task, shortened.prompt)
        yield finished(self.task, shortened, completion)

    @property
    def _can_shorten(self) -> bool:
        return self.task.truncate is not None or self.task.template.reduce is not None

    def _too_tight(self, tokens: int) -> InputTooLong | None:
        """A text that leaves its answer too little room is shortened, where there is a way."""
        if not self._can_shorten:
            return None
        context = self.task.engine.info.context
        return too_tight(self.task, tokens, answer_room(self.task.sampling, context))


class Shortened(msgspec.Struct, frozen=True):
    """A prompt that stands for a text over the context, and what was done to the text."""

    prompt: Prompt
    base: Result


def shorten(task: Task, text: str, error: InputTooLong) -> Shortened:
    """The prompt to ask instead: of a cut text, or of the joined answers to its parts. Raises Failed."""
    if task.truncate is not None:
        context = context_of(task, error)
        fits = context - answer_room(task.sampling, context)
        rest = cut(task, text, renderer(task.template, task.values), fits, error)
        return Shortened(render(task.template, rest.text, task.values), Result("", left_out=rest.left_out))
    if task.template.reduce is None:
        raise Failed(error)
    whole = joined(task, text, error)
    task.notify(f"joining the answers to {whole.chunks:,} parts")
    return Shortened(whole.prompt, Result("", chunks=whole.chunks, usage=whole.usage))


def _written(task: Task, prompt: Prompt) -> Generator[str, None, Completion]:
    """The pieces of an answer without the white space around it; gives the completion."""
    space = ""  # held back until a word follows
    started = False
    with closing(task.engine.stream(prompt, task.sampling)) as pieces:
        for piece in pieces:
            if isinstance(piece, Completion):
                return piece
            text = "" if piece.thinking else space + piece.text
            words = text.rstrip()
            if words:
                yield words if started else words.lstrip()
                started = True
                space = text[len(words) :]
            elif not piece.thinking:
                space = text if started else ""
    raise UnusableAnswer("the engine ended its answer without saying why")


def finished(task: Task, shortened: Shortened, completion: Completion) -> Result:
    """The result of a text that was shortened."""
    made = result_of(task, completion)
    return msgspec.structs.replace(
        made,
        usage=total([shortened.base.usage, made.usage]),
        chunks=shortened.base.chunks,
        left_out=shortened.base.left_out,
    )


def result_of(task: Task, completion: Completion) -> Result:
    """A completion as a result. Raises Failed for JSON that is cut or does not fit its schema."""
    text = completion.text.strip()
    if task.sampling.schema is not None:
        _check_json(text, completion, task.sampling.schema)
    return Result(
        text,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        thinking=completion.thinking,
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_json(text: str, completion: Completion, schema: str) -> None:
    """A grammar holds a model to its schema; a cut answer, and a server without grammars, are found here."""
    if completion.finish_reason == "length":
        raise Failed(
            UnusableAnswer(
                f"the JSON was cut after {completion.usage.answer:,} tokens", hint="a larger --max-tokens"
            )
        )
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Failed(UnusableAnswer(f"the answer is not JSON: {error}")) from error
    required = json.loads(schema).get("required", [])
    missing = [name for name in required if not isinstance(value, dict) or name not in value]
    if missing:
        raise Failed(UnusableAnswer(f"the answer's JSON lacks {', '.join(map(repr, missing))}"))
