"""
Pick the main sentences of a text: verbatim, in order, nothing invented.

Each sentence is put to the model with the document before it, "is this a main point, yes or no?", and
the likeliest are kept. A document over the context is read in parts; the best of each part, put together as a
text of their own, are then asked about again, so that all are weighed in one context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from llmcli.chunking import Span, sentences
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import LabelScores, Prompt
from llmcli.tasks.flow import Work
from llmcli.tasks.long import context_of, cut, pieces, too_long
from llmcli.tasks.nouns import Extracted, Failed, Result, Task, in_full, total
from llmcli.templates import render_extract

LABELS = ("yes", "no")
SENTENCES = {"short": 1, "medium": 3, "long": 6}  # by the template's parameter `length`
FURTHER = 3
"""
Of each part of a long text, so many sentences more than are wanted are asked about again.

The built-in model's file before the present one, one sentence wanted, ROUGE-1 with 2, 4, 6, 10 and 20
sentences of each part: 0.284, 0.297, 0.294, 0.286 and 0.287 on Digital.gov (49 texts of half a), 0.287,
0.295, 0.289, 0.286 and 0.290 on the posts of other offices (31 texts).
"""
_MARGIN = 16  # tokens: the answer, the sentence's number, and what it gains where it meets the prompt

_NO_SENTENCE = re.compile(r"\s*(?:#{1,6}\s|\|)")  # a heading, a table's row
_WORD = re.compile(r"[⺀-鿿가-힯]|\w+")  # a Chinese or Korean character says as much as a word
_LIST_ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)])\s")


class Candidate(Span, frozen=True):
    """A sentence that can be a main point: the `number`th of `count`, from 1."""

    number: int
    count: int


class Extract:
    """One prompt a sentence, the document first, so that the engine reads it once."""

    mends: tuple[type[LlmError], ...] = ()

    def __init__(self, task: Task) -> None:
        self.task = task
        self._wanted = SENTENCES.get(str(task.values.get("length")), SENTENCES["medium"])

    def plan(self, text: str) -> Sequence[Any]:
        """The sentences that can be a main point."""
        return candidates(text)

    def prompt(self, text: str, item: Any) -> Prompt:
        """Document, question, sentence."""
        place = (item.number, item.count)
        return render_extract(self.task.template, text, item.text, place, self.task.values)

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
        return self._result(work.text, work.items, work.answers)

    def _long(self, work: Work[LabelScores], error: InputTooLong) -> Result:
        """A document over the context: cut on request, else read in parts."""
        task = self.task
        context = context_of(task, error)
        sizes = task.count(span.text for span in work.items)
        spans = [span for span, size in zip(work.items, sizes) if size <= context // 4]
        if not spans:
            raise Failed(error)
        fits = context - _MARGIN - max(size for size in sizes if size <= context // 4)
        left_out = 0
        if task.truncate is not None:
            rest = cut(task, work.text, self._with_sentence, fits, error)
            left_out = rest.left_out
            spans = [span for span in spans if _inside(span, rest.ranges)]
            asked = [(rest.text, span) for span in spans]
            chunks = 1
            if not asked:
                raise Failed(error)
        else:
            parts = pieces(task, work.text, self._with_sentence, fits, error)
            asked = list(_by_part(spans, parts))
            chunks = len(parts)
        answers = self._weigh(asked)
        usage = total(answer.usage for answer in answers)
        if chunks > 1:
            costs = {span.start: size + 1 for span, size in zip(work.items, sizes)}  # and a line's end
            [around] = task.count([self._with_sentence("")])
            most = self._wanted + FURTHER
            digest = _numbered(_best_of_parts(asked, answers, most, costs, fits - around))
            if len(digest) > self._wanted:
                document = "\n".join(span.text for span in digest)
                asked = [(document, span) for span in digest]
                answers = self._weigh(asked)
                usage = total([usage, *(answer.usage for answer in answers)])
        made = self._result(work.text, [span for _, span in asked], answers)
        return msgspec.structs.replace(made, chunks=chunks, left_out=left_out, usage=usage)

    def _weigh(self, asked: Sequence[tuple[str, Candidate]]) -> list[LabelScores]:
        """The scores of sentences, each asked about with its document."""
        prompts = (self.prompt(document, span) for document, span in asked)
        return in_full(self.ask(prompts), len(asked), self.task.notify, "sentence")

    def _with_sentence(self, document: str) -> Prompt:
        return render_extract(self.task.template, document, "-", (1, 1), self.task.values)

    def _result(self, text: str, spans: Sequence[Span], answers: Sequence[Any]) -> Result:
        """The likeliest sentences; of two that are equally likely the first."""
        likely = sorted(range(len(spans)), key=lambda place: -_rank(answers[place]))
        chosen = tuple(
            Extracted(
                text=spans[place].text,
                line=text.count("\n", 0, spans[place].start) + 1,
                start=spans[place].start,
                end=spans[place].end,
                p=answers[place].probabilities[0],
            )
            for place in sorted(likely[: self._wanted])
        )
        return Result(
            "\n".join(self._line(sentence.text) for sentence in chosen),
            method=answers[0].method if answers else None,
            usage=total(answer.usage for answer in answers),
            spans=chosen,
        )

    def _line(self, sentence: str) -> str:
        bullet = self.task.values.get("style") == "bullets" and not _LIST_ITEM.match(sentence)
        return f"- {sentence}" if bullet else sentence


def candidates(text: str) -> list[Candidate]:
    """
    The sentences of a text, without headings, table rows and scraps, where there are others.

    >>> [(it.text, it.number, it.count) for it in candidates("# News\\n\\nThe bridge is open again.")]
    [('The bridge is open again.', 1, 1)]
    """
    found = [span for span in sentences(text) if any(map(str.isalpha, span.text))]
    whole = [
        span for span in found if not _NO_SENTENCE.match(span.text) and len(_WORD.findall(span.text)) >= 3
    ]
    return _numbered(whole or found)


def _numbered(spans: Sequence[Span]) -> list[Candidate]:
    return [
        Candidate(span.start, span.end, span.text, number, len(spans)) for number, span in enumerate(spans, 1)
    ]


def _best_of_parts(
    asked: Sequence[tuple[str, Candidate]],
    answers: Sequence[LabelScores],
    most: int,
    costs: Mapping[int, int],
    room: int,
) -> list[Candidate]:
    """
    At most so many sentences of each part, the likeliest, in the text's order.

    Together they take at most `room` tokens; `costs` has each one's by its start. The best of every part come
    before any part's second, and of these the likeliest first.
    """
    parts: dict[str, list[tuple[float, Candidate]]] = {}
    for (document, span), answer in zip(asked, answers):
        parts.setdefault(document, []).append((-_rank(answer), span))
    ranked = [sorted(part, key=lambda pair: pair[0]) for part in parts.values()]
    kept = []
    for place in range(most):
        for _, span in sorted(
            (part[place] for part in ranked if place < len(part)), key=lambda pair: pair[0]
        ):
            if costs[span.start] <= room:
                kept.append(span)
                room -= costs[span.start]
    return sorted(kept, key=lambda span: span.start)


def _by_part(spans: Sequence[Candidate], parts: Sequence[Span]) -> Iterator[tuple[str, Candidate]]:
    """Each sentence with the part that it begins in."""
    number = 0
    for span in spans:
        while number + 1 < len(parts) and parts[number + 1].start <= span.start:
            number += 1
        yield parts[number].text, span


def _inside(span: Span, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(start <= span.start and span.end <= end for start, end in ranges)


def _rank(answer: LabelScores) -> float:
    """The probability of yes; a server that only chooses gives 1 or 0."""
    p = answer.probabilities[0]
    return float(answer.best == 0) if p is None else p
