"""
What the slash commands do: each takes the talk and the rest of its line.

They say what they did on the talk's screen and raise LlmError for what cannot be done.
"""

from __future__ import annotations

import glob
import os
import shlex
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from llmcli.chat import asking, work
from llmcli.chat.conversation import Turn, as_messages
from llmcli.chat.signals import Interrupted, Leaving
from llmcli.chat.talk import Attachment, Talk
from llmcli.errors import MissingInput, UsageError
from llmcli.messages import Message, Prompt
from llmcli.output.json_text import printable
from llmcli.paths import written_out

# ── the model and how it is asked ────────────────────────────────────────────────────────────────


def model(talk: Talk, rest: str) -> None:
    """Show the models, or go on with another."""
    if not rest:
        names = talk.doors.model_names()
        talk.screen.table(
            ("*" if name == talk.reference else " ", name)
            for name in (names if talk.reference in names else [talk.reference, *names])
        )
        return
    talk.change_model(rest, talk.context)
    talk.screen.whisper(f"{talk.model} goes on; {talk.used:,} of {talk.window:,} tokens used")


def template(talk: Talk, rest: str) -> None:
    """Word every message by a template from now on."""
    from llmcli.registry import find_template, list_templates
    from llmcli.templates import check_values, load_template

    if not rest:
        current = talk.template[0].name if talk.template else ""
        talk.screen.table(
            ("*" if found.name == current else " ", found.name, _help_of(found.path))
            for found in list_templates(talk.doors.cwd)
        )
        return
    if rest == "off":
        talk.template = None
        talk.screen.whisper("messages are sent as they are typed")
        return
    name, *values = words_of(rest)
    loaded = load_template(find_template(name, talk.doors.cwd))
    talk.template = (loaded, check_values(loaded, _assignments(values)))
    talk.screen.whisper(f"messages are worded by {loaded.name} until /template off")


def _help_of(path: Path) -> str:
    from llmcli.registry import help_line

    return help_line(path)


def _assignments(words: list[str]) -> dict[str, str]:
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not PARAMETER=VALUE", hint="example: /template translate to=de")
        values[name] = value
    return values


def system(talk: Talk, rest: str) -> None:
    """Show or set the system message."""
    if not rest:
        talk.screen.say(talk.conversation.system_message or "no system message")
        return
    talk.conversation.set_system("" if rest == "off" else rest)
    talk.measure()
    talk.screen.whisper("no system message" if rest == "off" else "from the next turn on")


def thinking(talk: Talk, rest: str) -> None:
    """Show the last thinking; switch it on or off; unfold or fold it."""
    if rest in ("on", "off"):
        talk.thinking = rest == "on"
        talk.screen.whisper("the model may think first" if talk.thinking else "the model answers at once")
    elif rest in ("show", "hide"):
        talk.show_thinking = rest == "show"
        talk.screen.whisper("thinking is shown" if talk.show_thinking else "thinking is folded")
    elif rest:
        raise UsageError(f"/thinking takes on, off, show or hide, not {rest!r}")
    else:
        answers = talk.conversation.answers()
        last = answers[-1].thinking if answers else ""
        if last:
            talk.screen.whisper(last)
        else:
            talk.screen.say("no thinking before the last answer")


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def read(talk: Talk, rest: str) -> None:
    """Attach files to the next message."""
    if rest == "off":
        talk.attachments.clear()
        talk.screen.whisper("nothing is attached")
        return
    if rest:
        attach(talk, [path for word in words_of(rest) for path in _matching(talk, word)])
    if not talk.attachments:
        talk.screen.say("nothing is attached; example: /read report.txt")
    talk.screen.table((one.name, f"{one.tokens:,} tokens") for one in talk.attachments)


def attach(talk: Talk, paths: list[Path]) -> None:
    """Read files and keep them for the next message."""
    from llmcli.documents import read_document

    def read_all() -> list[str]:
        return [read_document(path, talk.doors.encoding) for path in paths]

    def waiting(seconds: float) -> None:
        if seconds >= 1:
            talk.screen.preview(f"reading {', '.join(path.name for path in paths)} … {seconds:.0f} s")

    try:
        texts = work.run(read_all, talk.signals, waiting)
    except (Interrupted, Leaving):
        _let_go(paths)
        raise
    finally:
        talk.screen.hide_preview()
    sizes = talk.count(texts) if texts else []
    for path, text, size in zip(paths, texts, sizes):
        name = _shown(talk, path)
        talk.attachments = [one for one in talk.attachments if one.name != name]  # read anew, not twice
        talk.attachments.append(Attachment(name, text, size))


def _let_go(paths: list[Path]) -> None:
    """Who waits for somebody to write to these gets an empty text: it would take that of the next reader."""
    for path in paths:
        if path.is_fifo():
            with suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def _matching(talk: Talk, word: str) -> list[Path]:
    pattern = str(talk.doors.cwd / written_out(word))
    if not any(mark in word for mark in "*?["):
        return [named(word, Path(pattern))]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    found = [path for path in found if path.is_file()]
    if not found:
        raise MissingInput(f"no file matches {word}")
    return found


