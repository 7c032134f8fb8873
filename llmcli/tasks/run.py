"""The two doors: `run_tasks` for any number of texts, `stream_task` for one that is shown as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llmcli.engines.base import Engine
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import Prompt, Sampling
from llmcli.tasks.extract import Extract
from llmcli.tasks.flow import Way, flow
from llmcli.tasks.generate import Generate
from llmcli.tasks.label import Label
from llmcli.tasks.long import no_room
from llmcli.tasks.nouns import EMPTY, Failed, Notify, Result, Task, Truncate, closing
from llmcli.tasks.paragraphs import Paragraphs
from llmcli.templates import Template, in_form

_WAYS: dict[str, Callable[[Task], Way[Any]]] = {
    "generate": Generate,
    "label": Label,
    "extract": Extract,
}


def _unheard(news: str) -> None:
    pass


def run_tasks(
    template: Template,
    texts: Iterable[str],
    engine: Engine,
    values: Mapping[str, Any],
    sampling: Sampling,
    *,
    notify: Notify = _unheard,
    truncate: Truncate | None = None,
) -> Iterator[tuple[int, Result | LlmError]]:
    """
    Text in, template, engine, text out: (position in texts, result) as they finish, in any order.

    `values` are those of `check_values`, `sampling` that of `sampling_for`. Texts are drawn when the engine
    has room for them, so they may have no end. One text's failure is its LlmError, and the others go on; a
    text without words gives an empty result, and no model is asked. A text over the context is read in
    parts where the template says how they are joined, cut where `truncate` names the part to leave out, and
    else its InputTooLong stands. `notify` hears what is going on: "part 3 of 7". Closing the iterator
    cancels.

    Raises what ends everything: EngineCrashed, BackendUnreachable, and what `texts` raises.
    """
    task = Task(template, engine, values, in_form(template, values, sampling), notify, truncate)
    return _blamed(task, flow(texts, _way(task)))


def stream_task(
    template: Template,
    text: str,
    engine: Engine,
    values: Mapping[str, Any],
    sampling: Sampling,
    *,
    notify: Notify = _unheard,
    truncate: Truncate | None = None,
) -> Iterator[str | Result]:
    """
    The answer to one text as it is written, then its result; the joined pieces are the result's text.

    Labels and extracted sentences come in one piece. Raises LlmError.
    """
    task = Task(template, engine, values, in_form(template, values, sampling), notify, truncate)
    if not text or text.isspace():
        yield EMPTY
        return
    way = _way(task)
    try:
        if isinstance(way, Generate | Paragraphs):
            yield from way.stream(text)
            return
        for _, answer in flow([text], way):
            if isinstance(answer, LlmError):
                raise answer
            yield answer.text
            yield answer
    except Failed as failed:
        raise _Blame(task).put(failed.error) from failed
    except InputTooLong as error:
        raise _Blame(task).put(error) from error


def prompts_of(template: Template, text: str, engine: Engine, values: Mapping[str, Any]) -> list[Prompt]:
    """What `run_tasks` asks first about a text: one prompt, or one for each paragraph or sentence."""
    if not text or text.isspace():
        return []
    way = _way(Task(template, engine, values, Sampling(), _unheard, None))
    return [way.prompt(text, item) for item in way.plan(text)]


def _blamed(
    task: Task, answers: Iterator[tuple[int, Result | LlmError]]
) -> Iterator[tuple[int, Result | LlmError]]:
    blame = _Blame(task)
    with closing(answers):
        for position, answer in answers:
            yield position, blame.put(answer) if isinstance(answer, LlmError) else answer


class _Blame:
    """Says of what is too long whether the prompt is to blame; worked out once, it is the same for all."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._known = False
        self._prompts: LlmError | None = None

    def put(self, error: LlmError) -> LlmError:
        """The error, or the one that blames the prompt."""
        if not isinstance(error, InputTooLong):
            return error
        if not self._known:
            self._known, self._prompts = True, no_room(self._task, error)
        return self._prompts or error


def _way(task: Task) -> Way[Any]:
    template = task.template
    if template.mode == "generate" and template.keep_layout:
        return Paragraphs(task)
    return _WAYS[template.mode](task)
