"""
The sequences of a context: what a request's begins with, and what becomes of it.

Finds what a prompt can be forked from (a resident prefix, a running neighbour, a file) or go on in, and takes
everything back. Knows no answers.
"""

from __future__ import annotations

import time
from collections import deque

from llmcli.engines.llama.context import Batch
from llmcli.engines.llama.library import Log, Model
from llmcli.engines.llama.prefixes import Resident
from llmcli.engines.llama.requests import WORTH_SHARING, WORTH_WAITING, Limits, Request, Slot
from llmcli.engines.llama.room import Room
from llmcli.engines.llama.tokens import common_prefix
from llmcli.errors import EngineCrashed


class Aborted(Exception):
    """A decode was ended by a cancel."""


class NoRoom(Exception):
    """The KV cache had no cells for a batch."""


class Cache(Room):
    """The room, and who has which of its sequences; `batch` is what goes into the next decode."""

    def __init__(
        self, model: Model, limits: Limits, log: Log, slots: list[Slot], waiting: deque[Request]
    ) -> None:
        super().__init__(model, limits, log, slots, waiting)
        self._last: list[int] = []
        self.batch = Batch(limits.batch)
        self.decode_seconds = 0.0
        self.decoded_tokens = 0

    def most_tokens(self) -> int:
        """Tokens of the next decode."""
        if self._kind != "shared" or not self.made:
            return self._limits.batch
        own = sum(slot.past + slot.cells - slot.request.cells for slot in self._slots)
        return self._limits.decode(self.prefixes.cells + own)

    def nearest(self, request: Request) -> tuple[Slot | None, int]:
        """The running request that begins most like this one, and how many tokens can be had from it."""
        if self.whole_only or self.apart or self._limits.sequential or self._model.window:
            return None, 0
        nearest, alike = None, 0
        tokens, most = request.tokens, len(request.tokens) - 1
        for slot in self._slots:
            if alike == most:
                break
            # One look at the first token that would make it the nearest spares most comparisons.
            if slot.request.tokens[alike : alike + 1] == tokens[alike : alike + 1]:
                common = common_prefix(slot.request.tokens, tokens)
                if common > alike:
                    nearest, alike = slot, min(common, most)
        return nearest, alike

    def comes_soon(self, request: Request, slot: Slot, alike: int) -> bool:
        """Whether a running request is just evaluating a long beginning that this one shares."""
        if slot.past >= alike:
            return False
        return alike - max(slot.past, self.prefixes.best(request.tokens)[1]) >= WORTH_WAITING

    def open(self, request: Request, nearest: Slot | None, alike: int) -> Slot:
        """A sequence for a request, forked from the longest resident prefix or the nearest slot."""
        if self._limits.sequential:
            # The result must depend on this prompt alone: an empty cache, pieces of a fixed size.
            while freed := self.prefixes.evict():
                self.free += freed
            self.context.clear_all()
            shared, resident, evaluated = 0, None, 0
        elif self.is_tenant(request):
            return self._move_in(request)
        else:
            before = self.decoded_tokens
            self._recall(request)
            self._share(request)
            evaluated = self.decoded_tokens - before
            resident, shared = self.prefixes.best(request.tokens)
        cells = request.cells - shared
        sequences = [self._take_free() for _ in range(request.beams)]
        sequence = sequences[0]
        if nearest is not None and min(alike, nearest.past) > shared:
            # Its cells may outlive it under this sequence, so they are counted here as well, but for those
            # of a resident that both stand on.
            if resident is not None and nearest.resident is resident:
                self.prefixes.lend(resident, sequence, shared)
            else:
                cells, resident = request.cells, None
            shared = min(alike, nearest.past)
            self.context.fork(nearest.sequence, sequence, shared)
        elif resident is not None:
            self.prefixes.lend(resident, sequence, shared)
        pending = request.tokens[shared:]
        cached = max(0, shared - evaluated)
        return Slot(request, sequences, pending, shared, cached, cells, resident)

    def _move_in(self, request: Request) -> Slot:
        """Go on in the sequence that the one before has left, as far as they begin alike; the rest goes."""
        resident, shared = self.prefixes.best(request.tokens)
        if shared < request.fixed:
            resident = None  # its template's words may be on disk
        self.free += self.prefixes.drop_all_but(resident)
        before = self.decoded_tokens
        self._recall(request)
        evaluated = self.decoded_tokens - before
        resident, shared = self.prefixes.best(request.tokens)
        if resident is None:
            sequence = self._take_free()
        else:
            sequence = resident.sequence
            shared = shared if self.prefixes.hand_over(resident, shared) else 0
        cached = max(0, shared - evaluated)
        return Slot(request, [sequence], request.tokens[shared:], shared, cached, request.cells)

    def _share(self, request: Request) -> None:
        """Evaluate what this prompt shares with its neighbours once, and keep it."""
        if not request.many:
            return
        following = next((other.tokens for other in self._waiting if other is not request), [])
        last = [] if self._last is request.tokens else self._last  # itself, after a decode was aborted
        alike = max(common_prefix(request.tokens, following), common_prefix(request.tokens, last))
        alike = min(alike, len(request.tokens) - 1)
        self._last = request.tokens
        resident, shared = self.prefixes.best(request.tokens)
        if alike - shared < WORTH_SHARING or self.prefixes.full:
            return
        if self._used() + request.cells + alike > self.context.cells:
            return
        sequence = self._evaluate(request, alike, resident, shared)
        if sequence is not None:
            self.free += self.prefixes.keep(sequence, request.tokens[:alike])

    def _recall(self, request: Request) -> None:
        """Have what a template put before the text resident: from disk, or evaluated and kept there."""
        prefix = request.tokens[: request.fixed]
        resident, shared = self.prefixes.best(request.tokens)
        if self.files is None or self.apart or self.is_guest(request):
            return  # what is kept of a cache for all is refused by one of its own, and many rows share this
        if shared >= len(prefix) or self.prefixes.full:
            return
        if not self.files.worth(prefix):
            return
        if not self.is_tenant(request) and self._used() + request.cells + len(prefix) > self.context.cells:
            return
        state = self.files.read(prefix)
        if state is not None:
            sequence = self._take_free(to_keep=True)
            if self.context.set_state(sequence, state):
                self.free += self.prefixes.keep(sequence, prefix)
                return
            self.free.append(sequence)
            self.files.forget(prefix)
        evaluated = self._evaluate(request, len(prefix), resident, shared)
        if evaluated is not None:
            if made := self.context.state(evaluated):
                self.files.write(prefix, made)
            self.free += self.prefixes.keep(evaluated, prefix)

    def _evaluate(self, request: Request, count: int, resident: Resident | None, shared: int) -> int | None:
        """A sequence of a prompt's beginning, part of it a resident's; None where there is no room."""
        sequence = self._take_free(to_keep=True)
        if resident is not None:
            self.prefixes.fork(resident, sequence, shared)
        try:
            start = shared
            while start < count:
                end = min(start + self.piece(request, start), count)
                self.batch.clear()
                self.batch.add(sequence, start, request.tokens[start:end])
                self.decode()
                start = end
        except (Aborted, NoRoom, EngineCrashed) as reason:
            self.context.clear(sequence)
            self.free.append(sequence)
            if isinstance(reason, Aborted):
                raise
            return None  # unshared, then
        return sequence

    def close(self, slot: Slot, keep: bool) -> None:
        """Take a slot's sequence back; with `keep`, its tokens stay resident."""
        self.take_back(slot)
        keep = self.is_tenant(slot.request) or (keep and not self.is_guest(slot.request))
        if keep and slot.past and not self._limits.sequential:
            self.free += self.prefixes.keep(slot.sequence, slot.evaluated)
        else:
            for sequence in slot.sequences:
                self.give_back(sequence)

    def give_back(self, sequence: int) -> None:
        """A sequence is done."""
        last = max(self._slots, key=lambda slot: max(slot.sequences), default=None) if self.apart else None
        if last is not None and max(last.sequences) > sequence:
            highest = max(last.sequences)
            self.context.fork_whole(highest, sequence)
            last.sequences[last.sequences.index(highest)] = sequence
            sequence = highest
        self.context.clear(sequence)
        self.free.append(sequence)

    def rearrange(self, slot: Slot, parents: list[int]) -> None:
        """
        Let a slot's beams go on from these beams, by number.

        A beam that goes on stays where it is, its further children go where a beam ended.
        """
        before = slot.sequences
        taken: dict[int, int] = {}  # the sequence of each new beam
        staying = {parent: beam for beam, parent in reversed(list(enumerate(parents)))}
        unused = [sequence for number, sequence in enumerate(before) if number not in staying]
        for beam, parent in enumerate(parents):
            if staying[parent] == beam:
                taken[beam] = before[parent]
            else:
                taken[beam] = unused.pop()
                self.context.clear(taken[beam])
                self.context.fork_whole(before[parent], taken[beam])
        slot.sequences = [taken[beam] for beam in range(len(parents))] + unused

    def _take_free(self, *, to_keep: bool = False) -> int:
        """
        A free sequence.

        Where each has its own cells, llama.cpp evaluates only neighbours together: what runs is kept at the
        lower end without a gap, what is to stay at the upper.
        """
        if not self.apart:
            return self.free.pop()
        sequence = max(self.free) if to_keep else min(self.free)
        self.free.remove(sequence)
        return sequence

    def take_back(self, slot: Slot) -> None:
        """The resident that a slot began with is its no more: it has cells of its own."""
        if slot.resident is not None:
            self.prefixes.take_back(slot.resident)
        slot.resident, slot.cells = None, slot.request.cells

    def piece(self, request: Request, past: int) -> int:
        """How many tokens of its prompt may go into one decode, behind so many others."""
        if self.context.settings.flash_attention is False:
            return self._limits.piece(past)
        return min(self._limits.batch, request.piece)

    def until_snapshot(self, slot: Slot) -> int:
        """
        Tokens to evaluate before a state that the next turn can go on from must be kept.

        Recurrent state cannot be cut back later: the copy is made when it stands there.
        """
        stable = slot.request.stable
        keeps = self.whole_only and not self._limits.sequential and not slot.request.many
        if not keeps or slot.past >= stable:
            return self._limits.batch
        return stable - slot.past

    def keep_snapshot(self, slot: Slot) -> None:
        """Keep the state that the next turn can go on from, where it stands there now."""
        stable = slot.request.stable
        if not self.whole_only or slot.request.many or slot.past != stable or not stable:
            return
        if self._limits.sequential or len(self.free) <= self._reserve:
            return
        sequence = self.free.pop()
        self.context.fork_whole(slot.sequence, sequence)
        self.free += self.prefixes.keep(sequence, slot.request.tokens[:stable])

    def decode(self) -> None:
        """Evaluate the batch; raises Aborted, NoRoom or EngineCrashed, and then nothing of it is certain."""
        began = time.perf_counter()
        code = self.context.decode(self.batch)
        self.decode_seconds += time.perf_counter() - began
        self.decoded_tokens += self.batch.count
        if code == 2:
            raise Aborted
        if code == 1:
            raise NoRoom
        if code != 0:
            raise EngineCrashed(f"llama.cpp cannot evaluate a batch ({code}): {self._log.last_error()}")
