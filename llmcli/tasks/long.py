"""
Texts that exceed the context window: read in parts and joined, or cut because the user said so.

Every size is counted by the model's own tokenizer, in the very prompt that is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from llmcli.chunking import Span, split
from llmcli.errors import InputTooLong, LlmError, UnusableAnswer
from llmcli.messages import Completion, Prompt, Sampling, Usage
from llmcli.tasks.nouns import Failed, Task, Truncate, in_full, total
from llmcli.templates import label_set, render, render_reduce

ANSWER = 1024  # tokens kept free for an answer whose length nobody set; at most a quarter of the context
SMALLEST = 16  # tokens; a part shorter than this tells a model nothing
_MARGIN = 8  # tokens that a text may gain where it meets the prompt around it
_CHARACTERS_PER_TOKEN = 16  # more than any tokenizer reaches on text
NEAR = 40  # characters looked back at for the end of a word

Range = tuple[int, int]


def context_of(task: Task, error: InputTooLong) -> int:
    """The context window in tokens, as the engine that refused a text says."""
    return error.context or task.engine.info.context


def answer_room(sampling: Sampling, context: int) -> int:
    """Tokens of the context that are kept for the answer."""
    return max(1, min(sampling.max_tokens or ANSWER, context // 4))


def too_long(answer: object) -> InputTooLong | None:
    """The error of a text that exceeds the context; any other error is the text's own, and Failed."""
    if isinstance(answer, InputTooLong):
        return answer
    if isinstance(answer, LlmError):
        raise Failed(answer)
    return None


def too_tight(task: Task, tokens: int, room: int) -> InputTooLong | None:
    """A prompt that the context holds, but without this room for its answer, is too long as well."""
    context = task.engine.info.context
    if context == 0 or tokens + room <= context:
        return None
    return InputTooLong(f"the text is {tokens:,} tokens and the context is {context:,}", "", tokens, context)


def no_room(task: Task, error: InputTooLong) -> InputTooLong | None:
    """For a text that is too long: the error that blames the prompt, where that leaves no text any room."""
    template, context = task.template, context_of(task, error)
    if template.mode == "extract" or not context:
        return None
    around = task.count([render(template, "-", task.values)])[0]
    if around + SMALLEST <= context:
        return None
    what, remedy = f"the prompt of {template.name}", "a shorter prompt"
    if template.labels_param is not None:
        what = f"{what} with {len(label_set(template, task.values)):,} labels"
        remedy = "fewer or shorter labels"
    return InputTooLong(
        f"{what} takes {around:,} tokens without any text, and the context is {context:,}",
        hint=f"use {remedy}, or a model with a longer context",
    )


class Joined(msgspec.Struct, frozen=True):
    """The prompt that asks for the last answer to a long text, and what it took to get there."""

    prompt: Prompt
    chunks: int
    usage: Usage


def joined(task: Task, text: str, error: InputTooLong) -> Joined:
    """
    Ask about each part of a long text, and join the answers until one prompt holds them.

    Each round has fewer parts than the one before, so this ends. Raises Failed.
    """
    context = context_of(task, error)
    room = answer_room(task.sampling, context)
    fits = context - room
    sampling = msgspec.structs.replace(task.sampling, max_tokens=room)
    chunks = chunked(task, text, fits, error)
    answers = _ask(task, [render(task.template, chunk.text, task.values) for chunk in chunks], sampling)
    usages = [answer.usage for answer in answers]
    parts = _texts(answers)
    while True:
        prompt = render_reduce(task.template, parts, task.values)
        if task.count([prompt])[0] <= fits:
            return Joined(prompt, len(chunks), total(usages))
        groups = _groups(task, parts, fits)
        if len(groups) == len(parts):
            raise Failed(error)
        asked = [render_reduce(task.template, group, task.values) for group in groups if len(group) > 1]
        answers = _ask(task, asked, sampling)
        usages += [answer.usage for answer in answers]
        left = iter(_texts(answers, keep_empty=True))
        parts = [part for group in groups if (part := group[0] if len(group) == 1 else next(left))]


