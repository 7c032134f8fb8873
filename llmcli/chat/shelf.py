"""
Slash commands about whole conversations: begin, name, take up, find, show, write to a file.

Like `actions`: each takes the talk and the rest of its line, and says what it did on the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.chat.actions import number_in, words_of
from llmcli.chat.conversation import Conversation, brief
from llmcli.chat.export import FORMATS, moment
from llmcli.chat.history import Entry
from llmcli.chat.screen import AnswerView
from llmcli.chat.talk import Talk
from llmcli.chat.titles import tidy, title_prompt
from llmcli.errors import MissingInput, UsageError, from_os_error
from llmcli.messages import Piece
from llmcli.paths import written_out

LINES = 8
"""Of the message that a conversation taken up again ends with."""


def clear(talk: Talk, rest: str) -> None:
    """Begin a new conversation with the same system message."""
    old = talk.conversation
    talk.conversation = Conversation(old.history, old.model, old.system)
    _detach(talk)
    talk.measure()
    kept = f"; the old one is kept as {old.number}" if old.number and not old.history.private else ""
    talk.screen.whisper("a new conversation" + kept)


def save(talk: Talk, rest: str) -> None:
    """Name the conversation."""
    if not rest:
        raise UsageError("/save needs a name", hint="example: /save trip")
    if talk.conversation.history.private:
        raise UsageError("this chat is private and is not kept", hint="/export md FILE writes it to a file")
    talk.conversation.rename(name=rest)
    talk.screen.whisper(f"kept as {rest}: llm chat --session {rest} goes on with it")


def load(talk: Talk, rest: str) -> None:
    """Go on with another conversation."""
    if not rest:
        raise UsageError("/load needs a name or a number", hint="/history lists them")
    history = talk.conversation.history
    try:
        found = history.find(rest, kind="chat")
    except MissingInput as error:
        raise MissingInput(error.message, hint="/history lists them") from None
    talk.conversation = Conversation.load(history, found)
    if talk.conversation.model != talk.reference:
        talk.conversation.set_model(talk.reference)
    _detach(talk)
    talk.measure()
    welcome_back(talk)


def _detach(talk: Talk) -> None:
    """What was attached was for the conversation that is left."""
    if talk.attachments:
        talk.screen.whisper("no longer attached: " + ", ".join(one.name for one in talk.attachments))
        talk.attachments.clear()


def welcome_back(talk: Talk) -> None:
    """Say what was taken up, and show its last turn."""
    conversation = talk.conversation
    turns = conversation.turns()
    talk.screen.whisper(
        f"conversation {conversation.number}{' ' + conversation.name if conversation.name else ''}: "
        f"{len(turns)} {'turn' if len(turns) == 1 else 'turns'}, {talk.used:,} tokens (/show shows them)"
    )
    for turn in turns[-1:]:
        _show_entries(talk, turn.entries, most=LINES)


def show(talk: Talk, rest: str) -> None:
    """The conversation from its beginning, as far as it is in the context."""
    if not talk.conversation.context:
        talk.screen.say("nothing has been said yet")
    if talk.conversation.summary:
        talk.screen.say(f"(summary)\n{talk.conversation.summary}")
    _show_entries(talk, talk.conversation.context)


def _show_entries(talk: Talk, entries: Sequence[Entry], most: int | None = None) -> None:
    """`most` is how many lines of a message are shown; it may hold whole files."""
    for entry in entries:
        if entry.role == "user":
            lines = entry.content.split("\n")
            if most is not None and len(lines) > most + 1:  # what is asked often stands below a long text
                half = most // 2
                lines[half:-half] = [f"… {len(lines) - 2 * half:,} more lines (/show)"]
            talk.screen.whisper("> " + "\n. ".join(lines))
        else:
            view = AnswerView(talk.screen)
            view.feed(Piece(entry.content))
            view.end("■ stopped" if entry.state == "stopped" else "")


def search(talk: Talk, rest: str) -> None:
    """Search all conversations."""
    if not rest.strip(' "'):
        raise UsageError("/search needs words", hint="example: /search train station")
    hits = talk.conversation.history.search(rest)
    if not hits:
        talk.screen.say("nothing found")
    talk.screen.table(
        (str(hit.conversation), hit.name or moment(hit.created)[:10], hit.snippet) for hit in hits
    )


def list_history(talk: Talk, rest: str) -> None:
    """The latest conversations."""
    number = number_in(rest, "/history") if rest else 10
    records = list(talk.conversation.history.conversations(number))
    if not records:
        talk.screen.say("no conversation is kept yet")
    talk.screen.table(
        (str(r.id), r.name or "-", moment(r.updated), str(r.messages), brief(r.heading)) for r in records
    )


def title(talk: Talk, rest: str) -> None:
    """Title the conversation, by hand or by the model."""
    if not talk.conversation.context:
        talk.screen.say("nothing has been said yet")
        return
    text = rest or _written_title(talk)
    if text:
        talk.conversation.rename(title=text)
        talk.screen.whisper(f"titled: {text}")


def _written_title(talk: Talk) -> str:
    prompt, sampling = title_prompt([entry.content for entry in talk.conversation.context], talk.doors.cwd)
    return tidy(talk.write(prompt, sampling))


def export(talk: Talk, rest: str) -> None:
    """Write the conversation to a file."""
    words = words_of(rest)
    if not words or words[0] not in FORMATS or len(words) > 2:
        raise UsageError("/export takes md or json and a file", hint="example: /export md talk.md")
    conversation = talk.conversation
    if not conversation.number:
        talk.screen.say("nothing has been said yet")
        return
    record = conversation.history.find(str(conversation.number))
    name = words[1] if len(words) == 2 else f"{conversation.name or f'chat-{record.id}'}.{words[0]}"
    text = FORMATS[words[0]](record, conversation.history.entries(record.id))
    path = talk.doors.cwd / written_out(name)
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{name} is there already", hint="give another name") from None
    except OSError as error:
        raise from_os_error(error, f"write {name}") from error
    talk.screen.whisper(f"written to {name}")
