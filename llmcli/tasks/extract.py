"""
Pick the main sentences of a text: verbatim, in order, nothing invented.

Each sentence is put to the model with the document before it, "is this a main point, yes or no?", and
the likeliest are kept. A document over the context is read in parts, and the best of all parts are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from llmcli.chunking import Span, sentences
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import LabelScores, Prompt, Usage
from llmcli.tasks.flow import Work
from llmcli.tasks.long import context_of, cut, pieces, too_long
from llmcli.tasks.nouns import Extracted, Result, Task, in_full, total
from llmcli.templates import render_extract

LABELS = ("yes", "no")
SENTENCES = {"short": 1, "medium": 3, "long": 6}  # by the template's parameter `length`
_MARGIN = 8  # tokens: the answer, and what a sentence gains where it meets the prompt


class Scored(msgspec.Struct, frozen=True):
    """A sentence and how the model likes it."""

    span: Span
    p: float | None
    rank: float


class Extract:
    """One prompt a sentence, the document first, so that the engine reads it once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._wanted = SENTENCES.get(str(task.values.get("length", "medium")), SENTENCES["medium"])

    def plan(self, text: str) -> Sequence[Any]:
        """The sentences that hold a word."""
        return [span for span in sentences(text) if any(map(str.isalpha, span.text))]

    def prompt(self, text: str, item: Any) -> Prompt:
        """Document, question, sentence."""
        return render_extract(self.task.template, text, item.text, self.task.values)

    def ask(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """The engine's scores of yes and no."""
        return self.task.engine.score(prompts, LABELS)

    def finish(self, work: Work[LabelScores]) -> Result:
        """The best sentences, in the text's order."""
        error: InputTooLong | None = None
        for answer in work.answers:
            error = error or too_long(answer)
        if error is not None:
            return self._long(work, error)
        answers = [answer for answer in work.answers if isinstance(answer, LabelScores)]
        return self._result(work.text, _scored(work.items, answers), answers)

    def _long(self, work: Work[LabelScores], error: InputTooLong) -> Result:
        """A document over the context: cut on request, else read in parts."""
        text, left_out = work.text, 0
        fits = context_of(self.task, error) - _MARGIN
        if self.task.truncate is not None:
            text, left_out = cut(self.task, text, self._with_longest(work.items, fits), fits, error)
        parts = pieces(self.task, text, self._with_longest(work.items, fits), fits, error)
        asked = [
            (part.text, sentence)
            for part, spans in zip(parts, self._by_part(text, parts))
            for sentence in spans
        ]
        prompts = (self.prompt(document, sentence) for document, sentence in asked)
        answers = in_full(self.ask(prompts), len(asked), self.task.notify, "sentence")
        scored = _scored([sentence for _, sentence in asked], answers)
        made = self._result(text, scored, answers)
        return msgspec.structs.replace(made, chunks=len(parts), left_out=left_out)

    def _with_longest(self, spans: Sequence[Span], fits: int) -> Any:
        """A part's prompt with the longest sentence that it may have to hold: a quarter of the room at most."""
        longest = max((span.text for span in spans), key=len)[: fits // 4 * 3]
        return lambda part: render_extract(self.task.template, part, longest, self.task.values)

    def _by_part(self, text: str, parts: Sequence[Span]) -> Iterator[list[Span]]:
        """The sentences that begin in each part."""
        spans = [span for span in self.plan(text)]
        for number, part in enumerate(parts):
            end = parts[number + 1].start if number + 1 < len(parts) else len(text)
            yield [span for span in spans if part.start <= span.start < end]

    def _result(self, text: str, scored: Sequence[Scored], answers: Sequence[LabelScores]) -> Result:
        best = sorted(scored, key=lambda sentence: -sentence.rank)[: self._wanted]
        chosen = sorted(best, key=lambda sentence: sentence.span.start)
        spans = tuple(
            Extracted(
                text=sentence.span.text,
                line=text.count("\n", 0, sentence.span.start) + 1,
                start=sentence.span.start,
                end=sentence.span.end,
                p=sentence.p,
            )
            for sentence in chosen
        )
        usage = total(answer.usage for answer in answers) if answers else Usage()
        method = answers[0].method if answers else None
        return Result("\n".join(span.text for span in spans), spans=spans, usage=usage, method=method)


def _scored(spans: Sequence[Span], answers: Sequence[LabelScores]) -> list[Scored]:
    return [Scored(span, answer.probabilities[0], _rank(answer)) for span, answer in zip(spans, answers)]


def _rank(answer: LabelScores) -> float:
    """The probability of yes; a server that only chooses gives 1 or 0."""
    p = answer.probabilities[0]
    return float(answer.best == 0) if p is None else p
