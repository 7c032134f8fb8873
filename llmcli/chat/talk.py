"""
One talk: an engine, a conversation and a screen, and what happens between them.

Loads the model, shows an answer while it is written, saves it, counts tokens. What goes
before an answer (the message, the room for it) is in `asking`. Reads no keys: what needs the
user's decision goes through `choose`, which the loop provides (`repl`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from llmcli.chat.conversation import Conversation, Turn
from llmcli.chat.endings import STATES, note
from llmcli.chat.history import Entry, State
from llmcli.chat.screen import AnswerView, Screen
from llmcli.chat.signals import Interrupted, Signals
from llmcli.chat.timing import Timing
from llmcli.chat.work import Tick, follow, run
from llmcli.engines.base import Engine, EngineInfo
from llmcli.errors import EngineCrashed, LlmError
from llmcli.messages import Completion, Message, Piece, Prompt, Sampling, Usage

if TYPE_CHECKING:
    from llmcli.templates import Template

SAVE_SECONDS = 0.1
"""A growing answer is saved this often; with the tick of the loop it is at most 0.2 s behind."""

PATIENCE = 1.0
"""Seconds of silence before the screen says what we wait for."""


@dataclass(frozen=True)
class Attachment:
    """A file's text that goes with the next message."""

    name: str
    text: str
    tokens: int

    @property
    def quoted(self) -> str:
        """
        As it stands in the message: in a fence that its text does not contain.

        >>> Attachment("a.txt", "hello", tokens=1).quoted
        'a.txt:\\n```\\nhello\\n```'
        """
        fence = "```"
        while fence in self.text:
            fence += "`"
        return f"{self.name}:\n{fence}\n{self.text.rstrip()}\n{fence}"


@dataclass(frozen=True)
class Doors:
    """What the command gives the talk: how to open an engine, and which models there are."""

    open_engine: Callable[[str, int | None], Engine]
    model_names: Callable[[], list[str]] = list
    copy: Callable[[str], str] | None = None
    cwd: Path = field(default_factory=Path)
    encoding: str | None = None


def _nothing() -> None:
    """Nobody wants to know."""


def _no_choice(question: str, options: dict[str, str]) -> str:
    """Nobody is there to choose."""
    return ""


