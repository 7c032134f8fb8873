"""A title for a conversation, by the `title` template, when somebody asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcli.chat.conversation import brief
from llmcli.messages import Prompt, Sampling

MESSAGES, CHARACTERS = 4, 4000
"""How much of the conversation's beginning is read for it."""


def title_prompt(messages: Sequence[str], cwd: Path) -> tuple[Prompt, Sampling]:
    """What to ask for a title of these messages."""
    from llmcli.registry import find_template
    from llmcli.templates import check_values, load_template, render, sampling_for

    template = load_template(find_template("title", cwd))
    values = check_values(template, {})
    text = "\n\n".join(messages[:MESSAGES])[:CHARACTERS]
    return render(template, text, values), sampling_for(template, values, {})


def tidy(answer: str) -> str:
    """
    The model's answer as a title: one line, no quotation marks.

    >>> tidy('"A trip to Rome"\\n')
    'A trip to Rome'
    """
    return brief(answer.strip().strip('"*#').strip(), 80)
