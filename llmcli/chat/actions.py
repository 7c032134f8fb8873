"""
What the slash commands do: each takes the talk and the rest of its line.

They say what they did on the talk's screen and raise LlmError for what cannot be done.
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from llmcli.chat.conversation import Conversation, brief
from llmcli.chat.export import FORMATS, moment
from llmcli.chat.screen import AnswerView
from llmcli.chat.talk import Attachment, Talk
from llmcli.chat.titles import tidy, title_prompt
from llmcli.errors import MissingInput, UsageError, from_os_error
from llmcli.messages import Message, Piece, Prompt

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
    name, *values = _words(rest)
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


NUMBERS: dict[str, Callable[[str], Any]] = {
    "temperature": float, "top_k": int, "top_p": float, "min_p": float, "max_tokens": int, "seed": int,
}  # fmt: skip
SETTINGS = (*NUMBERS, "stop", "context", "keys", "plain")


def set_value(talk: Talk, rest: str) -> None:
    """Show the settings, or change one."""
    if not rest:
        talk.screen.table(_settings(talk))
        return
    name, _, value = rest.partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    if name not in SETTINGS:
        raise UsageError(f"no setting {name!r}", hint=", ".join(SETTINGS))
    if not value:
        raise UsageError(f"{name} needs a value", hint=f"example: /set {name} {EXAMPLES[name]}")
    setter = SPECIAL.get(name)
    if setter is not None:
        setter(talk, value)
    else:
        _set_number(talk, name, value)
    talk.screen.whisper(f"{name} {value}")


EXAMPLES = {
    "temperature": "0.7", "top_k": "40", "top_p": "0.95", "min_p": "0.05", "max_tokens": "500", "seed": "7",
    "stop": "END", "context": "8192", "keys": "vi", "plain": "on",
}  # fmt: skip


def _set_number(talk: Talk, name: str, value: str) -> None:
    from llmcli.templates.values import sampling_problem

    number = None
    if not (name in ("max_tokens", "seed") and value == "off"):
        with suppress(ValueError):
            number = NUMBERS[name](value)
        if number is None or sampling_problem(name, number):
            raise UsageError(f"{name} {sampling_problem(name, number or value)}, not {value!r}")
    if name == "seed":
        talk.fixed_seed = number
    else:
        talk.sampling = replace(talk.sampling, **{name: number})


def _set_stop(talk: Talk, value: str) -> None:
    talk.sampling = replace(talk.sampling, stop=() if value == "off" else (value,))


def _set_context(talk: Talk, value: str) -> None:
    if not value.isdecimal() or not int(value):
        raise UsageError(f"the context is a number of tokens, not {value!r}")
    talk.change_model(talk.reference, int(value))


def _set_keys(talk: Talk, value: str) -> None:
    if value not in ("emacs", "vi"):
        raise UsageError(f"keys are emacs or vi, not {value!r}")
    if talk.set_keys is not None:
        talk.set_keys(value)


def _set_plain(talk: Talk, value: str) -> None:
    talk.screen.plain = _switch(value)


SPECIAL: dict[str, Callable[[Talk, str], None]] = {
    "stop": _set_stop, "context": _set_context, "keys": _set_keys, "plain": _set_plain,
}  # fmt: skip


def _settings(talk: Talk) -> list[tuple[str, str]]:
    sampling = talk.sampling
    shown: dict[str, Any] = {name: getattr(sampling, name) for name in NUMBERS if name != "seed"}
    shown["seed"] = "drawn for each answer" if talk.fixed_seed is None else talk.fixed_seed
    shown["stop"] = ", ".join(map(repr, sampling.stop)) or "off"
    shown["max_tokens"] = "off" if sampling.max_tokens is None else sampling.max_tokens
    shown["context"] = f"{talk.window:,} tokens" if talk.window else "the model's"
    shown["plain"] = "on" if talk.screen.plain else "off"
    return [(name, str(value)) for name, value in shown.items()]


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise UsageError(f"on or off, not {value!r}")
    return value == "on"


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
        attach(talk, [path for word in _words(rest) for path in _matching(talk, word)])
    if not talk.attachments:
        talk.screen.say("nothing is attached; example: /read report.txt")
    talk.screen.table((one.name, f"{one.tokens:,} tokens") for one in talk.attachments)


def attach(talk: Talk, paths: list[Path]) -> None:
    """Read files and keep them for the next message."""
    from llmcli.documents import read_document

    texts = [read_document(path, talk.doors.encoding) for path in paths]
    sizes = talk.count(texts) if texts else []
    for path, text, size in zip(paths, texts, sizes):
        talk.attachments.append(Attachment(_shown(talk, path), text, size))


def _matching(talk: Talk, word: str) -> list[Path]:
    pattern = str(talk.doors.cwd / Path(word).expanduser())
    if not any(mark in word for mark in "*?["):
        return [Path(pattern)]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    found = [path for path in found if path.is_file()]
    if not found:
        raise MissingInput(f"no file matches {word}")
    return found


def _shown(talk: Talk, path: Path) -> str:
    try:
        return str(path.relative_to(talk.doors.cwd))
    except ValueError:
        return str(path)


def _words(text: str) -> list[str]:
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
    number = _number(rest, "/undo")
    taken = [turn for _ in range(number) if (turn := talk.conversation.undo())]
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
    talk.next_text = turn.entries[0].content


def go_on(talk: Talk, rest: str) -> None:
    """Let the model write on."""
    last = talk.conversation.last
    if last is None or last.role != "assistant":
        talk.screen.say("there is no answer to go on with; /regen asks again")
        return
    talk.answer(continuing=True)


def copy(talk: Talk, rest: str) -> None:
    """Copy an answer as it was written."""
    number = _number(rest, "/copy")
    answers = talk.conversation.answers()
    if len(answers) < number:
        talk.screen.say("there is no such answer")
        return
    if talk.doors.copy is None:
        raise UsageError("no clipboard here", hint="/export md FILE writes the conversation to a file")
    text = answers[-number].content
    talk.screen.whisper(f"copied {len(text):,} characters to {talk.doors.copy(text)}")


def _number(rest: str, command: str) -> int:
    if not rest:
        return 1
    if not rest.isdecimal() or not int(rest):
        raise UsageError(f"{command} takes a number from 1, not {rest!r}")
    return int(rest)


# ── the context ──────────────────────────────────────────────────────────────────────────────────


def show_context(talk: Talk, rest: str) -> None:
    """What fills the context, in the model's own tokens."""
    talk.measure()
    conversation, turns = talk.conversation, talk.conversation.turns()
    head = [m for m in conversation.messages() if m.role == "system"]
    parts: list[tuple[str, list[Message]]] = [("system message", head)] if head else []
    for number, turn in enumerate(turns, 1):
        said = [Message("assistant" if e.role == "assistant" else "user", e.content) for e in turn.entries]
        parts.append((f"turn {number}: {turn.asked}", said))
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
    talk.compress()