class Talk:
    """
    The state of a chat, which the slash commands act on.

    `chosen` names the fields of `sampling` that somebody has set; the others are the model's to recommend.
    """

    def __init__(
        self, doors: Doors, conversation: Conversation, screen: Screen, signals: Signals, reference: str,
        sampling: Sampling, *, chosen: Iterable[str] = (), context: int | None = None, thinking: bool = True,
        seed: int | None = None,
    ) -> None:  # fmt: skip
        self.doors = doors
        self.conversation = conversation
        self.screen = screen
        self.signals = signals
        self.reference = reference
        self._sampling = sampling
        self._chosen = frozenset(chosen)
        self._set: dict[str, Any] = {}  # fields of Sampling that were set since
        self.context = self.first_context = context
        self.thinking = thinking
        self.show_thinking = False
        self.fixed_seed = self.first_seed = seed
        self.attachments: list[Attachment] = []
        self.template: tuple[Template, dict[str, object]] | None = None
        self.worded: dict[str, str] = {}  # messages that a template worded, and what was typed
        self.timing = Timing()
        self.used = 0
        self.next_text = ""
        self.done = False
        self.choose: Callable[[str, dict[str, str]], str] = _no_choice
        self.set_keys: Callable[[str], None] | None = None
        self.keys = "the terminal's"
        self.on_loaded: Callable[[], None] = _nothing
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._draws = 0
        self._told = ""

    # ── the engine ───────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to load the model; it loads on while the first message is typed."""
        if self._engine is None:
            engine = self._engine = self.doors.open_engine(self.reference, self.context)
            threading.Thread(target=self._learn, args=(engine,), name="llm-load", daemon=True).start()

    def _learn(self, engine: Engine) -> None:
        """Wait for the model, for the bottom line's sake; who asks something will hear of a failure."""
        with suppress(Exception):
            info = engine.info
            beginning = self.conversation.prompt(thinking=self.thinking)
            used = engine.count_tokens([beginning])[0] if beginning.messages else 0
            if engine is self._engine:
                self._info = info
                self.used = self.used or used
                self.on_loaded()
                if not self.alone:
                    self.read_ahead()

    @property
    def engine(self) -> Engine:
        """The engine, loaded; it is opened anew after it died."""
        self.start()
        assert self._engine is not None
        if self._info is None:
            self._info = self._loaded(self._engine)
        return self._engine

    def _loaded(self, engine: Engine) -> EngineInfo:
        """Wait for an engine to be ready. Raises what keeps it from loading."""

        def waiting(seconds: float) -> None:
            if seconds >= PATIENCE:
                self.screen.preview(f"{engine.activity or 'loading the model'} … {seconds:.0f} s")

        try:
            return run(lambda: engine.info, self.signals, waiting)
        finally:
            self.screen.hide_preview()

    @property
    def window(self) -> int:
        """The context window in tokens; 0 while it is not known."""
        return self._info.context if self._info is not None else 0

    @property
    def longest(self) -> int:
        """The longest context that the model can have; 0 where nobody knows."""
        return self._info.longest if self._info is not None else 0

    @property
    def model(self) -> str:
        """The model's name."""
        return self._info.model if self._info is not None else self.reference

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn: what somebody has chosen, else what the model's maker recommends."""
        recommended = self._info.recommended if self._info is not None else {}
        drawn = {name: value for name, value in recommended.items() if name not in self._chosen}
        return replace(self._sampling, **(drawn | self._set))

    def draw_with(self, **chosen: Any) -> None:
        """Draw answers with these fields of Sampling from now on."""
        self._set |= chosen

    def forget(self, name: str) -> None:
        """Draw answers with this field of Sampling as when the chat began."""
        self._set.pop(name, None)

    def change_model(self, reference: str, context: int | None = None) -> None:
        """Go on with another model, or another context; the old one stays where that fails."""
        engine = self.doors.open_engine(reference, context)
        try:
            info = self._loaded(engine)
        except BaseException:
            engine.close()
            raise
        self.close()
        self._engine, self._info = engine, info
        self.reference, self.context = reference, context
        self.conversation.set_model(reference)
        self.measure()

    def count(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each, by the model's own tokenizer."""
        engine = self.engine
        return run(lambda: engine.count_tokens(items), self.signals)

    def measure(self) -> None:
        """Count the conversation again, for the meter."""
        with_system = self.conversation.prompt(thinking=self.thinking)
        try:
            self.used = self.count([with_system])[0] if with_system.messages else 0
        except Interrupted:
            self.signals.interrupted = True  # what was done is done: the prompt says what Ctrl-C is good for

    def read_ahead(self) -> None:
        """Have the engine read, while the user types, what the next turn begins with."""
        engine = self._engine
        if engine is None or self._info is None:
            return
        begun = "".join(f"{one.quoted}\n\n" for one in self.attachments)
        message = Message("user", begun if self.template is None else "")
        with suppress(LlmError):  # it is said when it is asked
            engine.read_ahead(self.conversation.prompt(message, thinking=self.thinking), self.sampling)

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._info = None

    @property
    def alone(self) -> bool:
        """Nobody is there to choose or to read errors in passing: they are raised."""
        return self.choose is _no_choice

    # ── answers ───────────────────────────────────────────────────────────────────────────────────

    def answer_first(self) -> State:
        """Answer what was just said."""
        self._draws = 0
        return self.answer()

    def regenerate(self) -> bool:
        """Answer the last message anew, with other random numbers; False when there is none."""
        replaced = self.conversation.retract_answer()
        last = self.conversation.last
        if last is None or last.role != "user":
            return False
        self._draws += 1
        try:
            self.answer(replaced=replaced)
        except BaseException:  # the engine cannot be opened, or the chat is left
            if replaced is not None and self.conversation.last is last:
                self.conversation.restore(replaced)
            raise
        return True

    def answer(self, continuing: bool = False, replaced: Entry | None = None) -> State:
        """
        Let the model answer, or write on at its last answer; shown and saved as it is written.

        `replaced` is the answer that this one is to stand for; it comes back where no word comes.
        """
        conversation, seed = self.conversation, self._seed()
        prompt = conversation.prompt(thinking=self.thinking and not continuing, continue_last=continuing)
        before = conversation.answers()[-1] if continuing else None
        engine = self.engine
        view = AnswerView(self.screen, self._waiting_for(engine, prompt), self.show_thinking)
        sampling = replace(self.sampling, seed=seed)
        if continuing:
            conversation.reopen_answer()
        else:
            conversation.begin_answer(seed)
        items = follow(lambda: engine.stream(prompt, sampling), self.signals)
        state, usage = self._write_down(items, view, before)
        limited = sampling.max_tokens is not None
        view.end(note(state, wrote=bool(view.text), continued=before is not None, limited=limited))
        if replaced is not None and not view.text:
            conversation.restore(replaced)
            self.screen.whisper("the answer before stays")
        elif state == "failed" and not view.text and before is None:
            self._give_back()
        self._tell_trouble()
        if state in ("done", "length", "degenerate"):
            self.used = min(usage.prompt + usage.answer, self.window or usage.prompt + usage.answer)
        if self._engine is not None and not self.signals.leaving:
            self.measure()
        return state

    def as_typed(self, turn: Turn) -> str:
        """A turn's message as it was typed, where the template will word it once more."""
        message = turn.entries[0].content
        return self.worded.get(message, message) if self.template else message

    def _give_back(self) -> None:
        """A message that got no answer comes back into the prompt: what broke once would break again."""
        turn = self.conversation.undo()
        self.next_text = self.as_typed(turn) if turn else ""

    def _write_down(
        self, items: Iterator[Piece | Completion | Tick], view: AnswerView, before: Entry | None
    ) -> tuple[State, Usage]:
        """Feed the view and the history until the answer is over, however that comes about."""

        def so_far() -> tuple[str, str]:
            if before is None:
                return view.text, view.thinking
            return before.content + view.text, view.thinking or before.thinking

        began = saved = time.monotonic()
        first, kept, usage = 0.0, 0, Usage()
        state: State = "stopped"
        try:
            for item in items:
                now = time.monotonic()
                if isinstance(item, Piece):
                    first = first or now - began
                    view.feed(item)
                elif isinstance(item, Completion):
                    state, usage = STATES[item.finish_reason], item.usage
                else:
                    view.tick()
                size = len(view.text) + len(view.thinking)
                if size > kept and now - saved >= SAVE_SECONDS:
                    self.conversation.grow(*so_far())
                    kept, saved = size, now
        except Interrupted:
            pass
        except LlmError as error:
            state = "failed"
            view.end()
            if isinstance(error, EngineCrashed):
                self.close()
            if self.alone:
                raise
            self.screen.complain(f"error: {error}")
        finally:
            seconds = time.monotonic() - began
            self._finish(so_far(), view, before, state, usage, seconds)
        if state == "stopped" and view.text and not self.signals.leaving:
            with suppress(Interrupted, LlmError):  # the engine tells of whole answers only
                usage = Usage(answer=self.count([view.text])[0])
                self._finish(so_far(), view, before, state, usage, seconds)
        self.timing.add(first, seconds, usage)
        return state, usage

    def _finish(
        self, texts: tuple[str, str], view: AnswerView, before: Entry | None, state: State, usage: Usage,
        seconds: float,
    ) -> None:  # fmt: skip
        """Save an answer's end; what nothing was added to is what it was."""
        if before is not None and not view.text:
            ended = state in ("done", "degenerate") and before.state != "degenerate"
            state = "done" if ended else before.state
            usage, seconds = before.usage, before.seconds
        elif before is not None:
            usage, seconds = before.usage + usage, before.seconds + seconds
        self.conversation.finish(*texts, state, usage, seconds)

    def _seed(self) -> int:
        """A given seed draws the same answers again, each /regen the next ones."""
        if self.fixed_seed is None:
            return random.SystemRandom().getrandbits(31)
        return self.fixed_seed + self._draws

    def _waiting_for(self, engine: Engine, prompt: Prompt) -> Callable[[], str]:
        """What to say while nothing comes: the engine's own words, or how much there is to read."""
        words = f"reading {self.count([prompt])[0]:,} tokens"
        return lambda: engine.activity or words

    def _tell_trouble(self) -> None:
        """Say once that the history cannot be written."""
        trouble = self.conversation.trouble
        if trouble and trouble != self._told:
            self.screen.complain(f"warning: not saved: {trouble}")
        self._told = trouble

    def write(self, prompt: Prompt, sampling: Sampling) -> str:
        """Show an answer that is no part of the conversation; empty when it was stopped."""
        engine = self.engine
        view = AnswerView(self.screen, self._waiting_for(engine, prompt))
        try:
            for item in follow(lambda: engine.stream(prompt, sampling), self.signals):
                if isinstance(item, Piece):
                    view.feed(item)
                elif isinstance(item, Tick):
                    view.tick()
        except Interrupted:
            view.end("■ stopped")
            return ""
        view.end()
        return view.text
