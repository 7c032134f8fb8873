"""
Answers in the order of their rows, from workers that finish in any order, in bounded memory.

Rows wait for their answers in a window. Equal texts in the window, or shortly after, are asked once. When the
window is full (one slow row, thousands of quick ones behind it) no more rows are taken until the workers
have finished theirs: so nothing can block, whichever thread reads the rows.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from threading import Lock
from typing import Generic, TypeVar, cast

from llmcli.errors import LlmError
from llmcli.tasks import Result
from llmcli.tasks.nouns import EMPTY, closing

Outcome = Result | LlmError
Answer = Callable[[Iterable[str]], Iterator[tuple[int, Outcome]]]
T = TypeVar("T")

ROWS = 4096  # in the window
CHARACTERS = 16 << 20  # of text in the window
_END = object()


class Slot:
    """Where the answer to one text will be."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome


def in_order(
    items: Iterable[T],
    text_of: Callable[[T], str | LlmError],
    answer: Answer,
    rows: int = ROWS,
) -> Iterator[list[tuple[T, Outcome]]]:
    """
    (item, outcome) of every item, in order; what is ready at one moment comes as one list.

    `text_of` gives an item's text, or the error that it has already. An empty text gives an empty
    result. What `items` or `answer` raise passes through, after the rows before it. What needs no answer is
    seen when the next answer comes; see `deliver` for a pipe on which that may be never.
    """
    window = _Window(iter(items), text_of, rows)
    while not window.exhausted:
        with closing(answer(window.texts())) as answers:
            for position, outcome in answers:
                window.settle(position, outcome)
                if ready := window.ready():
                    yield ready
        if ready := window.ready():
            yield ready
        if window.failure is not None:
            raise window.failure


def deliver(
    items: Iterable[T],
    text_of: Callable[[T], str | LlmError],
    answer: Answer,
    take: Callable[[list[tuple[T, Outcome]]], None],
    rows: int = ROWS,
) -> None:
    """
    The same in the same order, each as soon as it can be, also where no further item ever comes.

    `take` is given what is ready by the thread that finds it so: this one, or the one that reads items (for
    an empty text, an error, a text that is known). Never two at a time. What it raises ends the delivery.
    """
    handing_over = Lock()
    closed = False

    def hand_over() -> None:
        with handing_over:
            if not closed and (ready := window.ready()):
                take(ready)

    window = _Window(iter(items), text_of, rows, hand_over)
    try:
        while not window.exhausted:
            with closing(answer(window.texts())) as answers:
                for position, outcome in answers:
                    window.settle(position, outcome)
                    hand_over()
                    if window.failure is not None:
                        break
            hand_over()
            if window.failure is not None:
                raise window.failure
    finally:
        closed = True  # not under the lock: the other thread may be writing into a pipe that is full


class _Window(Generic[T]):
    """
    `texts` runs in the workers' thread, the rest in the caller's.

    `on_known` is called in the workers' thread after an item came that needs no answer (any more).
    """

    def __init__(
        self,
        items: Iterator[T],
        text_of: Callable[[T], str | LlmError],
        rows: int,
        on_known: Callable[[], None] | None = None,
    ) -> None:
        self.exhausted = False
        self.failure: Exception | None = None
        self._items, self._text_of, self._rows = items, text_of, rows
        self._on_known = on_known
        self._waiting: deque[tuple[T, Slot]] = deque()
        self._asked: dict[int, Slot] = {}
        self._recent: OrderedDict[bytes, Slot] = OrderedDict()

    def texts(self) -> Iterator[str]:
        """The texts to ask, until the window is full or the items end."""
        position = characters = 0
        try:
            while len(self._waiting) < self._rows and characters < CHARACTERS:
                item = cast(T, next(self._items, _END))
                if item is _END:
                    self.exhausted = True
                    return
                text = self._text_of(item)
                slot, new = self._slot(text)
                if new:
                    self._asked[position] = slot
                self._waiting.append((item, slot))
                if new:
                    position += 1
                    characters += len(cast(str, text))
                    yield cast(str, text)
                elif self._on_known is not None:
                    self._on_known()
        except Exception as error:
            self.failure, self.exhausted = error, True

    def _slot(self, text: str | LlmError) -> tuple[Slot, bool]:
        """The place of an answer, and whether it must be asked for."""
        if isinstance(text, LlmError):
            return Slot(text), False
        if not text or text.isspace():
            return Slot(EMPTY), False
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._recent.get(key)
        if known is not None:
            self._recent.move_to_end(key)
            return known, False
        slot = self._recent[key] = Slot()
        if len(self._recent) > self._rows:
            self._recent.popitem(last=False)
        return slot, True

    def settle(self, position: int, outcome: Outcome) -> None:
        """An answer has come."""
        self._asked.pop(position).outcome = outcome

    def ready(self) -> list[tuple[T, Outcome]]:
        """The items at the window's head whose outcomes are known."""
        found: list[tuple[T, Outcome]] = []
        while self._waiting:
            item, slot = self._waiting[0]
            if slot.outcome is None:
                break
            found.append((item, slot.outcome))
            self._waiting.popleft()
        return found
