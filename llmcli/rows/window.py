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
    live: bool = False,
) -> Iterator[list[tuple[T, Outcome]]]:
    """
    (item, outcome) of every item, in order; what is ready at one moment comes as one list.

    `text_of` gives an item's text, or the error that it has already. An empty text gives an empty
    result. What `items` or `answer` raise passes through, after the rows before it.

    What needs no answer is seen when the next answer comes, and on a `live` pipe (`tail -f`) that may be
    never: there a text that is known is asked once more where nothing else is on its way.
    """
    window = _Window(iter(items), text_of, rows, live)
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


class _Window(Generic[T]):
    """`texts` runs in the workers' thread, the rest in the caller's."""

    def __init__(
        self, items: Iterator[T], text_of: Callable[[T], str | LlmError], rows: int, live: bool
    ) -> None:
        self.exhausted = False
        self.failure: Exception | None = None
        self._items, self._text_of, self._rows = items, text_of, rows
        self._live = live
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
                if isinstance(text, str) and (new or self._must_wake(text)):
                    self._asked.setdefault(position, Slot())  # for nobody, where it only wakes
                    position += 1
                    characters += len(text)
                    yield text
        except Exception as error:
            self.failure, self.exhausted = error, True

    def _must_wake(self, text: str) -> bool:
        """
        Whether a known text is asked again, so that an answer comes and its row is seen.

        Its row waits already: an answer that is on its way now will find it there.
        """
        return self._live and not self._asked and bool(text.strip())

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
