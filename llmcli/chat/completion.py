"""
What Tab offers: slash commands and what can follow them.

Knows prompt-toolkit and the table of commands; reads folders only when Tab is pressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from llmcli.chat.settings import SETTINGS
from llmcli.chat.slash import COMMANDS, find, is_command
from llmcli.chat.talk import Talk
from llmcli.errors import LlmError
from llmcli.output.sanitize import sanitize


class SlashCompleter(Completer):
    """Completes a line that begins with a slash."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self._paths = PathCompleter(expanduser=True, get_paths=lambda: [str(talk.doors.cwd)])

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The commands, or what the command before the cursor takes."""
        line = document.text_before_cursor
        if not is_command(line) or "\n" in line:
            return
        word, space, rest = line.partition(" ")
        if not space:
            yield from self._commands(word)
            return
        try:
            kind = find(word).completes
        except LlmError:
            return
        if kind == "file":
            if complete_event.completion_requested:
                yield from self._files(rest, complete_event)
            return
        if kind and " " not in rest:
            for offered in CHOICES[kind](self.talk):
                if offered.startswith(rest):
                    yield Completion(offered, -len(rest), display=sanitize(offered, terminal=True))

    def _commands(self, word: str) -> Iterator[Completion]:
        for command in COMMANDS:
            if command.name.startswith(word):
                yield Completion(command.name, -len(word), display_meta=command.help)

    def _files(self, rest: str, event: CompleteEvent) -> Iterator[Completion]:
        """Paths; a name with spaces is offered in quotes."""
        word = rest.rpartition(" ")[2]
        for one in self._paths.get_completions(Document(word), event):
            path = word + one.text
            text = f'"{path}"' if " " in path else path
            yield Completion(text, -len(word), display=sanitize(one.display_text, terminal=True))


def _commands(talk: Talk) -> list[str]:
    return [command.name for command in COMMANDS]


def _models(talk: Talk) -> list[str]:
    return talk.doors.model_names()


def _templates(talk: Talk) -> list[str]:
    from llmcli.registry import list_templates

    return [*(found.name for found in list_templates(talk.doors.cwd)), "off"]


def _conversations(talk: Talk) -> list[str]:
    records = talk.conversation.history.conversations(50)
    return ["last", *(record.name or str(record.id) for record in records)]


CHOICES: dict[str, Callable[[Talk], list[str]]] = {
    "command": _commands,
    "model": _models,
    "template": _templates,
    "conversation": _conversations,
    "setting": lambda talk: list(SETTINGS),
    "switch": lambda talk: ["on", "off", "show", "hide"],
    "format": lambda talk: ["md", "json"],
}