# ── conversations ────────────────────────────────────────────────────────────────────────────────


def clear(talk: Talk, rest: str) -> None:
    """Begin a new conversation with the same system message."""
    old = talk.conversation
    talk.conversation = Conversation(old.history, old.model, old.system)
    talk.attachments.clear()
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
    talk.conversation = Conversation.load(history, history.find(rest), talk.reference)
    talk.attachments.clear()
    talk.measure()
    welcome_back(talk)


def welcome_back(talk: Talk) -> None:
    """Say what was taken up, and show its last turn."""
    conversation = talk.conversation
    turns = conversation.turns()
    talk.screen.whisper(
        f"conversation {conversation.number}{' ' + conversation.name if conversation.name else ''}: "
        f"{len(turns)} {'turn' if len(turns) == 1 else 'turns'}, {talk.used:,} tokens (/show shows them)"
    )
    for turn in turns[-1:]:
        _show_entries(talk, turn.entries)


def show(talk: Talk, rest: str) -> None:
    """The conversation from its beginning, as far as it is in the context."""
    if not talk.conversation.context:
        talk.screen.say("nothing has been said yet")
    if talk.conversation.summary:
        talk.screen.say(f"(summary)\n{talk.conversation.summary}")
    _show_entries(talk, talk.conversation.context)


def _show_entries(talk: Talk, entries: Any) -> None:
    for entry in entries:
        if entry.role == "user":
            talk.screen.whisper("> " + entry.content.replace("\n", "\n. "))
        else:
            view = AnswerView(talk.screen)
            view.feed(Piece(entry.content))
            view.end("■ stopped" if entry.state == "stopped" else "")


def search(talk: Talk, rest: str) -> None:
    """Search all conversations."""
    hits = talk.conversation.history.search(rest)
    if not hits:
        talk.screen.say("nothing found")
    talk.screen.table(
        (str(hit.conversation), hit.name or moment(hit.created)[:10], hit.snippet) for hit in hits
    )


def list_history(talk: Talk, rest: str) -> None:
    """The latest conversations."""
    number = _number(rest, "/history") if rest else 10
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
    words = _words(rest)
    if not words or words[0] not in FORMATS or len(words) > 2:
        raise UsageError("/export takes md or json and a file", hint="example: /export md talk.md")
    conversation = talk.conversation
    if not conversation.number:
        talk.screen.say("nothing has been said yet")
        return
    record = conversation.history.find(str(conversation.number))
    name = words[1] if len(words) == 2 else f"{conversation.name or f'chat-{record.id}'}.{words[0]}"
    text = FORMATS[words[0]](record, conversation.history.entries(record.id))
    path = talk.doors.cwd / Path(name).expanduser()
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{name} is there already", hint="give another name") from None
    except OSError as error:
        raise from_os_error(error, f"write {name}") from error
    talk.screen.whisper(f"written to {name}")


def leave(talk: Talk, rest: str) -> None:
    """End the chat."""
    talk.done = True
