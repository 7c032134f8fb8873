"""
A conversation as a Markdown or JSON document, for `/export` and `llm history export`.

Holds all of the conversation, also what left the context, and says so where it did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from llmcli.chat.history import Entry, Record

ROLES = {"user": "You", "assistant": "Model", "summary": "Summary"}
MARKS = {
    "stopped": "stopped", "streaming": "stopped", "length": "cut at the longest answer allowed",
    "degenerate": "stopped: it only repeated itself", "failed": "failed",
    "undone": "taken back", "dropped": "dropped from the context", "summed": "replaced by a summary",
}  # fmt: skip


def moment(seconds: float) -> str:
    """A time of the history, in the local time zone: `2026-11-22 10:04`."""
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")


def marks(entry: Entry) -> str:
    """How a message ended and what became of it; empty for an ordinary one."""
    return ", ".join(MARKS[word] for word in (entry.state, entry.place) if word in MARKS)


def as_markdown(record: Record, entries: Sequence[Entry]) -> str:
    """A document that a person reads; the messages stand as they were written."""
    lines = [f"# {record.heading or f'Conversation {record.id}'}", ""]
    lines += [f"{moment(record.created)} · {record.model}", ""]
    if record.system:
        lines += ["## System", "", record.system, ""]
    for entry in entries:
        note = marks(entry)
        lines += [f"## {ROLES[entry.role]}" + (f" ({note})" if note else ""), "", entry.content, ""]
    return "\n".join(lines)


def as_json(record: Record, entries: Sequence[Entry]) -> str:
    """One JSON object with everything the history knows; `messages` is what chat APIs take."""
    return json.dumps(
        {
            "id": record.id, "name": record.name, "title": record.title, "model": record.model,
            "system": record.system, "created": record.created, "updated": record.updated,
            "messages": [message_fields(entry) for entry in entries],
        },
        ensure_ascii=False, indent=2,
    ) + "\n"  # fmt: skip


def message_fields(entry: Entry) -> dict[str, object]:
    """One message as JSON fields."""
    return {
        "role": entry.role, "content": entry.content, "thinking": entry.thinking, "state": entry.state,
        "place": entry.place, "model": entry.model, "seed": entry.seed, "created": entry.created,
        "seconds": round(entry.seconds, 3),
        "tokens": {
            "prompt": entry.usage.prompt, "answer": entry.usage.answer, "cached": entry.usage.cached,
        },
    }  # fmt: skip


FORMATS: dict[str, Callable[[Record, Sequence[Entry]], str]] = {"md": as_markdown, "json": as_json}
