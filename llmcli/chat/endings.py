"""How an answer can end, and what the screen says about it."""

from __future__ import annotations

from llmcli.chat.history import State

STATES: dict[str, State] = {
    "stop": "done", "length": "length", "degenerate": "degenerate", "cancelled": "stopped",
}  # fmt: skip

_NOTES: dict[State, str] = {
    "stopped": "■ stopped (/continue goes on, /regen answers anew)",
    "length": "■ cut at the longest answer allowed (/continue goes on)",
    "degenerate": "■ the answer only repeated itself and was stopped (/regen answers anew)",
}

FULL = "■ cut: the context is full (/context shows by what, /compress and /clear make room)"

_NOTHING_YET: dict[State, str] = {
    "stopped": "■ stopped before the first word (/regen asks again)",
    "length": "■ cut before the first word (/set max_tokens N allows more)",
    "degenerate": "■ the model said nothing (/regen asks again)",
}

_NOTHING_MORE: dict[State, str] = {"stopped": _NOTES["stopped"], "degenerate": "■ the model adds nothing"}


def note(state: State, *, wrote: bool, continued: bool, limited: bool = True) -> str:
    """
    What is said under an answer that ended so; "" for nothing.

    `wrote` says that words came, `continued` that they were to go on with an answer, `limited` that a longest
    answer was set: else only the context can have cut it.

    >>> note("degenerate", wrote=False, continued=True), note("done", wrote=True, continued=False)
    ('■ the model adds nothing', '')
    >>> note("length", wrote=True, continued=False, limited=False)
    '■ cut: the context is full (/context shows by what, /compress and /clear make room)'
    """
    if state == "length" and not limited:
        return FULL
    notes = _NOTES if wrote else _NOTHING_MORE if continued else _NOTHING_YET
    return notes.get(state, "")
