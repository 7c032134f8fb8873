"""
What the KV cache already holds: sequences that new prompts may begin with.

Template prefixes, documents under extraction and finished chat turns are all the
same thing here: tokens resident under a sequence number, forked when a prompt begins
alike. Full attention forks anywhere; recurrent state only where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmcli.engines.llama.context import Context
from llmcli.engines.llama.tokens import common_prefix


@dataclass(eq=False)
class Resident:
    """
    Tokens that stand in the cache under a sequence number.

    `lent` to so many running sequences that began with it: their cells are these.
    """

    sequence: int
    tokens: list[int]
    used: int = field(default=0)
    lent: int = 0


class Prefixes:
    """
    The resident sequences of one context, the least recently used given up first.

    `whole_only`: recurrent and hybrid models keep one state per sequence, which
    stands for all of its tokens and cannot be cut back. `window`: of sliding-window
    attention, 0 for none.
    """

    def __init__(self, context: Context, *, whole_only: bool, window: int, most: int) -> None:
        self._context = context
        self._whole_only = whole_only
        self._window = window
        self._most = most
        self._residents: list[Resident] = []
        self._clock = 0
        self._asked: Sequence[int] | None = None  # of `best`, and what it said; None when residents change
        self._found: tuple[Resident | None, int] = (None, 0)

    @property
    def cells(self) -> int:
        """Cells that the residents hold."""
        return sum(len(resident.tokens) for resident in self._residents)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._residents)

    @property
    def full(self) -> bool:
        """Whether running sequences stand on as many residents as there may be: no other can take a place."""
        return sum(resident.lent > 0 for resident in self._residents) >= self._most

    def best(self, tokens: Sequence[int]) -> tuple[Resident | None, int]:
        """
        The resident that shares most with a prompt, and how many tokens of it can be forked.

        At least one token of the prompt is left to evaluate: its logits are wanted.
        """
        if self._asked is tokens:  # a row is asked about several times while it is admitted
            return self._found
        best: tuple[Resident | None, int] = (None, 0)
        for resident in self._residents:
            length = self.usable(resident, tokens)
            if length > best[1]:
                best = (resident, length)
        if best[0] is not None:
            self._clock += 1
            best[0].used = self._clock
        self._asked, self._found = tokens, best
        return best

    def usable(self, resident: Resident, tokens: Sequence[int]) -> int:
        """How many of a prompt's tokens can be forked from a resident."""
        length = min(common_prefix(resident.tokens, tokens), len(tokens) - 1)
        if self._whole_only:
            return length if length == len(resident.tokens) else 0
        if self._window and length < len(resident.tokens):
            first = self._context.first_position(resident.sequence)
            return length if first <= max(0, length - self._window) else 0
        return length

    def fork(self, resident: Resident, sequence: int, length: int) -> None:
        """Begin a sequence with the first tokens of a resident."""
        if self._whole_only:
            self._context.fork_whole(resident.sequence, sequence)
        else:
            self._context.fork(resident.sequence, sequence, length)

    def lend(self, resident: Resident, sequence: int, length: int) -> None:
        """Begin a running sequence with a resident, which stays until `take_back`."""
        self.fork(resident, sequence, length)
        resident.lent += 1

    def hand_over(self, resident: Resident, length: int) -> bool:
        """
        Give a resident that is not lent to a running request, which goes on behind its first tokens.

        False, and an empty sequence, where its state cannot go back so far.
        """
        self._residents.remove(resident)
        self._asked = None
        if self._context.cut(resident.sequence, length):
            return True
        self._context.clear(resident.sequence)
        return False

    def drop_all_but(self, spare: Resident | None) -> list[int]:
        """Forget the others, none of them lent; their sequence numbers are free."""
        return [self.drop(resident) for resident in list(self._residents) if resident is not spare]

    def take_back(self, resident: Resident) -> None:
        """A sequence that a resident was lent to is done."""
        resident.lent -= 1

    def keep(self, sequence: int, tokens: Sequence[int]) -> list[int]:
        """
        Make a sequence resident; the sequence numbers that this sets free.

        A resident that is the beginning of the new one is superseded by it,
        unless its state could not be had from it again or it is lent.
        """
        freed = []
        if not self._whole_only:
            for resident in list(self._residents):
                if not resident.lent and common_prefix(resident.tokens, tokens) == len(resident.tokens):
                    freed.append(self.drop(resident))
        while len(self._residents) >= self._most and (evicted := self.evict()):
            freed += evicted
        self._clock += 1
        self._residents.append(Resident(sequence, list(tokens), self._clock))
        self._asked = None
        return freed

    def evict(self, spare: Resident | None = None) -> list[int]:
        """
        Give up the least recently used resident (but `spare`); its sequence number, if there was one.

        Not one that is lent: its cells would stay taken and be counted no longer.
        """
        candidates = [r for r in self._residents if r is not spare and not r.lent]
        if not candidates:
            return []
        return [self.drop(min(candidates, key=lambda resident: resident.used))]

    def drop(self, resident: Resident) -> int:
        """Forget a resident; its sequence number is free."""
        self._residents.remove(resident)
        self._asked = None
        self._context.clear(resident.sequence)
        return resident.sequence
