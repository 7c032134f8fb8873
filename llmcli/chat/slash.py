"""
The slash commands: one table, each with its help; what they do is in `actions`, `settings` and `shelf`.

To add one: a function in one of these that takes the talk and the rest of the line, a
row here, a transcript in tests/chat/transcripts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmcli.chat import actions, settings, shelf
from llmcli.chat.talk import Talk
from llmcli.errors import UsageError
from llmcli.registry import nearest

Completes = Literal["", "command", "file", "model", "template", "setting", "conversation", "switch", "format"]


@dataclass(frozen=True)
class Command:
    """A row of the table. `completes` says what Tab offers after it; `more` is what /help NAME adds."""

    usage: str
    help: str
    run: Callable[[Talk, str], None]
    completes: Completes = ""
    also: tuple[str, ...] = ()
    more: str = ""

    @property
    def name(self) -> str:
        """The command's word, with its slash."""
        return self.usage.split()[0]


def show_help(talk: Talk, rest: str) -> None:
    """All commands, or one."""
    if not rest:
        talk.screen.table((command.usage, command.help) for command in COMMANDS)
        talk.screen.say(FEW_KEYS if talk.screen.dumb else KEYS)
        return
    command = find(rest if rest.startswith("/") else "/" + rest)
    talk.screen.say(f"{command.usage}\n  {command.help}")
    if command.also:
        talk.screen.say(f"  also: {' '.join(command.also)}")
    if command.more:
        talk.screen.say("  " + command.more.replace("\n", "\n  "))


KEYS = """
Enter sends. Alt-Enter or Ctrl-J begins a new line; a pasted one never sends;
after an opening \"\"\" Enter begins a line, until a closing \"\"\".
Up recalls lines that begin the same, Ctrl-R searches them, Tab completes,
Ctrl-G opens $EDITOR. Ctrl-C stops an answer and keeps its part, Ctrl-D leaves.
// sends a line that begins with a slash."""

FEW_KEYS = """
Enter sends; after an opening \"\"\" it begins a line, until a closing \"\"\".
Ctrl-C stops an answer and keeps its part, Ctrl-D leaves.
// sends a line that begins with a slash."""

COMMANDS = (
    Command("/help [COMMAND]", "Show the commands, or one of them.", show_help, "command", ("/?",)),
    Command("/model [NAME]", "Show the models, or go on with another.", actions.model, "model"),
    Command(
        "/template [NAME …|off]", "Word every message by a template.",
        actions.template, "template",
        more="/template translate to=de   from now on each message is translated\n/template off",
    ),
    Command("/system [TEXT|off]", "Show or set the system message.", actions.system),
    Command(
        "/set [NAME VALUE]", "Show or change a setting.", settings.set_value, "setting",
        more="temperature, top_k, top_p, min_p, max_tokens, seed, stop; context;\n"
        "keys (emacs, vi); plain (on, off)\n"
        "/set temperature 0.2   /set temperature default   /set max_tokens off   /set keys vi",
    ),
    Command(
        "/read [FILE …|off]", "Attach files to the next message.", actions.read, "file",
        more="/read report.txt notes/*.md   without a name: what is attached; off: nothing",
    ),
    Command(
        "/regen", "Answer the last message anew (a new seed).", actions.regen, also=("/retry",)
    ),
    Command("/undo [N]", "Take back the last turn, or the last N.", actions.undo),
    Command("/edit", "Take back the last message and change it.", actions.edit),
    Command("/continue", "Let the model write on.", actions.go_on),
    Command("/context", "Show what fills the context, in tokens.", actions.show_context),
    Command("/stats", "Show the speed of the answers.", actions.stats),
    Command("/compress", "Let the model sum up the older turns.", actions.compress),
    Command("/clear", "Begin a new conversation (the old is kept).", shelf.clear, also=("/new",)),
    Command("/copy [N]", "Copy the last answer, or the Nth last.", actions.copy),
    Command("/save NAME", "Name this conversation, for --session NAME.", shelf.save),
    Command("/load NAME|NUMBER", "Go on with another conversation.", shelf.load, "conversation"),
    Command("/search WORDS", "Search all conversations.", shelf.search),
    Command("/export md|json [FILE]", "Write this conversation to a file.", shelf.export, "format"),
    Command("/thinking [on|off|show]", "Show the last thinking; think or not; unfold it.",
            actions.thinking, "switch"),
    Command("/title [TEXT]", "Title this conversation (or the model does).", shelf.title),
    Command("/history [N]", "List the latest conversations.", shelf.list_history),
    Command("/show", "Show this conversation from its beginning.", shelf.show),
    Command("/exit", "Leave (Ctrl-D).", actions.leave, also=("/quit", "/bye")),
)  # fmt: skip


def find(word: str) -> Command:
    """
    The command of a word; a beginning that fits only one will do.

    Raises UsageError with the nearest name.
    """
    by_word = {name: command for command in COMMANDS for name in (command.name, *command.also)}
    if word in by_word:
        return by_word[word]
    fitting = {name: command for name, command in by_word.items() if name.startswith(word)}
    if len({command.name for command in fitting.values()}) == 1:
        return next(iter(fitting.values()))
    close = ", ".join(sorted(fitting)) or nearest(word, by_word)
    raise UsageError(
        f"no command {word}",
        hint=f"did you mean {close}?" if close else f"/help lists them; to send the line: /{word} …",
    )


def is_command(line: str) -> bool:
    """
    Whether a line is a command, not a message.

    >>> is_command("/help"), is_command("//etc"), is_command("hello")
    (True, False, False)
    """
    return line.startswith("/") and not line.startswith("//")


def is_known(text: str) -> bool:
    """
    Whether a text begins with a command that there is.

    >>> is_known("/system Be brief.\\nBe kind."), is_known("/etc/hosts"), is_known("hello")
    (True, False, False)
    """
    try:
        return is_command(text) and bool(find(text.split(maxsplit=1)[0]))
    except UsageError:
        return False


def literal(text: str) -> str:
    """
    A message as it must be typed to be sent as it stands.

    >>> literal("/etc/hosts"), literal("hello")
    ('//etc/hosts', 'hello')
    """
    return "/" + text if text.startswith("/") else text


def run(talk: Talk, line: str) -> None:
    """Do what a line that begins with a slash says; the slash alone lists the commands."""
    if line.strip() == "/":
        line = "/help"
    word, _, rest = line.partition(" ")
    if "\n" in word:
        word, _, rest = line.partition("\n")
    find(word.strip()).run(talk, rest.strip())
