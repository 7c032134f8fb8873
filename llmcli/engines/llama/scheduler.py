"""
Many prompts through one context: continuous batching.

Requests wait in a queue, get a sequence while the KV cache has room for prompt and
answer, share every decode, and leave in any order. Knows tokens, sequences and
logits; not the wire, not chat templates.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llmcli.engines.llama.beams import BeamSearch
from llmcli.engines.llama.cache import Aborted, Cache, NoRoom
from llmcli.engines.llama.library import Array, LoadError, Log, Model
from llmcli.engines.llama.requests import (
    AHEAD_SECONDS,
    FOLLOWS_SECONDS,
    Begun,
    Event,
    Limits,
    Request,
    Slot,
)
from llmcli.engines.llama.samplers import Candidates
from llmcli.engines.llama.scoring import Added, Scoring
from llmcli.engines.llama.tokens import common_prefix
from llmcli.engines.llama.writer import Writer
from llmcli.errors import BadConfig, EngineCrashed, LlmError, ModelError, UnusableAnswer
from llmcli.messages import LabelScores, Piece

DAMAGED = "the file is damaged, or was converted wrongly: get it anew"

Runs = list[tuple[Slot, int, list[int]]]
"""Slots in a batch, each with the tokens that it goes on by and the rows of its logits, one for each beam."""


class Scheduler:
    """
    The loop that answers requests. `run` stays in it; `submit` and `cancel` come from other threads.

    `emit(id, item)` is called with the pieces of streamed answers and with every
    Completion, LabelScores or LlmError; `progress(text)` before each decode of a long prompt.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        log: Log,
        emit: Event,
        progress: Callable[[str], None],
        temperature_scale: float = 1.0,
    ) -> None:
        self._limits = limits
        self._emit = emit
        self._progress = progress
        self._lock = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._cancelled: set[int] = set()
        self._waiting: deque[Request] = deque()
        self._slots: list[Slot] = []
        self.cache = Cache(model, limits, log, self._slots, self._waiting)
        self._scoring = Scoring(self.cache, temperature_scale, self._scored)
        self.candidates = Candidates(model.vocab_size)
        self.busy_seconds = 0.0
        self._ahead: Slot | None = None  # what is read while nobody asks
        self._read_in_turn = 0  # decodes of prompts since one of writing, where each has a cache of its own

    # from other threads

    @property
    def requests(self) -> int:
        """How many requests it has."""
        return len(self._inbox) + len(self._waiting) + len(self._slots)

    def submit(self, request: Request) -> None:
        """Queue a request. What is read ahead yields to it, at once where that is nothing it begins with."""
        with self._lock:
            self._inbox.append(request)
            ahead = self._ahead
            if ahead is not None and common_prefix(ahead.request.tokens, request.tokens) <= ahead.past:
                self.cache.abort.set()
            self._lock.notify()

    def cancel(self, ids: tuple[int, ...]) -> None:
        """Forget requests; a decode that is running is aborted."""
        with self._lock:
            self._cancelled.update(ids)
            self.cache.abort.set()
            self._lock.notify()

    # the loop

    def run(self) -> None:
        """Answer requests for ever."""
        while True:
            self._take_in()
            began = time.perf_counter()
            self._admit()
            if self._slots:
                self._step()
            self.busy_seconds += time.perf_counter() - began

    def _take_in(self) -> None:
        """Fetch what has arrived, waiting while there is nothing to do; drop what was cancelled."""
        with self._lock:
            while not (self._inbox or self._slots or self._waiting or self._cancelled):
                self._lock.wait()
            if not self.cache.made and len(self._inbox) == 1 and self._inbox[0].many:
                self._lock.wait(FOLLOWS_SECONDS)  # its follower shows what a context need not hold twice
            if len(self._inbox) == 1 and self._inbox[0].ahead and not self._slots:
                self._lock.wait(AHEAD_SECONDS)
            arrived = list(self._inbox)
            self._inbox.clear()
            cancelled, self._cancelled = self._cancelled, set()
            self.cache.abort.clear()
        if cancelled:
            arrived = [request for request in arrived if request.id not in cancelled]
            for request in [r for r in self._waiting if r.id in cancelled]:
                self._drop(request)
            for slot in [s for s in self._slots if s.request.id in cancelled]:
                self._leave(slot)
        if arrived:
            self._end_ahead()
        busy = bool(self._slots or self._waiting) or any(not request.ahead for request in arrived)
        self._waiting.extend(request for request in arrived if not (busy and request.ahead))

    def _end_ahead(self) -> None:
        """Somebody asks: what is being read ahead stays as far as it is read, what was to be is forgotten."""
        for slot in [slot for slot in self._slots if slot.request.ahead]:
            self._leave(slot, keep=True)
        for request in [request for request in self._waiting if request.ahead]:
            self._waiting.remove(request)

    def _admit(self) -> None:
        """Give sequences to waiting requests while there is room."""
        limit = 1 if self._limits.sequential else self._limits.parallel
        pending = sum(len(slot.pending) for slot in self._slots)
        # When the next batch is full, more would only widen the cache that all attend to.
        while self._waiting and len(self._slots) < limit and pending < self.cache.most_tokens():
            request = self._waiting[0]
            try:
                if not self.cache.make_room(request):
                    return
                nearest, alike = self.cache.nearest(request)
                if nearest is not None and self.cache.comes_soon(request, nearest, alike):
                    return
                slot = self.cache.open(request, nearest, alike)
                self._slots.append(slot)
                self._ahead = slot if request.ahead else None
                self._give_writer(slot)
                pending += len(slot.pending)
                self._waiting.popleft()
            except LoadError as error:
                self._drop(request)
                what = f"llama.cpp cannot make a context of {request.cells:,} tokens"
                self._emit(request.id, EngineCrashed(f"{what}: {error}", "use a smaller --context"))
            except LlmError as error:
                self._drop(request)
                self._emit(request.id, error)
            except Aborted:  # it waits on, at its place, unless it is what was cancelled
                return

    def _drop(self, request: Request) -> None:
        """It waits no longer."""
        self._waiting.remove(request)
        if request.begun is not None:
            request.begun.writer.free()

    # slots

    def _give_writer(self, slot: Slot) -> None:
        request = slot.request
        if request.begun is not None:
            slot.writer = request.begun.writer
            return
        if request.make_writer is None:
            return
        try:
            slot.writer = request.make_writer(request.answer_tokens + request.further)
            if request.beams > 1:
                slot.search = self._beam_search(request, slot.writer)
        except LlmError:
            self._leave(slot)
            raise
        except LoadError as error:
            self._leave(slot)
            raise BadConfig(f"llama.cpp refuses it: {error}") from error

    def _beam_search(self, request: Request, writer: Writer) -> BeamSearch:
        return BeamSearch(request.beams, request.answer_tokens, writer.ends)

    def _leave(self, slot: Slot, keep: bool = False) -> None:
        """Take a slot back; with `keep`, its tokens stay resident for a prompt that goes on from them."""
        self._slots.remove(slot)
        if slot.writer is not None:
            slot.writer.free()
        self._scoring.forget(slot)
        self._ahead = None
        self.cache.close(slot, keep)

    def _fail(self, slot: Slot, error: LlmError) -> None:
        self._leave(slot)
        self._emit(slot.request.id, error)

    # one decode

    def _step(self) -> None:
        """Fill a batch, decode it, and let everyone whose logits are there go on."""
        cache = self.cache
        cache.batch.clear(cache.most_tokens())
        branches = self._scoring.add()
        runs = self._add_runs()
        self._report(runs)
        try:
            cache.decode()
        except (Aborted, NoRoom, EngineCrashed) as reason:
            self._undo(branches, runs, reason)
            return
        logits = cache.context.logits(cache.batch.outputs) if cache.batch.outputs else None
        if branches:
            assert logits is not None
            self._scoring.go_on(branches, logits)
        for slot, count, rows in runs:
            slot.past += count
            slot.pending = slot.pending[count:]
            cache.keep_snapshot(slot)
            if not slot.pending and slot.request.ahead:
                self._leave(slot, keep=True)
            elif not slot.pending and logits is not None:
                if slot.search is not None:
                    self._search_on(slot, slot.search, logits[rows])
                else:
                    self._go_on(slot, logits[rows[0]])

    def _add_runs(self) -> Runs:
        """
        Tokens of every slot: those that write first, then prompts, as far as the batch has room.

        Of sequences with caches of their own llama.cpp evaluates together what is equally long: there a
        prompt is read alone, and then all write.
        """
        reading = [slot for slot in self._slots if len(slot.pending) > 1]
        writing = [slot for slot in self._slots if len(slot.pending) < 2]
        if self.cache.apart:
            # The oldest prompt that is not read yet, or all that write; these also after so many prompts.
            if not reading or (writing and self._read_in_turn >= self._limits.parallel):
                self._read_in_turn = 0
                return self._add_next(writing)
            self._read_in_turn += 1
            return self._add_prompts(reading[:1])
        return self._add_next(writing) + self._add_prompts(reading)

    def _add_next(self, slots: list[Slot]) -> Runs:
        """The next token of each answer, or of each of its beams."""
        batch = self.cache.batch
        tokens: list[tuple[int, Slot, int]] = []
        for slot in slots:
            following = [(sequence, slot, token) for sequence, token in slot.following]
            if len(tokens) + len(following) <= batch.room:
                tokens += following
        # Neighbours beside each other: only such does llama.cpp evaluate together, where each has its cache.
        tokens.sort(key=lambda one: one[0])
        rows = {sequence: batch.add(sequence, slot.past, [token], "last") for sequence, slot, token in tokens}
        return [
            (slot, 1, [rows[sequence] for sequence, _ in slot.following])
            for slot in slots
            if slot.sequence in rows
        ]

    def _add_prompts(self, slots: list[Slot]) -> Runs:
        batch = self.cache.batch
        runs: Runs = []
        for slot in slots:
            most = min(self.cache.piece(slot.request, slot.past), self.cache.until_snapshot(slot), batch.room)
            count = min(len(slot.pending), most)
            if count:
                wanted = "last" if count == len(slot.pending) and not slot.request.ahead else "none"
                row = batch.add(slot.sequence, slot.past, slot.pending[:count], wanted)
                runs.append((slot, count, [row]))
        return runs

    def _report(self, runs: Runs) -> None:
        if len(runs) == 1 and len(runs[0][0].pending) > 1 and not runs[0][0].request.ahead:
            slot = runs[0][0]
            total = len(slot.request.tokens)
            if total > self._limits.batch:
                self._progress(f"reading {slot.past:,} of {total:,} tokens")

    def _undo(self, branches: Added, runs: Runs, reason: Exception) -> None:
        """Take every sequence of a failed decode back to where it stood."""
        cache = self.cache
        self._scoring.undo(branches)
        if cache.whole_only:
            self._restart_all()
        else:
            for slot, _, _ in runs:
                if not all(cache.context.cut(sequence, slot.past) for sequence in slot.sequences):
                    self._restart(slot)
        if isinstance(reason, NoRoom):
            freed = cache.prefixes.evict()
            cache.free += freed
            if not freed:
                self._fail(self._slots[-1], EngineCrashed("the KV cache is full", "use a smaller --parallel"))
        elif isinstance(reason, LlmError):
            for slot in {slot for slot, _, _ in runs} | {branch.slot for branch, _ in branches}:
                self._fail(slot, reason)

    def _restart_all(self) -> None:
        """
        Begin anew with every sequence of a recurrent model.

        A decode moves states about, also of sequences that it does not go on with; where it is aborted they
        may stand under another's number.
        """
        for slot in self._slots:
            self._scoring.forget(slot)
            slot.scores, slot.open_branches = [], 0
            self._restart(slot)
        self.cache.free += self.cache.prefixes.drop_all_but(None)

    def _restart(self, slot: Slot) -> None:
        """A state that cannot go back begins anew; what was written so far is read again."""
        for sequence in slot.sequences:
            self.cache.context.clear(sequence)
        if slot.search is not None and slot.writer is not None:
            slot.search = self._beam_search(slot.request, slot.writer)
        slot.pending = slot.all_tokens
        slot.past = slot.cached = 0
        self.cache.take_back(slot)

    # answers

    def _go_on(self, slot: Slot, logits: Array) -> None:
        """The logits at the end of what a slot has evaluated: the next token, or the labels' first tokens."""
        if slot.writer is None:
            self._scoring.begin(slot, logits)
            return
        writer = slot.writer
        token = writer.choose(logits)
        if token is None and writer.finish_reason == "degenerate" and self._blames_model(slot):
            return
        if token is not None:
            for piece in writer.accept(token):
                self._stream(slot, piece)
        if writer.finish_reason is None and token is not None:
            slot.pending = [token]
            if slot.past >= slot.request.cells and not self.cache.extend(slot):
                self._move(slot, writer)
            return
        self._end(slot, writer)

    def _move(self, slot: Slot, writer: Writer) -> None:
        """An answer that has outgrown its context goes on in a larger one, before what waits."""
        request, tokens = slot.request, slot.all_tokens
        left = request.answer_tokens + request.further - (len(tokens) - len(request.tokens))
        room = min(left, 2 * request.answer_tokens)
        moved = replace(
            request,
            tokens=tokens,
            answer_tokens=room,
            further=left - room,
            apart=request.apart and self._limits.together_apart(len(tokens) + room) > 0,
            begun=Begun(writer, len(writer.tokens), request.begun.cached if request.begun else slot.cached),
        )
        self._slots.remove(slot)
        self.cache.close(slot, keep=not request.many and not self.cache.whole_only)
        self._waiting.appendleft(moved)

    def _search_on(self, slot: Slot, search: BeamSearch, logits: Array) -> None:
        """The logits of every beam: go on with the likeliest, or write down the best answer found."""
        writer = slot.writer
        assert writer is not None
        if np.isfinite(logits.max(axis=1)).all():
            parents = search.advance(logits)
            if parents:
                self.cache.rearrange(slot, parents)
                return
            for token in search.best():
                for piece in writer.accept(token):
                    self._stream(slot, piece)
                if writer.finish_reason is not None:
                    break
        elif self._blames_model(slot):
            return
        else:
            writer.finish_reason = "degenerate"
        self._end(slot, writer)

    def _blames_model(self, slot: Slot) -> bool:
        """Logits that are no numbers (NaN): whether they are this model's for any text. Its error, then."""
        self.cache.tainted = True
        if self.cache.model_gives_numbers:
            return False
        self._fail(slot, ModelError("the model gives no numbers (NaN) for any text", DAMAGED))
        return True

    def _end(self, slot: Slot, writer: Writer) -> None:
        """An answer is complete."""
        for piece in writer.finish():
            self._stream(slot, piece)
        kept = not slot.request.many and not (self.cache.whole_only and slot.request.stable)
        kept = kept and slot.search is None  # its beams would stay too
        self._leave(slot, keep=kept)
        begun = slot.request.begun or Begun(writer, 0, slot.cached)
        completion = writer.completion(len(slot.request.tokens) - begun.tokens, begun.cached)
        if slot.request.wrote and not slot.request.many and not completion.thinking:
            slot.request.wrote(completion.text, writer.tokens)
        self._emit(slot.request.id, completion)

    def _stream(self, slot: Slot, piece: Piece) -> None:
        if slot.request.stream:
            self._emit(slot.request.id, piece)

    def _scored(self, slot: Slot, scores: LabelScores | UnusableAnswer) -> None:
        request = slot.request
        if isinstance(scores, UnusableAnswer):
            if not self._blames_model(slot):
                self._fail(slot, scores)
            return
        # The first of a document's sentences comes alone.
        kept = not request.many and not self.cache.whole_only
        self._leave(slot, keep=kept)
        self._emit(request.id, scores)