def chunked(task: Task, text: str, fits: int, error: InputTooLong) -> list[Span]:
    """Parts of the text whose prompts have at most `fits` tokens. Raises Failed where there is no room."""

    def prompt(part: str) -> Prompt:
        return render(task.template, part, task.values)

    return pieces(task, text, prompt, fits, error)


def pieces(
    task: Task, text: str, prompt: Callable[[str], Prompt], fits: int, error: InputTooLong
) -> list[Span]:
    """The same for any prompt made of a part."""
    budget = fits - task.count([prompt("-")])[0] - _MARGIN
    while budget >= SMALLEST:
        try:
            spans = split(text, budget, task.count)
        except InputTooLong:
            break
        if max(task.count(prompt(span.text) for span in spans), default=0) <= fits:
            return spans
        budget = budget * 3 // 4
    raise Failed(error)


class Cut(msgspec.Struct, frozen=True):
    """What stayed of a text: `ranges` are its character offsets, `left_out` the tokens that went."""

    text: str
    ranges: tuple[Range, ...]
    left_out: int


def cut(task: Task, text: str, prompt: Callable[[str], Prompt], fits: int, error: InputTooLong) -> Cut:
    """
    The most of a text whose prompt has at most `fits` tokens.

    `task.truncate` names the part that goes: head, tail or middle. Raises Failed where nothing would stay.
    """
    side = task.truncate or "tail"
    least, most = 0, min(len(text), _CHARACTERS_PER_TOKEN * fits)
    while least < most:  # the prompt grows with what is kept: the largest that fits is found by halving
        middle = (least + most + 1) // 2
        if task.count([prompt(_at(text, kept(text, middle, side)))])[0] <= fits:
            least = middle
        else:
            most = middle - 1
    ranges = kept(text, least, side)
    remaining = _at(text, ranges)
    if not remaining.strip():
        raise Failed(error)
    before, after = task.count([text, remaining])
    task.notify(f"{before - after:,} of {before:,} tokens are left out")
    return Cut(remaining, ranges, before - after)


def kept(text: str, characters: int, side: Truncate) -> tuple[Range, ...]:
    """
    Where so many characters of a text stand when one side of it goes; cut between words where one is near.

    >>> kept("one two three four", 9, "tail"), kept("one two three four", 9, "head")
    (((0, 7),), ((14, 18),))
    """
    size = len(text)
    if characters >= size:
        return ((0, size),)
    if side == "tail":
        return ((0, _word_end(text, characters)),)
    if side == "head":
        return ((size - _word_end(text[::-1], characters), size),)
    half = characters // 2
    return ((0, _word_end(text, half)), (size - _word_end(text[::-1], half), size))


def _at(text: str, ranges: Sequence[Range]) -> str:
    return "\n\n".join(text[start:end] for start, end in ranges)


def _word_end(text: str, wanted: int) -> int:
    """The end of the last word that is whole at `wanted`; there itself, where no white space is near."""
    near = text[max(0, wanted - NEAR) : wanted + 1]
    ends = [
        place for place, (word, space) in enumerate(pairwise(near), 1) if space.isspace() > word.isspace()
    ]
    return wanted - len(near) + 1 + ends[-1] if ends else wanted


def _ask(task: Task, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    return in_full(task.engine.generate(prompts, sampling), len(prompts), task.notify)


def _texts(answers: Sequence[Completion], keep_empty: bool = False) -> list[str]:
    texts = [answer.text.strip() for answer in answers]
    if not any(texts) and texts:
        raise Failed(UnusableAnswer("the model answered nothing to any part of the text"))
    return texts if keep_empty else [text for text in texts if text]


def _groups(task: Task, parts: Sequence[str], fits: int) -> list[list[str]]:
    """Neighbours that one prompt holds, as many as it can."""
    groups: list[list[str]] = []
    for part in parts:
        if groups and _fits(task, [*groups[-1], part], fits):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _fits(task: Task, parts: Sequence[str], fits: int) -> bool:
    return task.count([render_reduce(task.template, parts, task.values)])[0] <= fits
