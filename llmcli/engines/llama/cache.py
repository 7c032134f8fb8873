"""
The cells that running requests share: who gets a sequence, and what it begins with.

Makes a context large enough for what is coming, finds what a prompt can be forked from (a resident
prefix, a running neighbour, a file), and takes everything back. Knows no answers.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

from llmcli.engines.llama.context import AbortSwitch, Batch, Context, ContextSettings
from llmcli.engines.llama.library import LoadError, Log, Model
from llmcli.engines.llama.prefix_files import PrefixFiles
from llmcli.engines.llama.prefixes import Prefixes, Resident
from llmcli.engines.llama.requests import (
    BRANCH_SEQUENCES,
    FEWER_BRANCH_SEQUENCES,
    MOST_SEQUENCES,
    PREFIXES_APART,
    RESIDENTS,
    WORTH_SHARING,
    WORTH_WAITING,
    Limits,
    Request,
    Slot,
    padded,
)
from llmcli.engines.llama.tokens import common_prefix
from llmcli.errors import EngineCrashed


class Aborted(Exception):
    """A decode was ended by a cancel."""


class NoRoom(Exception):
    """The KV cache had no cells for a batch."""


class Cache:
    """
    One context at a time, and its sequences.

    `slots` and `waiting` are the scheduler's: what runs, and what comes next. `files` are the
    prefixes on disk, where any are kept.
    """

    def __init__(
        self, model: Model, limits: Limits, log: Log, slots: list[Slot], waiting: deque[Request]
    ) -> None:
        self._model = model
        self._limits = limits
        self._log = log
        self._slots = slots
        self._waiting = waiting
        self._context: Context | None = None
        self._prefixes: Prefixes | None = None
        self._last: list[int] = []
        self._planned = (0, 0)  # the cells of a request, and of how many beside it, that the context is for
        self.apart = False  # whether each sequence of the context has cells of its own
        self._plain = False  # whether it was made for requests that are better off without flash attention
        self.whole_only = model.recurrent or model.hybrid
        self._reserve = FEWER_BRANCH_SEQUENCES if self.whole_only else BRANCH_SEQUENCES
        self.abort = AbortSwitch()
        self.batch = Batch(self._limits.batch)
        self.free: list[int] = []
        self.files: PrefixFiles | None = None
        self.decode_seconds = 0.0
        self.decoded_tokens = 0

    @property
    def made(self) -> bool:
        """Whether there is a context."""
        return self._context is not None

    @property
    def context(self) -> Context:
        """The context, once there is one."""
        assert self._context is not None
        return self._context

    @property
    def prefixes(self) -> Prefixes:
        """What is resident in it."""
        assert self._prefixes is not None
        return self._prefixes

    # room

    def make_room(self, request: Request) -> bool:
        """Whether the request fits now."""
        if not self._is_planned(request) and not self._plan(request):
            return False
        context, prefixes = self.context, self.prefixes
        if self.apart:
            return len(self.free) > PREFIXES_APART - prefixes.count
        resident, shared = prefixes.best(request.tokens)
        while self._used() + request.cells - shared > context.cells or len(self.free) <= self._reserve:
            freed = prefixes.evict(spare=resident)
            if not freed:
                if self._slots:
                    return False
                freed = prefixes.evict()  # alone: the prefix it would share must go too
                resident, shared = None, 0
                if not freed:
                    raise LoadError("the KV cache has no room for this prompt")
            self.free += freed
        return True

    def _used(self) -> int:
        return self.prefixes.cells + sum(slot.cells for slot in self._slots)

    def _is_planned(self, request: Request) -> bool:
        """Whether the context was made for requests of this size: asked of every row, so quick."""
        if self._prefixes is None or not self._slots or request.apart != self.apart:
            return False
        if self.apart:
            return request.cells <= self._planned[0]
        own = request.cells - self.prefixes.best(request.tokens)[1]
        return own <= self._planned[0] and self._beside(request) <= self._planned[1]

    def _plan(self, request: Request) -> bool:
        """
        Have a context that is large enough for a request and its like, what they share counted once.

        False where the old one must run empty first.
        """
        if request.apart and self.apart and request.cells <= self._planned[0]:
            return True
        if self._slots and (request.apart or self.apart):
            return False
        others = [
            other
            for other in islice(self._waiting, 64)
            if other is not request and other.apart == request.apart
        ]
        if request.apart:
            self._plan_apart([request, *others])
            return True
        shared = common_prefix(request.tokens, others[0].tokens) if others else 0
        if self._prefixes is not None and not self.apart:
            shared = max(shared, self.prefixes.best(request.tokens)[1])
        own = max(other.cells - shared for other in [request, *others])
        beside = self._beside(request)
        room = min(shared + own * beside, max(shared + own, self._limits.cells))
        wanted = padded(max(room, 512))
        plain = self._is_better_plain(request)
        if self._context is None or self.apart:
            self._new_context(wanted, plain)
        elif not self._slots and wanted > self._context.cells:
            # What is resident is lost with the old one: a growing conversation should not pay that often.
            wanted = max(wanted, min(2 * self._context.cells, self._limits.cells))
            self._new_context(wanted, plain or self._plain)
        elif not self._slots and plain and not self._plain:
            self._new_context(self._context.cells, True)
        elif self._slots and wanted > 2 * self._context.cells:
            return False  # much more is coming than this context was made for
        self._planned = max(own, request.cells - self.prefixes.best(request.tokens)[1]), beside
        return True

    def _plan_apart(self, requests: list[Request]) -> None:
        """As `_plan`, with as many cells for every sequence as the longest needs."""
        longest = max(request.cells for request in requests)
        together = self._limits.together_apart(longest)
        each = padded(longest)
        self._new_context(each, True, apart=together)
        self._planned = each, together

    def _is_better_plain(self, request: Request) -> bool:
        """Whether it is better off without flash attention, and finds an empty cache: see LARGEST_SCORES."""
        return request.make_writer is not None and (self._limits.sequential or self._limits.single)

    def _beside(self, request: Request) -> int:
        """How many like it should fit together."""
        return self._limits.parallel if request.many and not self._limits.sequential else 2

    def _new_context(self, cells: int, plain: bool, apart: int = 0) -> None:
        """A cache of so many cells for all; or for so many running sequences one each, `apart`."""
        if self._context is not None:
            self._context.free()
            self._context = self._prefixes = None  # also where no new one can be made
            self.apart, self._planned = False, (0, 0)
        most = PREFIXES_APART if apart else RESIDENTS
        beside = apart or self._limits.parallel + self._reserve + 2
        sequences = min(MOST_SEQUENCES, beside + most)
        settings = ContextSettings(
            cells=cells * sequences if apart else cells,
            sequences=sequences,
            unified=not apart,
            batch=self._limits.batch,
            threads=self._limits.threads,
            flash_attention=self._limits.flash(cells, plain),
            kv_type=self._limits.kv_type,
        )
        self._context = Context(self._model, settings, self.abort, self._log)
        self.apart, self._plain = apart > 0, plain
        if self.files is not None:
            self.files.flash_attention = settings.flash_attention
        self._prefixes = Prefixes(
            self._context, whole_only=self.whole_only or self.apart, window=self._model.window, most=most
        )
        self.free = list(range(sequences - 1, -1, -1))

    # sequences

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
        else:
            before = self.decoded_tokens
            self._recall(request)
            self._share(request)
            evaluated = self.decoded_tokens - before
            resident, shared = self.prefixes.best(request.tokens)
        cells = request.cells - shared
        sequence = self._take_free()
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
        return Slot(request, sequence, pending, shared, cached, cells, resident)

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
        if self.files is None or self.apart or shared >= len(prefix) or self.prefixes.full:
            return  # what is kept of a cache for all is refused by one of its own, and many rows share this
        if self._used() + request.cells + len(prefix) > self.context.cells or not self.files.worth(prefix):
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
            state = self.context.state(evaluated)
            if state:
                self.files.write(prefix, state)
            self.free += self.prefixes.keep(evaluated, prefix)

    def _evaluate(self, request: Request, count: int, resident: Resident | None, shared: int) -> int | None:
        """A sequence of a prompt's beginning, part of it a resident's; None where there is no room."""
        sequence = self._take_free(to_keep=True)
        if resident is not None:
            self.prefixes.fork(resident, sequence, shared)
        try:
            step = self.piece(request)
            for start in range(shared, count, step):
                self.batch.clear()
                end = min(start + step, count)
                self.batch.add(sequence, start, request.tokens[start:end])
                self.decode()
        except (Aborted, NoRoom, EngineCrashed) as reason:
            self.context.clear(sequence)
            self.free.append(sequence)
            if isinstance(reason, Aborted):
                raise
            return None  # unshared, then
        return sequence

    def close(self, slot: Slot, keep: list[int] | None = None) -> None:
        """Take a slot's sequence back; with `keep`, its tokens stay resident."""
        self.take_back(slot)
        if keep and not self._limits.sequential:
            self.free += self.prefixes.keep(slot.sequence, keep)
        else:
            self.give_back(slot.sequence)

    def give_back(self, sequence: int) -> None:
        """A sequence is done."""
        last = max(self._slots, key=lambda slot: slot.sequence, default=None) if self.apart else None
        if last is not None and last.sequence > sequence:
            self.context.fork_whole(last.sequence, sequence)
            sequence, last.sequence = last.sequence, sequence
        self.context.clear(sequence)
        self.free.append(sequence)

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

    def piece(self, request: Request) -> int:
        """How many tokens of its prompt may go into one decode."""
        if self.context.settings.flash_attention is False:
            return self._limits.batch
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
