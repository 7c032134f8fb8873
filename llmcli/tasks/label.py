"""Choose one label of a closed set for each text, by the probability of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llmcli.errors import LlmError
from llmcli.messages import LabelScores, Prompt
from llmcli.tasks.flow import Work
from llmcli.tasks.long import context_of, cut, too_long
from llmcli.tasks.nouns import Failed, Result, Task, in_full
from llmcli.templates import label_set, renderer

_MARGIN = 8  # tokens a label may take more in its place than alone


class Label:
    """One prompt a text, all labels scored on it. A text over the context is refused, or cut on request."""

    mends: tuple[type[LlmError], ...] = ()

    def __init__(self, task: Task) -> None:
        self.task = task
        self._render = renderer(task.template, task.values)
        self._labels = label_set(task.template, task.values)

    def plan(self, text: str) -> Sequence[Any]:
        """The text itself, once."""
        return (text,)

    def prompt(self, text: str, item: Any) -> Prompt:
        """The template's prompt."""
        return self._render(text)

    def ask(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, LabelScores | LlmError]]:
        """The engine's scores."""
        return self.task.engine.score(prompts, self._labels)

    def finish(self, work: Work[LabelScores]) -> Result:
        """The likeliest label."""
        answer = work.answers[0]
        error = too_long(answer)
        if error is None:
            assert isinstance(answer, LabelScores)
            return _result(answer)
        if self.task.truncate is None:
            raise Failed(error)
        room = max(self.task.count(self._labels)) + _MARGIN
        fits = context_of(self.task, error) - room
        rest = cut(self.task, work.text, self._render, fits, error)
        scores = in_full(self.ask([self._render(rest.text)]), 1, self.task.notify)[0]
        return _result(scores, rest.left_out)


def _result(scores: LabelScores, left_out: int = 0) -> Result:
    return Result(
        scores.label,
        p=scores.p,
        probabilities=dict(zip(scores.labels, scores.probabilities)),
        method=scores.method,
        usage=scores.usage,
        left_out=left_out,
    )
