"""
Many prompts through one context: continuous batching.

Requests wait in a queue, get a sequence while the KV cache has room for prompt and
answer, share every decode, and leave in any order. Knows tokens, sequences and
logits; not the wire, not chat templates.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

import numpy as np

from llmcli.engines.llama.context import AbortSwitch, Batch, Context, ContextSettings
from llmcli.engines.llama.library import Array, LoadError, Log, Model
from llmcli.engines.llama.prefix_files import PrefixFiles
from llmcli.engines.llama.prefixes import Prefixes, Resident
from llmcli.engines.llama.requests import (
    BATCH_TOKENS,
    BRANCH_SEQUENCES,
    FOLLOWS_SECONDS,
    RESIDENTS,
    WORTH_SHARING,
    WORTH_WAITING,
    Branch,
    Event,
    Limits,
    Request,
    Slot,
)
from llmcli.engines.llama.samplers import Candidates
from llmcli.engines.llama.tokens import common_prefix
from llmcli.engines.llama.writer import Writer
from llmcli.errors import BadConfig, EngineCrashed, LlmError, UnusableAnswer
from llmcli.messages import LabelScores, Piece, Usage


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
        self._model = model
        self._limits = limits
        self._log = log
        self._emit = emit
        self._progress = progress
        self._scale = temperature_scale
        self._abort = AbortSwitch()
        self._lock = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._cancelled: set[int] = set()
        self._waiting: deque[Request] = deque()
        self._slots: list[Slot] = []
        self._branches: deque[Branch] = deque()
        self._context: Context | None = None
        self._prefixes: Prefixes | None = None
        self._free: list[int] = []
        self._batch = Batch(BATCH_TOKENS)
        self.candidates = Candidates(model.vocab_size)
        self._last: list[int] = []
        self._planned = (0, 0)  # the cells of a request, and of how many beside it, that the context is for
        self._whole_only = model.recurrent or model.hybrid
        self.files: PrefixFiles | None = None  # of templates' prefixes, where they are kept
        self.decode_seconds = 0.0
        self.busy_seconds = 0.0
        self.decoded_tokens = 0

    # from other threads

    def submit(self, request: Request) -> None:
        """Queue a request."""
        with self._lock:
            self._inbox.append(request)
            self._lock.notify()

    def cancel(self, ids: tuple[int, ...]) -> None:
        """Forget requests; a decode that is running is aborted."""
        with self._lock:
            self._cancelled.update(ids)
            self._abort.set()
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
            if self._context is None and len(self._inbox) == 1 and self._inbox[0].many:
                self._lock.wait(FOLLOWS_SECONDS)  # its follower shows what a context need not hold twice
            self._waiting.extend(self._inbox)
            self._inbox.clear()
            cancelled, self._cancelled = self._cancelled, set()
            self._abort.clear()
        if cancelled:
            self._waiting = deque(r for r in self._waiting if r.id not in cancelled)
            for slot in [s for s in self._slots if s.request.id in cancelled]:
                self._leave(slot)

    def _admit(self) -> None:
        """Give sequences to waiting requests while there is room."""
        limit = 1 if self._limits.sequential else self._limits.parallel
        pending = sum(len(slot.pending) for slot in self._slots)
        # When the next batch is full, more would only widen the cache that all attend to.
        while self._waiting and len(self._slots) < limit and pending < BATCH_TOKENS:
            request = self._waiting[0]
            try:
                if not self._make_room(request):
                    return
                nearest, alike = self._nearest_slot(request)
                if nearest is not None and self._comes_soon(request, nearest, alike):
                    return
                slot = self._open_slot(request, nearest, alike)
                self._slots.append(slot)
                pending += len(slot.pending)
                self._waiting.popleft()
            except LoadError as error:
                self._waiting.popleft()
                self._emit(request.id, EngineCrashed(f"llama.cpp cannot make a context: {error}"))
            except LlmError as error:
                self._waiting.popleft()
                self._emit(request.id, error)
            except _AbortedError:  # it waits on, at its place, unless it is what was cancelled
                return

    # room

    def _make_room(self, request: Request) -> bool:
        """Whether the request fits now."""
        if not self._is_planned(request) and not self._plan(request):
            return False
        context, prefixes = self._context, self._prefixes
        assert context is not None and prefixes is not None
        resident, shared = prefixes.best(request.tokens)
        while self._used() + request.cells - shared > context.cells or len(self._free) <= BRANCH_SEQUENCES:
            freed = prefixes.evict(spare=resident)
            if not freed:
                if self._slots:
                    return False
                freed = prefixes.evict()  # alone: the prefix it would share must go too
                resident, shared = None, 0
                if not freed:
                    raise LoadError("the KV cache has no room for this prompt")
            self._free += freed
        return True

    def _used(self) -> int:
        assert self._prefixes is not None
        return self._prefixes.cells + sum(slot.cells for slot in self._slots)

    def _is_planned(self, request: Request) -> bool:
        """Whether the context was made for requests of this size: asked of every row, so quick."""
        if self._prefixes is None or not self._slots:
            return False
        own = request.cells - self._prefixes.best(request.tokens)[1]
        return own <= self._planned[0] and self._beside(request) <= self._planned[1]

    def _plan(self, request: Request) -> bool:
        """
        Have a context that is large enough for a request and its like, what they share counted once.

        False where the old one must run empty first.
        """
        others = [other for other in islice(self._waiting, 64) if other is not request]
        shared = common_prefix(request.tokens, others[0].tokens) if others else 0
        if self._prefixes is not None:
            shared = max(shared, self._prefixes.best(request.tokens)[1])
        own = max(other.cells - shared for other in [request, *others])
        beside = self._beside(request)
        room = min(shared + own * beside, max(shared + own, self._limits.cells))
        wanted = -(-max(room, 512) // 256) * 256
        if self._context is None or not self._slots:
            if self._context is None or wanted > self._context.cells:
                # What is resident is lost with the old one: a growing conversation should not pay that often.
                twice = 0 if self._context is None else 2 * self._context.cells
                self._new_context(max(wanted, min(twice, self._limits.cells)))
        elif wanted > 2 * self._context.cells:
            return False  # much more is coming than this context was made for
        assert self._prefixes is not None
        self._planned = max(own, request.cells - self._prefixes.best(request.tokens)[1]), beside
        return True

    def _beside(self, request: Request) -> int:
        """How many like it should fit together."""
        return self._limits.parallel if request.many and not self._limits.sequential else 2

    def _new_context(self, cells: int) -> None:
        if self._context is not None:
            self._context.free()
            self._context = self._prefixes = None  # also where no new one can be made
        sequences = min(256, self._limits.parallel + RESIDENTS + BRANCH_SEQUENCES + 2)
        settings = ContextSettings(
            cells=cells,
            sequences=sequences,
            batch=BATCH_TOKENS,
            threads=self._limits.threads,
            flash_attention=self._limits.flash_attention,
            kv_type=self._limits.kv_type,
        )
        self._context = Context(self._model, settings, self._abort, self._log)
        self._prefixes = Prefixes(
            self._context, whole_only=self._whole_only, window=self._model.window, most=RESIDENTS
        )
        self._free = list(range(sequences - 1, -1, -1))

    # slots

    def _open_slot(self, request: Request, nearest: Slot | None, alike: int) -> Slot:
        """A sequence for a request, forked from the longest resident prefix or the nearest slot."""
        assert self._context is not None and self._prefixes is not None
        if self._limits.sequential:
            # The result must depend on this prompt alone: an empty cache, fixed pieces of 512.
            while freed := self._prefixes.evict():
                self._free += freed
            self._context.clear_all()
            shared, resident, evaluated = 0, None, 0
        else:
            before = self.decoded_tokens
            self._recall(request)
            self._share(request)
            evaluated = self.decoded_tokens - before
            resident, shared = self._prefixes.best(request.tokens)
        cells = request.cells - shared
        writer = self._writer(request)
        sequence = self._free.pop()
        if nearest is not None and min(alike, nearest.past) > shared:
            # Its cells may outlive it under this sequence, so they are counted here as well.
            shared, cells, resident = min(alike, nearest.past), request.cells, None
            self._context.fork(nearest.sequence, sequence, shared)
        elif resident is not None:
            self._prefixes.lend(resident, sequence, shared)
        pending = request.tokens[shared:]
        cached = max(0, shared - evaluated)
        return Slot(request, sequence, pending, shared, cached, cells, resident, writer)

    def _writer(self, request: Request) -> Writer | None:
        if request.make_writer is None:
            return None
        try:
            return request.make_writer(request.answer_tokens)
        except LoadError as error:
            raise BadConfig(f"llama.cpp refuses it: {error}") from error

    def _nearest_slot(self, request: Request) -> tuple[Slot | None, int]:
        """The running request that begins most like this one, and how many tokens can be had from it."""
        if self._whole_only or self._limits.sequential or self._model.window:
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

    def _comes_soon(self, request: Request, slot: Slot, alike: int) -> bool:
        """Whether a running request is just evaluating a long beginning that this one shares."""
        assert self._prefixes is not None
        if slot.past >= alike:
            return False
        return alike - max(slot.past, self._prefixes.best(request.tokens)[1]) >= WORTH_WAITING

    def _share(self, request: Request) -> None:
        """Evaluate what this prompt shares with its neighbours once, and keep it."""
        assert self._context is not None and self._prefixes is not None
        if not request.many:
            return
        following = next((other.tokens for other in self._waiting if other is not request), [])
        alike = max(common_prefix(request.tokens, following), common_prefix(request.tokens, self._last))
        alike = min(alike, len(request.tokens) - 1)
        self._last = request.tokens
        resident, shared = self._prefixes.best(request.tokens)
        if alike - shared < WORTH_SHARING or self._prefixes.full:
            return
        if self._used() + request.cells + alike > self._context.cells:
            return
        sequence = self._evaluate(request.tokens[:alike], resident, shared)
        if sequence is not None:
            self._free += self._prefixes.keep(sequence, request.tokens[:alike])

    def _recall(self, request: Request) -> None:
        """Have what a template put before the text resident: from disk, or evaluated and kept there."""
        assert self._context is not None and self._prefixes is not None
        prefix = request.tokens[: request.fixed]
        resident, shared = self._prefixes.best(request.tokens)
        if self.files is None or shared >= len(prefix) or self._prefixes.full:
            return
        if self._used() + request.cells + len(prefix) > self._context.cells or not self.files.worth(prefix):
            return
        state = self.files.read(prefix)
        if state is not None:
            sequence = self._free.pop()
            if self._context.set_state(sequence, state):
                self._free += self._prefixes.keep(sequence, prefix)
                return
            self._free.append(sequence)
            self.files.forget(prefix)
        evaluated = self._evaluate(prefix, resident, shared)
        if evaluated is not None:
            state = self._context.state(evaluated)
            if state:
                self.files.write(prefix, state)
            self._free += self._prefixes.keep(evaluated, prefix)

    def _evaluate(self, tokens: list[int], resident: Resident | None, shared: int) -> int | None:
        """A sequence of these tokens, `shared` of them had from a resident; None where there is no room."""
        assert self._context is not None and self._prefixes is not None
        sequence = self._free.pop()
        if resident is not None:
            self._prefixes.fork(resident, sequence, shared)
        try:
            for start in range(shared, len(tokens), BATCH_TOKENS):
                self._batch.clear()
                self._batch.add(sequence, start, tokens[start : start + BATCH_TOKENS])
                self._decode()
        except (_AbortedError, _NoRoomError, EngineCrashed) as reason:
            self._context.clear(sequence)
            self._free.append(sequence)
            if isinstance(reason, _AbortedError):
                raise
            return None  # unshared, then
        return sequence

    def _leave(self, slot: Slot, keep: list[int] | None = None) -> None:
        """Take a sequence back; with `keep`, its tokens stay resident for a prompt that goes on from them."""
        assert self._context is not None and self._prefixes is not None
        self._slots.remove(slot)
        self._take_back(slot)
        if slot.writer is not None:
            slot.writer.free()
        for branch in [b for b in self._branches if b.slot is slot]:
            self._branches.remove(branch)
        if keep and not self._limits.sequential:
            self._free += self._prefixes.keep(slot.sequence, keep)
        else:
            self._context.clear(slot.sequence)
            self._free.append(slot.sequence)

    def _take_back(self, slot: Slot) -> None:
        assert self._prefixes is not None
        if slot.resident is not None:
            self._prefixes.take_back(slot.resident)
        slot.resident, slot.cells = None, slot.request.cells

    def _fail(self, slot: Slot, error: LlmError) -> None:
        self._leave(slot)
        self._emit(slot.request.id, error)

    # one decode

    def _step(self) -> None:
        """Fill a batch, decode it, and let everyone whose logits are there go on."""
        assert self._context is not None
        self._batch.clear()
        branches = self._add_branches()
        runs = self._add_runs()
        self._report(runs)
        try:
            self._decode()
        except (_AbortedError, _NoRoomError, EngineCrashed) as reason:
            self._undo(branches, runs, reason)
            return
        logits = self._context.logits(self._batch.outputs) if self._batch.outputs else None
        if branches:
            assert logits is not None
            self._finish_branches(branches, logits)
        for slot, count, row in runs:
            slot.past += count
            slot.pending = slot.pending[count:]
            self._keep_snapshot(slot)
            if not slot.pending and logits is not None:
                self._go_on(slot, logits[row])

    def _add_runs(self) -> list[tuple[Slot, int, int]]:
        """Tokens of every slot: those that write first, then prompts, as far as the batch has room."""
        runs = []
        ordered = sorted(self._slots, key=lambda slot: len(slot.pending) != 1)
        for slot in ordered:
            if not slot.pending or not self._batch.room:
                continue
            count = min(len(slot.pending), self._batch.room, self._until_snapshot(slot))
            whole = count == len(slot.pending)
            row = self._batch.add(slot.sequence, slot.past, slot.pending[:count], "last" if whole else "none")
            runs.append((slot, count, row))
        return runs

    def _until_snapshot(self, slot: Slot) -> int:
        """
        Tokens to evaluate before a state that the next turn can go on from must be kept.

        Recurrent state cannot be cut back later: the copy is made when it stands there.
        """
        stable = slot.request.stable
        keeps = self._whole_only and not self._limits.sequential and not slot.request.many
        if not keeps or slot.past >= stable:
            return BATCH_TOKENS
        return stable - slot.past

    def _keep_snapshot(self, slot: Slot) -> None:
        assert self._context is not None and self._prefixes is not None
        stable = slot.request.stable
        if not self._whole_only or slot.request.many or slot.past != stable or not stable:
            return
        if self._limits.sequential or len(self._free) <= BRANCH_SEQUENCES:
            return
        sequence = self._free.pop()
        self._context.fork_whole(slot.sequence, sequence)
        self._free += self._prefixes.keep(sequence, slot.request.tokens[:stable])

    def _add_branches(self) -> list[tuple[Branch, int]]:
        """Labels of several tokens, as far as there are sequences and room."""
        assert self._context is not None and self._prefixes is not None
        added = []
        while self._branches and self._free:
            branch = self._branches[0]
            slot = branch.slot
            tokens = slot.request.rests[branch.label][:-1]
            if len(tokens) > self._batch.room:
                break
            self._branches.popleft()
            branch.sequence = self._free.pop()
            self._context.fork_whole(slot.sequence, branch.sequence)
            added.append((branch, self._batch.add(branch.sequence, slot.past, tokens, "all")))
        return added

    def _decode(self) -> None:
        assert self._context is not None
        began = time.perf_counter()
        code = self._context.decode(self._batch)
        self.decode_seconds += time.perf_counter() - began
        self.decoded_tokens += self._batch.count
        if code == 2:
            raise _AbortedError
        if code == 1:
            raise _NoRoomError
        if code != 0:
            raise EngineCrashed(f"llama.cpp cannot evaluate a batch ({code}): {self._log.last_error()}")

    def _undo(
        self, branches: list[tuple[Branch, int]], runs: list[tuple[Slot, int, int]], reason: Exception
    ) -> None:
        """Take every sequence of a failed decode back to where it stood."""
        assert self._context is not None and self._prefixes is not None
        for branch, _ in branches:
            self._context.clear(branch.sequence)
            self._free.append(branch.sequence)
            self._branches.append(branch)
        for slot, _, _ in runs:
            if not self._context.cut(slot.sequence, slot.past):
                self._restart(slot)
        if isinstance(reason, _NoRoomError):
            freed = self._prefixes.evict()
            self._free += freed
            if not freed:
                self._fail(self._slots[-1], EngineCrashed("the KV cache is full", "use a smaller --parallel"))
        elif isinstance(reason, LlmError):
            for slot in {slot for slot, _, _ in runs} | {branch.slot for branch, _ in branches}:
                self._fail(slot, reason)

    def _restart(self, slot: Slot) -> None:
        """A state that cannot go back begins anew; what was written so far is read again."""
        assert self._context is not None
        self._context.clear(slot.sequence)
        written = slot.writer.tokens if slot.writer else []
        slot.pending = slot.request.tokens + written
        slot.past = slot.cached = 0
        self._take_back(slot)

    def _report(self, runs: list[tuple[Slot, int, int]]) -> None:
        if len(runs) == 1 and len(runs[0][0].pending) > 1:
            slot = runs[0][0]
            total = len(slot.request.tokens)
            if total > BATCH_TOKENS:
                self._progress(f"reading {slot.past:,} of {total:,} tokens")

    # answers

    def _go_on(self, slot: Slot, logits: Array) -> None:
        """The logits at the end of what a slot has evaluated: the next token, or the labels' first tokens."""
        if slot.writer is None:
            self._score_first(slot, logits)
            return
        writer = slot.writer
        token = writer.choose(logits)
        if token is not None:
            for piece in writer.accept(token):
                self._stream(slot, piece)
        if writer.finish_reason is None and token is not None:
            slot.pending = [token]
            return
        for piece in writer.finish():
            self._stream(slot, piece)
        evaluated = (slot.request.tokens + writer.tokens)[: slot.past]
        kept = not slot.request.many and not (self._whole_only and slot.request.stable)
        self._leave(slot, keep=evaluated if kept else None)
        completion = writer.completion(len(slot.request.tokens), slot.cached)
        if slot.request.wrote and not slot.request.many and not completion.thinking:
            slot.request.wrote(completion.text, writer.tokens)
        self._emit(slot.request.id, completion)

    def _stream(self, slot: Slot, piece: Piece) -> None:
        if slot.request.stream:
            self._emit(slot.request.id, piece)

    def _score_first(self, slot: Slot, logits: Array) -> None:
        """
        The first token of each label.

        All labels begin at the same place, so their raw logits differ by the same constant
        from log-probabilities, and the whole vocabulary need not be summed.
        """
        rests = slot.request.rests
        slot.scores = [float(score) for score in logits[[rest[0] for rest in rests]]]
        longer = [number for number, rest in enumerate(rests) if len(rest) > 1]
        slot.open_branches = len(longer)
        if longer:
            self._branches.extend(Branch(slot, number) for number in longer)
        else:
            self._finish_scores(slot)

    def _finish_branches(self, branches: list[tuple[Branch, int]], logits: Array) -> None:
        """Add the log-probabilities of labels' further tokens; `logits` has a row for each of these first."""
        assert self._context is not None
        rows = sum(len(branch.slot.request.rests[branch.label]) - 1 for branch, _ in branches)
        totals = log_sums(logits[:rows])
        for branch, row in branches:
            slot = branch.slot
            for number, token in enumerate(slot.request.rests[branch.label][1:], row):
                slot.scores[branch.label] += float(logits[number, token]) - totals[number]
            self._context.clear(branch.sequence)
            self._free.append(branch.sequence)
            slot.open_branches -= 1
            if not slot.open_branches:
                self._finish_scores(slot)

    def _finish_scores(self, slot: Slot) -> None:
        request = slot.request
        if not all(map(math.isfinite, slot.scores)):
            self._fail(slot, UnusableAnswer("the model gives no numbers for these labels (NaN)"))
            return
        top = max(slot.scores)
        weights = [math.exp((score - top) / self._scale) for score in slot.scores]
        probabilities = tuple(weight / sum(weights) for weight in weights)
        usage = Usage(len(request.tokens), 0, slot.cached)
        kept = not request.many and not self._whole_only  # the first of a document's sentences comes alone
        self._leave(slot, keep=request.tokens if kept else None)
        self._emit(
            request.id,
            LabelScores(
                request.labels,
                probabilities,
                probabilities.index(max(probabilities)),
                "sequence",
                usage,
            ),
        )


class _AbortedError(Exception):
    """A decode was ended by a cancel."""


class _NoRoomError(Exception):
    """The KV cache had no cells for a batch."""


def log_sums(logits: Array) -> list[float]:
    """
    log Σ exp of every row of logits (shape: rows, vocabulary): what a log-probability is short of a logit.

    >>> [round(total, 4) for total in log_sums(np.zeros((2, 8), np.float32))]
    [2.0794, 2.0794]
    """
    tops = logits.max(axis=1, keepdims=True)
    weights = logits - tops
    np.exp(weights, out=weights)
    totals = tops[:, 0] + np.log(weights.sum(axis=1))  # summed in pairs: float32 is enough
    return [float(total) for total in totals]
