"""
The line that is typed: prompt-toolkit with our `keys`, completion, history and bottom line.

Gives the text of a message, nothing else. Input and output of the terminal are injected,
so a test types into a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History as LineHistory
from prompt_toolkit.input import Input
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from llmcli.chat.choice import choose
from llmcli.chat.completion import SlashCompleter
from llmcli.chat.history import History
from llmcli.chat.keys import WholeCharacters, bindings, without_mouse
from llmcli.chat.screen import NARROW
from llmcli.chat.slash import is_command
from llmcli.chat.talk import Talk
from llmcli.chat.typed import as_line, message
from llmcli.errors import LlmError
from llmcli.output.json_text import printable
from llmcli.output.sanitize import sanitize

STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "prompt": "bold"})


class TypedLines(LineHistory):
    """The arrow keys' memory, kept with the conversations."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def load_history_strings(self) -> Iterable[str]:
        """The latest first; none when the file cannot be read."""
        try:
            return self._history.lines()
        except LlmError:
            return []

    def store_string(self, string: str) -> None:
        """Keep a line; a full disk must not keep anybody from talking on."""
        with suppress(LlmError):
            self._history.add_line(printable(string))


class Visible(Processor):
    """Show what is typed or pasted without the characters that a terminal would obey."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """One character stays one, so the cursor keeps its place."""
        return Transformation(
            [(part[0], _same_length(part[1]), *part[2:]) for part in transformation_input.fragments]
        )


def _same_length(text: str) -> str:
    if sanitize(text, terminal=True) == text:
        return text
    return "".join(one if sanitize(one, terminal=True) == one else "\ufffd" for one in text)


class Editor:
    """Reads messages, one after the other."""

    def __init__(
        self, talk: Talk, keys: str = "emacs", input: Input | None = None, output: Output | None = None
    ) -> None:
        self.talk = talk
        self._input, self._output = input, output
        slash = Condition(lambda: is_command(get_app().current_buffer.text))
        self.session: PromptSession[str] = PromptSession(
            message=[("class:prompt", "> ")],
            prompt_continuation=_continuation,
            multiline=True,
            history=TypedLines(talk.conversation.history),
            completer=SlashCompleter(talk),
            complete_while_typing=slash,
            enable_history_search=~slash,
            enable_suspend=True,
            reserve_space_for_menu=4,
            key_bindings=bindings(talk.screen.complain),
            input_processors=[Visible()],
            style=STYLE,
            input=input,
            output=output,
        )
        WholeCharacters(self.session.default_buffer)
        self.set_keys(keys)
        talk.on_loaded = self.session.app.invalidate  # may come from another thread

    def set_keys(self, keys: str) -> None:
        """Edit as emacs does, or vi."""
        self.talk.keys = keys
        self.session.editing_mode = EditingMode.VI if keys == "vi" else EditingMode.EMACS

    def read(self, default: str = "") -> str:
        """
        The next message; `default`, a message, stands in the line already.

        Raises KeyboardInterrupt for Ctrl-C at an empty prompt, EOFError for Ctrl-D, Leaving where the
        program shall end.
        """
        wide = self.session.output.get_size().columns >= NARROW
        self.session.bottom_toolbar = self._bottom_line if wide else None
        return message(self._type(self.session, default=as_line(default)))

    def choose(self, question: str, options: dict[str, str]) -> str:
        """One of the keys; empty for going back."""
        asking: PromptSession[str] = PromptSession(
            input=self._input, output=self._output, key_bindings=without_mouse()
        )
        return choose(self.talk.screen, question, options, lambda prompt: self._type(asking, message=prompt))

    def _type(self, session: PromptSession[str], **settings: Any) -> str:
        """Let the user type a line; every key of the chat comes through here."""
        signals = self.talk.signals
        with signals.at_prompt(session.app):
            return session.prompt(pre_run=signals.check_prompt, **settings)

    def _bottom_line(self) -> str:
        return bottom_line(self.talk, self.session.output.get_size().columns)


def bottom_line(talk: Talk, width: int) -> str:
    """Model, tokens used of the context, tokens a second, and what is unusual now; the first parts win."""
    used = f"{talk.used:,}" + (f"/{talk.window:,}" if talk.window else "") + " tokens"
    parts = [sanitize(talk.model, terminal=True), used]
    if talk.timing.speed:
        parts.append(f"{talk.timing.speed:.1f} tokens/s")
    if talk.attachments:
        parts.append(f"+{sum(one.tokens for one in talk.attachments):,} attached")
    if talk.template:
        parts.append(f"template {talk.template[0].name}")
    if talk.conversation.history.private:
        parts.append("private")
    while len(" · ".join(parts)) > width - 2 and len(parts) > 1:
        parts.pop()
    return " " + " · ".join(parts)


def _continuation(width: int, line: int, wraps: int) -> StyleAndTextTuples:
    """A dot before each further line that was typed; nothing where the terminal only ran out of columns."""
    return [("class:prompt", " " * width if wraps else ". ".ljust(width))]
