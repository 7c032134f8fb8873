"""
What the model sees of a conversation, and how it changes: said, answered, undone, dropped, summed up.

Every change goes to the history at once. When that cannot be written the conversation
goes on in memory, `trouble` says so, and what it lacks is written as soon as that works
again. Counts nothing and asks nothing: it is given to an engine as a `Prompt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import replace

from llmcli.chat.history import Entry, History, Place, Record, State
from llmcli.errors import LlmError, MissingInput, UsageError
from llmcli.messages import Message, Prompt, Usage

SUMMARY_HEADING = "Summary of the conversation so far:"


class Turn(Struct, frozen=True):
    """A message of the user with the answers to it."""

    entries: tuple[Entry, ...]

    @property
    def asked(self) -> str:
        """The beginning of what the user said, on one line."""
        return brief(self.entries[0].content)


class Conversation:
    """
    One conversation, its number in the history and its messages.

    `number` is 0 until something is said: an empty conversation is not kept.
    """

    def __init__(
        self, history: History, model: str, system: str = "", name: str = "", number: int = 0,
        title: str = "", entries: Sequence[Entry] = (),
    ) -> None:  # fmt: skip
        self.history = history
        self.model = model
        self.system = system
        self.name = name
        self.number = number
        self.title = title
        self.entries = list(entries)
        self.trouble = ""
        self._behind: set[int] = set()  # entries that the history has not taken, or not in their last form
        self._undescribed: dict[str, str] = {}  # changes of model and system message that it lacks
        self._rows: dict[int, int] = {}  # the numbers in the history of entries that it took late

    @classmethod
    def load(cls, history: History, record: Record, model: str = "") -> Conversation:
        """Take a conversation up again; an answer that a crash cut short counts as stopped."""
        entries = []
        for entry in history.entries(record.id):
            if entry.state == "streaming":
                place: Place = "context" if entry.content else "undone"
                entry = replace(entry, state="stopped", place=place)
            entries.append(entry)
        return cls(
            history, model or record.model, record.system, record.name, record.id, record.title, entries
        )

    # ── what the model sees ──────────────────────────────────────────────────────────────────────

    @property
    def context(self) -> list[Entry]:
        """The messages that the model still sees, without summaries."""
        return [entry for entry in self.entries if entry.place == "context" and entry.role != "summary"]

    @property
    def summary(self) -> str:
        """What `compress` put in place of the older messages."""
        parts = [e.content for e in self.entries if e.place == "context" and e.role == "summary"]
        return "\n\n".join(parts)

    @property
    def system_message(self) -> str:
        """The system message with the summary under it."""
        if not self.summary:
            return self.system
        return "\n\n".join(part for part in (self.system, f"{SUMMARY_HEADING}\n{self.summary}") if part)

    @property
    def head(self) -> tuple[Message, ...]:
        """What stands before the first turn."""
        return (Message("system", self.system_message),) if self.system_message else ()

    def messages(self) -> tuple[Message, ...]:
        """The conversation as messages, the system message first."""
        return self.head + as_messages(self.context)

    def prompt(self, *more: Message, thinking: bool = False, continue_last: bool = False) -> Prompt:
        """What to ask the model: the conversation and then `more`."""
        return Prompt(self.messages() + more, thinking=thinking, continue_last=continue_last)

    def turns(self) -> list[Turn]:
        """The context as turns, each beginning with a message of the user."""
        groups: list[list[Entry]] = []
        for entry in self.context:
            if entry.role == "user" or not groups:
                groups.append([])
            groups[-1].append(entry)
        return [Turn(tuple(group)) for group in groups]

    def answers(self) -> list[Entry]:
        """The model's answers in the context, in order."""
        return [entry for entry in self.context if entry.role == "assistant"]

    @property
    def last(self) -> Entry | None:
        """The last message in the context."""
        return self.context[-1] if self.context else None

    # ── saying and answering ─────────────────────────────────────────────────────────────────────

    def say(self, text: str) -> None:
        """The user's message; in the history before anything is asked."""
        self._add(Entry(0, "user", text))

    def begin_answer(self, seed: int | None = None) -> None:
        """An empty answer, to be grown and finished."""
        self._add(Entry(0, "assistant", "", state="streaming", model=self.model, seed=seed))

    def reopen_answer(self) -> None:
        """Let the last answer grow on."""
        self.entries[self._last_answer()] = replace(self.entries[self._last_answer()], state="streaming")

    def grow(self, text: str, thinking: str = "") -> None:
        """Save the answer as far as it is written."""
        at = self._last_answer()
        self.entries[at] = replace(self.entries[at], content=text, thinking=thinking)
        self._change([self.entries[at]], lambda rows: self.history.grow(rows[0], text, thinking))

    def finish(self, text: str, thinking: str, state: State, usage: Usage, seconds: float) -> None:
        """Save the answer's last form; an empty one leaves the context."""
        at = self._last_answer()
        entry = replace(
            self.entries[at], content=text, thinking=thinking, state=state, usage=usage, seconds=seconds
        )
        self.entries[at] = entry
        self._change(
            [entry], lambda rows: self.history.finish(rows[0], text, thinking, state, usage, seconds)
        )
        if not text:
            self._move([entry], "undone")

    def retract_answer(self) -> Entry | None:
        """Take the last answer out of the context, so that it can be given anew; gives it."""
        answer = self.last
        if answer is None or answer.role != "assistant":
            return None
        self._move([answer], "undone")
        return answer

    def restore(self, answer: Entry) -> None:
        """Put back what `retract_answer` took out."""
        self._move([answer], "context")

    def undo(self) -> Turn | None:
        """Take the last turn out of the context; gives it."""
        turns = self.turns()
        if not turns:
            return None
        self._move(turns[-1].entries, "undone")
        return turns[-1]

    def drop(self, turns: Sequence[Turn]) -> None:
        """Take old turns out of the context; they stay in the history."""
        self._move([entry for turn in turns for entry in turn.entries], "dropped")

    def compress(self, turns: Sequence[Turn], text: str) -> None:
        """Put a summary in place of the oldest turns (and of an earlier summary)."""
        replaced = [entry for turn in turns for entry in turn.entries]
        replaced += [e for e in self.entries if e.role == "summary" and e.place == "context"]
        numbers = {entry.id for entry in replaced}
        after = max(at for at, entry in enumerate(self.entries) if entry.id in numbers) + 1
        self.entries = [replace(e, place="summed") if e.id in numbers else e for e in self.entries]
        summary = Entry(self._unsaved_id(), "summary", text)
        self.entries.insert(after, summary)

        def save(rows: list[int]) -> None:
            self._rows[summary.id] = self.history.put_summary(self.number, rows, text)
            self._behind.discard(summary.id)

        self._behind.add(summary.id)
        self._change(replaced, save)

    # ── about it ─────────────────────────────────────────────────────────────────────────────────

    def set_system(self, text: str) -> None:
        """Another system message, from the next turn on."""
        self.system = text
        self._describe(system=text)

    def set_model(self, name: str) -> None:
        """Another model goes on with the conversation."""
        self.model = name
        self._describe(model=name)

    def rename(self, *, name: str | None = None, title: str | None = None) -> None:
        """Name it, title it. UsageError when the name is taken or malformed."""
        if self.number:
            self.history.rename(self.number, name=name, title=title)
        elif name:
            self.history.check_name(name)
        self.name = self.name if name is None else name
        self.title = self.title if title is None else title

    def _describe(self, **changed: str) -> None:
        self._undescribed |= changed
        self._catch_up()

    def _add(self, entry: Entry) -> None:
        entry = replace(entry, id=self._unsaved_id())
        self.entries.append(entry)
        self._behind.add(entry.id)
        self._catch_up()

    def _unsaved_id(self) -> int:
        return -len(self.entries) - 1  # an entry keeps it, so that it stays the same one

    def _move(self, entries: Sequence[Entry], place: Place) -> None:
        numbers = {entry.id for entry in entries}
        self.entries = [replace(e, place=place) if e.id in numbers else e for e in self.entries]
        self._change(entries, lambda rows: self.history.move(rows, place))

    def _change(self, entries: Sequence[Entry], save: Callable[[list[int]], None]) -> None:
        """Save a change of entries: all of it in one step, where the history is not behind."""
        numbers = {entry.id for entry in entries}
        if not numbers & self._behind:
            with self._troubles():
                save([self._rows.get(number, number) for number in numbers])
                return
        self._behind |= numbers
        self._catch_up()

    def _catch_up(self) -> None:
        """Write what the history lacks, in order."""
        with self._troubles():
            for entry in [entry for entry in self.entries if entry.id in self._behind]:
                self._write(entry)
                self._behind.discard(entry.id)
            if self.number and self._undescribed:
                self.history.describe(self.number, **self._undescribed)
            self._undescribed = {}
            self.trouble = ""

    def _write(self, entry: Entry) -> None:
        row = self._rows.get(entry.id, entry.id)
        if row < 0:
            row = self._rows[entry.id] = self._added(entry)
            fresh = Entry(entry.id, entry.role, entry.content, model=entry.model, seed=entry.seed)
            if replace(entry, state="done") == fresh:
                return
        self.history.finish(row, entry.content, entry.thinking, entry.state, entry.usage, entry.seconds)
        self.history.move([row], entry.place)

    def _added(self, entry: Entry) -> int:
        if not self.number:
            self.number = self._started()
        try:
            return self.history.add(
                self.number, entry.role, entry.content, entry.state, entry.model, entry.seed
            )
        except MissingInput:  # deleted meanwhile, and so that stays: this begins another conversation
            self.number = 0
            return self._added(entry)

    def _started(self) -> int:
        """A number in the history; another chat's, where that began a session of this name meanwhile."""
        try:
            number = self.history.start(self.model, self.system, self.name)
        except UsageError:
            return self.history.find(self.name).id
        if self.title:
            with self._troubles():  # the conversation has begun, titled or not
                self.history.rename(number, title=self.title)
        return number

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """Go on without the history where it cannot be written."""
        try:
            yield
        except LlmError as error:
            self.trouble = str(error)

    def _last_answer(self) -> int:
        """Where the last answer of the context stands; later ones may have been taken back."""
        answers = (at for at, e in enumerate(self.entries) if e.role == "assistant" and e.place == "context")
        return max(answers)


def as_messages(entries: Sequence[Entry]) -> tuple[Message, ...]:
    """Entries as the model reads them."""
    return tuple(
        Message("assistant" if entry.role == "assistant" else "user", entry.content) for entry in entries
    )


def brief(text: str, width: int = 60) -> str:
    """
    The beginning of a text, on one line.

    >>> brief("One two\\nthree four five", width=12)
    'One two thr…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
