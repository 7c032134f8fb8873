"""
The context that running requests share, and whether one more fits: made anew where it is of the wrong kind.

Three kinds, by what is to be answered:

- shared: one KV cache for all. Labels, and answers where the others do not fit.
- apart: a KV cache for each sequence. Many answers at a time, without flash attention on a processor.
- alone: one KV cache and one answer at a time, which goes on in the sequence that the one before has left, so
  that each token stands in the cell of its position; without flash attention on a processor. The turns of a
  chat, single texts, and everything with --sequential.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np

from llmcli.engines.llama.context import AbortSwitch, Batch, Context, ContextSettings
from llmcli.engines.llama.library import LoadError, Log, Model
from llmcli.engines.llama.prefix_files import PrefixFiles
from llmcli.engines.llama.prefixes import Prefixes
from llmcli.engines.llama.requests import (
    BRANCH_SEQUENCES,
    CELL_STEP,
    FEWER_BRANCH_SEQUENCES,
    MOST_BEAMS,
    MOST_SEQUENCES,
    PREFIXES_APART,
    RESIDENTS,
    Limits,
    Request,
    Slot,
    padded,
)
from llmcli.engines.llama.tokens import common_prefix

Kind = Literal["shared", "apart", "alone"]


class Room:
    """
    One context at a time.

    `slots` and `waiting` are the scheduler's: what runs, and what comes next. `files` are the
    prefixes on disk, where any are kept; `free` the sequences that nobody has.
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
        self._kind: Kind = "shared"
        self._planned = (0, 0)  # the cells of a request, and of how many beside it, that the context is for
        self.whole_only = model.recurrent or model.hybrid
        self._reserve = FEWER_BRANCH_SEQUENCES if self.whole_only else BRANCH_SEQUENCES
        self.abort = AbortSwitch()
        self.tainted = False  # whether a cell may hold what is no number
        self.free: list[int] = []
        self.files: PrefixFiles | None = None

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

    @property
    def apart(self) -> bool:
        """Whether each sequence of the context has cells of its own."""
        return self._kind == "apart"

    def is_tenant(self, request: Request) -> bool:
        """Whether it has the cache for itself."""
        return self._kind == "alone" and request.alone

    def is_guest(self, request: Request) -> bool:
        """Whether it is answered between two turns of a conversation, whose sequence stays where it is."""
        return self._kind == "alone" and not request.alone

    def make_room(self, request: Request) -> bool:
        """Whether the request fits now."""
        if self.tainted and not self._wiped():
            return False
        if not self._is_planned(request) and not self._plan(request):
            return False
        context, prefixes = self.context, self.prefixes
        if self.is_tenant(request):
            return True
        if self.apart:
            return len(self.free) - request.beams >= PREFIXES_APART - prefixes.count
        resident, shared = prefixes.best(request.tokens)
        reserve = self._reserve + request.beams
        while self._used() + request.cells - shared > context.cells or len(self.free) < reserve:
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

    def extend(self, slot: Slot) -> bool:
        """Room for more of an answer than was expected; False where only another context has it."""
        request = slot.request
        if self.apart:
            most = self._planned[0] - request.cells
        elif self.is_tenant(request):
            most = self.context.cells - request.cells
        else:
            most = self.context.cells - self._used()
        longer = request.longer(most)
        if longer is None:
            return False
        slot.cells += longer.cells - request.cells
        slot.request = longer
        return True

    @cached_property
    def model_gives_numbers(self) -> bool:
        """
        Whether the logits behind some lone token, in a context of its own, are numbers.

        Also where nobody can tell: there is no room for that, or an adapter may be what breaks them.
        """
        if self._model.adapters:
            return True
        settings = ContextSettings(cells=CELL_STEP, sequences=1, batch=1, threads=self._limits.threads)
        try:
            context = Context(self._model, settings, AbortSwitch(), self._log)
        except LoadError:
            return True
        try:
            size = self._model.vocab_size
            return any(
                self._gives_numbers(context, token)
                for token in (max(self._model.bos, 0), size // 3, size // 2)
            )
        finally:
            context.free()

    def _gives_numbers(self, context: Context, token: int) -> bool:
        context.clear_all()
        batch = Batch(1)
        batch.add(0, 0, [token], "last")
        return context.decode(batch) != 0 or bool(np.isfinite(context.logits(1).max()))

    def _wiped(self) -> bool:
        """
        Begin anew behind an answer that came out as no numbers, once nothing runs.

        Without flash attention even a cell that nobody looks at is multiplied, by 0: a NaN stays one.
        """
        if not self._slots:
            self.free += self.prefixes.drop_all_but(None)
            self.context.clear_all()
            self.tainted = False
        return not self.tainted

    def _used(self) -> int:
        return self.prefixes.cells + sum(slot.cells for slot in self._slots)

    def _is_planned(self, request: Request) -> bool:
        """Whether the context was made for requests of this size: asked of every row, so quick."""
        if self._prefixes is None or not self._slots or self._kind_for(request, lone=False) != self._kind:
            return False
        if self._kind == "alone":
            return False
        if self._kind == "apart":
            return self._is_apart_for(request)
        own = request.cells - self.prefixes.best(request.tokens)[1]
        return own <= self._planned[0] and self._beside(request) <= self._planned[1]

    def _kind_for(self, request: Request, lone: bool) -> Kind:
        """The kind of context that a request wants; `lone` where nothing else is running or waiting."""
        if request.apart and (self._kind == "apart" or not lone or not request.alone):
            return "apart"
        if request.alone and (lone or not request.many or self._limits.sequential):
            return "alone"
        guest = lone and self._kind == "alone" and request.make_writer is not None and not request.many
        return "alone" if guest else "shared"

    def _plan(self, request: Request) -> bool:
        """
        Have a context of the kind and size for a request and its like.

        False where the old one must run empty first.
        """
        others = [other for other in islice(self._waiting, 64) if other is not request]
        kind = self._kind_for(request, lone=not self._slots and not others)
        if self._slots and (kind != self._kind or kind == "alone"):
            return False
        if kind == "apart":
            return self._plan_apart(request, [other for other in others if other.apart])
        if kind == "alone":
            self._plan_alone(request)
            return True
        return self._plan_shared(request, [other for other in others if not other.apart])

    def _plan_shared(self, request: Request, others: list[Request]) -> bool:
        """One cache for all, what they share counted once."""
        ours = self._context if self._kind == "shared" else None
        shared = common_prefix(request.tokens, others[0].tokens) if others else 0
        if ours is not None:
            shared = max(shared, self.prefixes.best(request.tokens)[1])
        own = max(other.cells - shared for other in [request, *others])
        beside = self._beside(request)
        room = min(shared + own * beside, max(shared + own, self._limits.cells))
        wanted = padded(max(room, 512))
        if ours is None:
            self._new_context("shared", wanted)
        elif not self._slots and wanted > ours.cells:
            # What is resident is lost with the old one: that should not happen often.
            self._new_context("shared", max(wanted, min(2 * ours.cells, self._limits.cells)))
        elif self._slots and wanted > 2 * ours.cells:
            return False  # much more is coming than this context was made for
        self._planned = max(own, request.cells - self.prefixes.best(request.tokens)[1]), beside
        return True

    def _plan_apart(self, request: Request, others: list[Request]) -> bool:
        """As many cells for every sequence as the longest needs."""
        if self._kind == "apart" and self._is_apart_for(request):
            return True
        if self._slots:
            return False
        longest = max(other.cells for other in [request, *others])
        beams = max(other.beams for other in [request, *others])
        together = self._limits.together_apart(longest, beams)
        if together < request.beams:
            longest, together = request.cells, self._limits.together_apart(request.cells, request.beams)
        if not others and (self._limits.single or not request.many):
            together = request.beams  # nothing is likely to come beside it
        self._new_context("apart", padded(longest), beside=together)
        self._planned = padded(longest), together
        return True

    def _is_apart_for(self, request: Request) -> bool:
        return request.cells <= self._planned[0] and request.beams <= self._planned[1]

    def _plan_alone(self, request: Request) -> None:
        """Room for the longest conversation so far, with a guest or without."""
        ours = self._context if self._kind == "alone" else None
        if ours is None:
            self._new_context("alone", padded(max(request.cells, 512)))
            return
        beside = 0 if request.alone else self.prefixes.cells
        wanted = padded(max(request.cells, min(request.cells + beside, self._limits.cells)))
        if wanted > ours.cells:
            self._grow(request, max(wanted, min(2 * ours.cells, self._limits.cells)))

    def _grow(self, request: Request, cells: int) -> None:
        """
        A larger context, with what the conversation before has of this one where that has room meanwhile.

        Of a sliding window llama.cpp writes down the window alone, which would stand in other cells.
        """
        resident, shared = self.prefixes.best(request.tokens)
        state = bytearray()
        if resident is not None and shared + cells <= self._limits.cells and not self._model.window:
            self.context.cut(resident.sequence, shared)
            state = self.context.state(resident.sequence)
        self._new_context("alone", cells)
        if state:
            sequence = self.free.pop()
            if self.context.set_state(sequence, state):
                self.free += self.prefixes.keep(sequence, request.tokens[:shared])
            else:
                self.free.append(sequence)

    def _beside(self, request: Request) -> int:
        """How many like it should fit together."""
        return self._limits.parallel if request.many and not self._limits.sequential else 2

    def _new_context(self, kind: Kind, cells: int, beside: int = 0) -> None:
        """A cache of so many cells; `apart`: for each of so many sequences `beside` each other."""
        if self._context is not None:
            self._context.free()
            self._context = self._prefixes = None  # also where no new one can be made
            self._kind, self._planned = "shared", (0, 0)
        apart = kind == "apart"
        most = PREFIXES_APART if apart else RESIDENTS
        # Sequences that share their cells cost nothing; a state for each does.
        together = self._limits.parallel if self.whole_only else max(self._limits.parallel, MOST_BEAMS)
        sequences = min(MOST_SEQUENCES, (beside or together + self._reserve + 2) + most)
        plain = kind != "shared"
        # With --sequential nothing about a row may depend on those before it, which the context grew for.
        longest = self._limits.context if self._limits.sequential else cells
        settings = ContextSettings(
            cells=cells * sequences if apart else cells,
            sequences=sequences,
            unified=not apart,
            batch=self._limits.batch,
            together=self._limits.together(longest) if plain else None,
            threads=self._limits.threads,
            flash_attention=self._limits.flash(plain),
            kv_type=self._limits.kv_type,
        )
        self._context = Context(self._model, settings, self.abort, self._log)
        self._kind = kind
        if self.files is not None:
            self.files.flash_attention = settings.flash_attention
        self._prefixes = Prefixes(
            self._context, whole_only=self.whole_only or apart, window=self._model.window, most=most
        )
        self.free = list(range(sequences - 1, -1, -1))
