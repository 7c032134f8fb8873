"""
Answer paragraph by paragraph and put the answers where the paragraphs stood (`keep_layout`; see `layout`).

All paragraphs of a text are in flight together. One that exceeds the context is answered in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import Completion, FinishReason, Prompt
from llmcli.tasks.flow import Work
from llmcli.tasks.generate import result_of
from llmcli.tasks.layout import Paragraph, Part, parts, written
from llmcli.tasks.long import chunked, context_of, too_long, too_tight
from llmcli.tasks.nouns import Result, Task, closing, in_full, total
from llmcli.templates import render, renderer

# Of several answers' reasons the first in this order is the text's.
_REASONS: tuple[FinishReason, ...] = ("cancelled", "degenerate", "length", "stop")


class Paragraphs:
    """One prompt a paragraph."""

    mends: tuple[type[LlmError], ...] = (InputTooLong,)

    def __init__(self, task: Task) -> None:
        self.task = task
        self._render = renderer(task.template, task.values)

    def plan(self, text: str) -> Sequence[Any]:
        """The paragraphs that hold words."""
        return [part for part in parts(_body(text)) if isinstance(part, Paragraph)]

    def prompt(self, text: str, item: Any) -> Prompt:
        """The template's prompt for one paragraph."""
        return self._render(item.text)

    def ask(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion | LlmError]]:
        """The engine's completions."""
        return self.task.engine.generate(prompts, self.task.sampling)

    def finish(self, work: Work[Completion]) -> Result:
        """The text with every paragraph's answer in its place."""
        layout = parts(_body(work.text))
        answers = [self._answer(item, answer) for item, answer in zip(work.items, work.answers)]
        return _result(layout, answers)

    def stream(self, text: str) -> Iterator[str | Result]:
        """The same, each part as soon as it and all before it are there. Raises Failed."""
        layout = parts(_body(text))
        items = [part for part in layout if isinstance(part, Paragraph)]
        found: dict[int, Result] = {}
        front = _Front(layout)
        with closing(self.ask(self.prompt(text, item) for item in items)) as answers:
            for place, answer in answers:
                found[place] = self._answer(items[place], answer)
                yield front.take(found)
        yield front.take(found)
        yield _result(layout, [found[place] for place in range(len(items))])

    def _answer(self, item: Paragraph, answer: Completion | LlmError | None) -> Result:
        error = too_long(answer)
        if isinstance(answer, Completion):
            error = too_tight(self.task, answer.usage.prompt, self._room(self.task.engine.info.context))
            if error is None:
                return result_of(self.task, answer)
        assert error is not None
        return self._in_pieces(item, error)

    def _room(self, context: int) -> int:
        """Tokens kept for an answer that is about as long as its paragraph: three fifths of the context."""
        return min(self.task.sampling.max_tokens or context, context * 3 // 5)

    def _in_pieces(self, item: Paragraph, error: InputTooLong) -> Result:
        task = self.task
        context = context_of(task, error)
        chunks = chunked(task, item.text, context - self._room(context), error)
        prompts = [render(task.template, chunk.text, task.values) for chunk in chunks]
        answers = [
            result_of(task, answer) for answer in in_full(self.ask(prompts), len(prompts), task.notify)
        ]
        text = " ".join(answer.text for answer in answers)
        return msgspec.structs.replace(_together(answers), text=text, chunks=len(chunks))


def _body(text: str) -> str:
    """The text without the newline that ends its last line; more than one are blank lines, and stay."""
    return text[:-1] if text.endswith("\n") and not text.endswith("\n\n") else text


class _Front:
    """The parts of a text in order, each given once: as soon as it and all before it are there."""

    def __init__(self, layout: Sequence[Part]) -> None:
        self._parts = deque(layout)
        self._place = 0  # of the next paragraph

    def take(self, found: Mapping[int, Result]) -> str:
        """What can be written now and could not before."""
        ready = []
        while self._parts and (isinstance(self._parts[0], str) or self._place in found):
            part = self._parts.popleft()
            if isinstance(part, str):
                ready.append(part)
            else:
                ready.append(written(part, found[self._place].text))
                self._place += 1
        return "".join(ready)


def _result(layout: Sequence[Part], answers: Sequence[Result]) -> Result:
    text = _Front(layout).take(dict(enumerate(answers)))
    return msgspec.structs.replace(_together(answers), text=text)


def _together(answers: Sequence[Result]) -> Result:
    reasons = {answer.finish_reason for answer in answers}
    return Result(
        "",
        finish_reason=next((reason for reason in _REASONS if reason in reasons), "stop"),
        usage=total(answer.usage for answer in answers),
        chunks=sum(answer.chunks for answer in answers),
        thinking="\n\n".join(answer.thinking for answer in answers if answer.thinking),
    )
