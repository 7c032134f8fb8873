"""
Read, ask, show, again: the loop of `llm chat`, and the single question of `--once`.

What is typed comes from `editor` or `line_reader`, what happens with it is in `asking` and `slash`.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.chat import asking, slash
from llmcli.chat.conversation import Conversation
from llmcli.chat.history import LAST
from llmcli.chat.signals import Interrupted, Leaving
from llmcli.chat.talk import Talk
from llmcli.errors import LlmError, UnusableAnswer
from llmcli.messages import DEGENERATE

if TYPE_CHECKING:
    from llmcli.chat.editor import Editor
    from llmcli.chat.line_reader import LineReader

HINT = "Ctrl-D or /exit leaves; Ctrl-C stops an answer"


def run(talk: Talk, editor: Editor | LineReader, first: str = "") -> int:
    """Talk until the user leaves; gives the exit code. `first` is asked before anything is typed."""
    talk.choose = editor.choose
    talk.set_keys = editor.set_keys
    try:
        if first:
            _handle(talk, first)
        while not talk.done and not talk.signals.leaving:
            _turn(talk, editor)
        if not talk.signals.leaving:
            _say_goodbye(talk)
    except Leaving as leaving:
        return leaving.code
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal is gone: there is nobody to tell
            raise
        return talk.signals.leaving or 129
    return talk.signals.leaving


def _turn(talk: Talk, editor: Editor | LineReader) -> None:
    """One prompt and what follows from it."""
    default, talk.next_text = talk.next_text, ""
    talk.screen.end_line()
    talk.read_ahead()
    try:
        text = editor.read(default)
    except KeyboardInterrupt:
        talk.screen.whisper(HINT)
        return
    except EOFError:
        talk.done = True
        return
    except LlmError as error:
        talk.screen.complain(f"error: {error}")
        return
    _handle(talk, text)
    talk.screen.gap()


def _handle(talk: Talk, text: str) -> None:
    """A command or a message; its failure ends neither the chat nor the conversation."""
    if not text.strip() and not talk.attachments:
        return
    try:
        if slash.is_command(text):
            slash.run(talk, text)
        else:
            asking.ask(talk, text[1:] if text.startswith("//") else text)
    except Interrupted:
        talk.screen.whisper("■ stopped")
    except LlmError as error:
        talk.screen.complain(f"error: {error}")


def _say_goodbye(talk: Talk) -> None:
    conversation = talk.conversation
    if conversation.number and not conversation.history.private and talk.screen.terminal:
        talk.screen.whisper(
            f"kept as conversation {conversation.number}; {_way_back(conversation)} goes on with it"
        )


def _way_back(conversation: Conversation) -> str:
    """The command that opens it again; -c where it is the last."""
    history, name = conversation.history, conversation.name
    with suppress(LlmError):
        if history.find(LAST, kind="chat").id != conversation.number:
            return f"llm chat --session {name or conversation.number}"
    return "llm chat -c"


def once(talk: Talk, text: str) -> int:
    """Answer one message and end; errors are raised, also for an answer that is none."""
    state = asking.ask(talk, text)
    if state == "degenerate":
        raise UnusableAnswer(DEGENERATE)
    return 130 if state == "stopped" else 0