def named(word: str, path: Path) -> Path:
    """The path; where nothing is there, the error quotes the word that was typed."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInput(f"no file {word!r}") from None
    except (OSError, ValueError):
        pass  # reading it says what is wrong
    return path


def _shown(talk: Talk, path: Path) -> str:
    try:
        return printable(str(path.relative_to(talk.doors.cwd)))
    except ValueError:
        return printable(str(path))


def words_of(text: str) -> list[str]:
    """The words of a line as a shell cuts them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"cannot read the line: {error}", hint='in quotes: "a b.txt"') from None


# ── the last turn ────────────────────────────────────────────────────────────────────────────────


def regen(talk: Talk, rest: str) -> None:
    """Answer the last message anew."""
    if talk.sampling.temperature == 0:
        talk.screen.whisper("temperature is 0: the same answer comes again (/set temperature 0.7)")
    if not talk.regenerate():
        talk.screen.say("there is nothing to answer yet")


def undo(talk: Talk, rest: str) -> None:
    """Take back the last turns."""
    number = number_in(rest, "/undo")
    taken: list[Turn] = []
    while len(taken) < number and (turn := talk.conversation.undo()):
        taken.append(turn)
    if not taken:
        talk.screen.say("there is nothing to take back")
        return
    talk.measure()
    for turn in taken:
        talk.screen.whisper(f"taken back: {turn.asked}")


def edit(talk: Talk, rest: str) -> None:
    """Take back the last message and put it into the prompt."""
    turn = talk.conversation.undo()
    if turn is None:
        talk.screen.say("there is no message yet")
        return
    talk.measure()
    talk.next_text = talk.as_typed(turn)


def go_on(talk: Talk, rest: str) -> None:
    """Let the model write on."""
    last = talk.conversation.last
    if last is None or last.role != "assistant":
        talk.screen.say("there is no answer to go on with; /regen asks again")
        return
    if asking.make_room(talk, None):
        talk.answer(continuing=True)


def copy(talk: Talk, rest: str) -> None:
    """Copy an answer as it was written."""
    number = number_in(rest, "/copy")
    answers = talk.conversation.answers()
    if len(answers) < number:
        talk.screen.say("there is no such answer")
        return
    if talk.doors.copy is None:
        raise UsageError("no clipboard here", hint="/export md FILE writes the conversation to a file")
    text = answers[-number].content
    talk.screen.whisper(f"copied {len(text):,} characters to {talk.doors.copy(text)}")


LONGEST_NUMBER = 9  # digits


def number_in(rest: str, command: str) -> int:
    """The number after a command, 1 when there is none."""
    if not rest:
        return 1
    if not rest.isdecimal() or len(rest) > LONGEST_NUMBER or not int(rest):
        raise UsageError(f"{command} takes a number from 1, not {rest!r}")
    return int(rest)


# ── the context ──────────────────────────────────────────────────────────────────────────────────


def show_context(talk: Talk, rest: str) -> None:
    """What fills the context, in the model's own tokens."""
    talk.measure()
    conversation, turns = talk.conversation, talk.conversation.turns()
    heads = [("system message", conversation.system), ("summary", conversation.summary)]
    head = " and ".join(name for name, text in heads if text)
    parts = [(head, conversation.head)] if head else []
    for number, turn in enumerate(turns, 1):
        parts.append((f"turn {number}: {turn.asked}", as_messages(turn.entries)))
    prompts: list[Prompt] = []
    so_far: tuple[Message, ...] = ()
    for _, messages in parts:
        so_far = (*so_far, *messages)
        prompts.append(Prompt(so_far, thinking=talk.thinking))
    sums = [0, *(talk.count(prompts) if prompts else [])]
    sizes = [after - before for before, after in pairwise(sums)]
    rows = [(f"{size:,}", name) for size, (name, _) in zip(sizes, parts)]
    rows += [(f"+{one.tokens:,}", f"attached: {one.name}") for one in talk.attachments]
    left = [entry for entry in conversation.entries if entry.place in ("dropped", "summed")]
    talk.screen.table(rows, right=(0,))
    total = f"{talk.used:,} tokens"
    if talk.window:
        total += f" of {talk.window:,} ({talk.used / talk.window:.0%})"
    talk.screen.say(total + (f"; {len(left)} messages have left the context" if left else ""))


def stats(talk: Talk, rest: str) -> None:
    """The speed of the last answer, and the sums."""
    timing = talk.timing
    if not timing.answers:
        talk.screen.say("no answer yet")
        return
    usage, total = timing.usage, timing.total
    talk.screen.table([
        ("last answer", f"{usage.answer:,} tokens in {timing.seconds:.1f} s, {timing.speed:.1f} tokens/s"),
        ("first token", f"after {timing.first:.2f} s"),
        ("prompt", f"{usage.prompt:,} tokens, {usage.cached:,} of them kept from before"),
        ("session", f"{timing.answers} answers, {total.answer:,} tokens in {timing.total_seconds:.1f} s"),
        ("model", talk.model),
    ])  # fmt: skip


def compress(talk: Talk, rest: str) -> None:
    """Let the model sum up the older turns."""
    asking.compress(talk)


def leave(talk: Talk, rest: str) -> None:
    """End the chat."""
    talk.done = True
