"""
From what was typed to a question that fits: attachments, the template, room in the context.

Nothing leaves the context silently. When the next turn would not fit, the user is told
both numbers and chooses: drop the oldest turns, let the model sum them up, or take a longer context.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from llmcli.chat.conversation import Turn, as_messages, brief
from llmcli.chat.history import State
from llmcli.chat.talk import Talk
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import Message, Prompt

RESERVE = 512
"""Tokens kept free for the answer, unless the context is small or `max_tokens` says less."""

COMPRESS = (
    "Summarize our conversation so far in a few short paragraphs, so that we can go on from the summary "
    "alone. Keep names, numbers, decisions and open questions. Write only the summary."
)


def ask(talk: Talk, text: str) -> State | None:
    """
    Send a message with what is attached to it, and show the answer; gives how that ended.

    When it does not fit and the user goes back, the text waits in the next prompt and the answer
    is None. Raises InputTooLong where nobody can be asked.
    """
    message = worded(talk, text)
    talk.next_text = "" if talk.alone else text  # it waits there, should anything come in between
    if not make_room(talk, message):
        return None
    talk.next_text = ""
    if talk.attachments and text and not talk.conversation.number:
        talk.conversation.rename(title=brief(text, 80))  # a list should not show how the file begins
    if talk.template is not None and not talk.attachments:
        talk.worded[message] = text
    talk.attachments.clear()
    talk.conversation.say(message)
    return talk.answer_first()


def worded(talk: Talk, text: str) -> str:
    """The message: what is attached, then what was typed, through the template if one is set."""
    parts = [one.quoted for one in talk.attachments]
    message = "\n\n".join([*parts, text] if text else parts)
    if talk.template is None:
        return message
    from llmcli.templates import render

    template, values = talk.template
    messages = render(template, message, values).messages
    return messages[-1].content if messages else message


# ── room ─────────────────────────────────────────────────────────────────────────────────────────


def reserve(talk: Talk) -> int:
    """Tokens that an answer should have at least."""
    return min(talk.sampling.max_tokens or RESERVE, RESERVE, max(1, talk.window // 4))


def make_room(talk: Talk, message: str | None) -> bool:
    """
    See that the message and an answer fit; offer what can be done. False: the user goes back.

    Without a message, the last answer goes on.
    """
    talk.engine.info  # noqa: B018 (loads it: the window is not known before)
    while talk.window:
        needed = _needed(talk, message)
        if needed <= talk.window:
            return True
        if not _make_some_room(talk, message, needed):
            return False
    return True


def _needed(talk: Talk, message: str | None, without: int = 0) -> int:
    """Tokens of the conversation less its oldest turns, with a message and room for the answer."""
    turns = talk.conversation.turns()[without:]
    kept = (*talk.conversation.head, *as_messages([entry for turn in turns for entry in turn.entries]))
    if message is None:
        prompt = Prompt(kept, continue_last=True)
    else:
        prompt = Prompt((*kept, Message("user", message)), thinking=talk.thinking)
    return talk.count([prompt])[0] + reserve(talk)


def _make_some_room(talk: Talk, message: str | None, needed: int) -> bool:
    """Let the user choose, and do it."""
    dropped = _turns_to_drop(talk, message)
    longer = min(_doubled(talk.window, needed), talk.longest or needed * 2)
    what = (
        f"this turn needs {needed:,} tokens ({reserve(talk):,} of them for the answer) "
        f"and the context is {talk.window:,}"
    )
    if talk.alone:
        remedy = "use --context, or less text"
        if longer <= talk.window:
            remedy = "it has no longer one: use less text, or another model"
        raise InputTooLong(what, hint=remedy, tokens=needed, context=talk.window)
    options = {"l": f"a longer context: {longer:,} tokens"} if longer > talk.window else {}
    if len(talk.conversation.turns()) > 1:
        options = {"c": "compress: the model sums up the older turns", **options}
    if dropped:
        names = "\n".join(f"“{turn.asked}”" for turn in dropped)
        options = {"d": f"drop {in_words(len(dropped), 'the oldest ')}:\n{names}", **options}
    if not options:
        remedy = "it has no longer one: use less text, /clear, or /model for another"
        raise InputTooLong(what, hint=remedy, tokens=needed, context=talk.window)
    choice = talk.choose(what, options)
    if choice == "c":
        return compress(talk)
    if choice == "l":
        return _lengthen(talk, longer)
    if choice == "d":
        talk.conversation.drop(dropped)
        talk.screen.whisper(f"dropped {in_words(len(dropped))}; the history keeps what was said")
    return choice == "d"


def _turns_to_drop(talk: Talk, message: str | None) -> list[Turn]:
    """The fewest oldest turns without which the message fits; none when it never does."""
    turns = talk.conversation.turns()
    if message is None:
        turns.pop()  # it holds the answer that goes on
    low, high = 1, len(turns)
    if not turns or _needed(talk, message, high) > talk.window:
        return []
    while low < high:
        middle = (low + high) // 2
        if _needed(talk, message, middle) <= talk.window:
            high = middle
        else:
            low = middle + 1
    return turns[:low]


def _lengthen(talk: Talk, context: int) -> bool:
    before = talk.window
    try:
        talk.change_model(talk.reference, context)
    except LlmError as error:
        talk.screen.complain(f"error: {error}")
        return False
    if talk.window <= before:
        talk.screen.complain(f"{talk.model} has no longer context than {before:,} tokens")
        return False
    talk.screen.whisper(f"the context is now {talk.window:,} tokens")
    return True


def compress(talk: Talk) -> bool:
    """Let the model sum up all turns but the last, show the summary and go on from it."""
    old = talk.conversation.turns()[:-1]
    if not old:
        talk.screen.say("there is nothing to sum up yet: it takes two turns")
        return False
    while old and not _summary_fits(talk, old):
        old = old[: len(old) // 2]
    if not old:
        talk.screen.say("the oldest turn alone is too long to be summed up in this context")
        return False
    talk.screen.whisper(f"summing up {in_words(len(old))} …")
    sampling = replace(talk.sampling, temperature=0.0, max_tokens=None, stop=())  # those are for answers
    text = talk.write(_summary_prompt(talk, old), sampling).strip()
    if not text:
        return False
    talk.conversation.compress(old, text)
    talk.measure()
    talk.screen.whisper(f"this summary stands for {in_words(len(old))} now; the history keeps what was said")
    return True


def _summary_prompt(talk: Talk, turns: Sequence[Turn]) -> Prompt:
    said = as_messages([entry for turn in turns for entry in turn.entries])
    return Prompt((*talk.conversation.head, *said, Message("user", COMPRESS)))


def _summary_fits(talk: Talk, turns: Sequence[Turn]) -> bool:
    return not talk.window or talk.count([_summary_prompt(talk, turns)])[0] + reserve(talk) <= talk.window


def in_words(turns: int, which: str = "") -> str:
    """
    A number of turns.

    >>> in_words(1), in_words(2), in_words(1, "the oldest ")
    ('1 turn', '2 turns', 'the oldest turn')
    """
    return f"{which or '1 '}turn" if turns == 1 else f"{which}{turns} turns"


def _doubled(window: int, needed: int) -> int:
    """
    The context to offer: twice as long, as often as needed.

    >>> _doubled(4096, 9000)
    16384
    """
    while window < needed:
        window *= 2
    return window
