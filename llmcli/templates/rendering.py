"""
Make the prompt of one text.

The text goes in as a value: nothing in it is read as template language. It stands in the prompt
as it is, but for blank lines around it and white space at its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from llmcli.errors import BadConfig
from llmcli.messages import Message, Prompt
from llmcli.templates.language import compiled
from llmcli.templates.nouns import Template

_MARKS = ("\ue005", "\ue006")  # private characters: no template's own
_BLANK_START = re.compile(r"\A(?:[^\S\n]*\n)+")


def render(template: Template, text: str, values: Mapping[str, Any]) -> Prompt:
    """The prompt for one text; `values` are those that `check_values` gave."""
    return renderer(template, values)(text)


def renderer(template: Template, values: Mapping[str, Any]) -> Callable[[str], Prompt]:
    """A function that makes the prompt of a text; what all texts share is rendered once."""
    opening = _opening(template, values)
    body = compiled(template.prompt)

    def content_of(text: str) -> str:
        try:
            return body.render(values, text=text).rstrip()
        except TemplateError as error:
            raise _broken(template, error) from error

    before = _before_text(content_of) if _is_own(template, values) else None

    def prompt_of(text: str) -> Prompt:
        content = content_of(trimmed(text))
        fixed = len(before) if before is not None and content.startswith(before) else None
        return Prompt((*opening, Message("user", content)), fixed=fixed)

    return prompt_of


def _before_text(content_of: Callable[[str], str]) -> str | None:
    """What stands before any text; None where the template cannot be filled with just any."""
    try:
        contents = [content_of(mark) for mark in _MARKS]
    except BadConfig:
        return None
    return contents[0].partition(_MARKS[0])[0] if contents[0] != contents[1] else None


def _is_own(template: Template, values: Mapping[str, Any]) -> bool:
    """Whether prompts are the template's own words but for the text: no value in them is freely written."""
    for param in template.params:
        value = values.get(param.name)
        if isinstance(value, bool | int | float) or value in ("", None, param.default):
            continue
        if value not in param.choices and value not in param.names.values():
            return False
    return True


def render_reduce(template: Template, parts: Sequence[str], values: Mapping[str, Any]) -> Prompt:
    """The prompt that joins the answers to the parts of a long text: `text` is these answers."""
    text = "\n\n".join(trimmed(part) for part in parts)
    content = _filled(template, template.reduce or "{{ text }}", {**values, "text": text})
    return Prompt(messages=(*_system(template, values), Message("user", content)))


def render_extract(
    template: Template, document: str, sentence: str, place: tuple[int, int], values: Mapping[str, Any]
) -> Prompt:
    """
    Document, yes/no question, sentence; the document first, so that its sentences share it.

    `place` is the sentence's number, from 1, and how many there are: `number` and `count` in the question.
    """
    number, count = place
    question = _filled(template, template.extract or "", {"number": number, "count": count, **values})
    content = f"{trimmed(document)}\n\n{question}\n\n{sentence.strip()}"
    return Prompt(messages=(*_system(template, values), Message("user", content)))


def trimmed(text: str) -> str:
    """The text without blank lines around it and white space at its end; its first line stays indented."""
    return _BLANK_START.sub("", text).rstrip()


def _opening(template: Template, values: Mapping[str, Any]) -> tuple[Message, ...]:
    """What stands before the text: the system message, and the examples as earlier turns."""
    turns: list[Message] = []
    for example in template.examples:
        given = {**values, **example.params, "text": trimmed(example.text)}
        turns.append(Message("user", _filled(template, template.prompt, given)))
        turns.append(Message("assistant", example.reply.strip()))
    return (*_system(template, values), *turns)


def _system(template: Template, values: Mapping[str, Any]) -> tuple[Message, ...]:
    content = _filled(template, template.system, values)
    return (Message("system", content),) if content else ()


def _filled(template: Template, source: str, values: Mapping[str, Any]) -> str:
    try:
        return compiled(source).render(values).rstrip()
    except TemplateError as error:
        raise _broken(template, error) from error


def _broken(template: Template, error: TemplateError) -> BadConfig:
    return BadConfig(f"{template.path or template.name}: {error}")
