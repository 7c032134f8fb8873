"""
Labels scored as answers: the log-probability of each one's tokens, from the logits at the end of a prompt.

The first tokens of all labels are read off one row of logits. Labels of several tokens are branches:
sequences of their own at the end of their prompt, evaluated together with everything else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np

from llmcli.engines.llama.branches import paths
from llmcli.engines.llama.cache import Cache
from llmcli.engines.llama.library import Array
from llmcli.engines.llama.requests import Branch, Slot
from llmcli.errors import UnusableAnswer
from llmcli.messages import LabelScores, Usage

Added = list[tuple[Branch, int]]
"""Branches in a batch, each with the row of its first logits."""


class Scoring:
    """
    The branches that wait or are being evaluated.

    `scale` is the temperature that the model was calibrated with; `done(slot, scores)` is called with
    the LabelScores, or an UnusableAnswer, of each slot.
    """

    def __init__(
        self, cache: Cache, scale: float, done: Callable[[Slot, LabelScores | UnusableAnswer], None]
    ) -> None:
        self._cache = cache
        self._scale = scale
        self._done = done
        self._branches: deque[Branch] = deque()

    def begin(self, slot: Slot, logits: Array) -> None:
        """
        The first token of each label, with the logits at the end of the prompt.

        All labels begin at the same place, so their raw logits differ by the same constant
        from log-probabilities, and the whole vocabulary need not be summed.
        """
        rests = slot.request.rests
        slot.scores = [float(score) for score in logits[[rest[0] for rest in rests]]]
        branches = [Branch(slot, path) for path in paths(rests)]
        slot.open_branches = len(branches)
        if branches:
            self._branches.extend(branches)
        else:
            self._finish(slot)

    def add(self) -> Added:
        """Put labels of several tokens into the batch, as far as there are sequences and room."""
        cache, added = self._cache, []
        while self._branches and cache.free:
            branch = self._branches[0]
            slot = branch.slot
            tokens = branch.path.tokens
            if len(tokens) > cache.batch.room:
                break
            self._branches.popleft()
            branch.sequence = cache.free.pop()
            cache.context.fork_whole(slot.sequence, branch.sequence)
            added.append((branch, cache.batch.add(branch.sequence, slot.past, tokens, "all")))
        return added

    def go_on(self, branches: Added, logits: Array) -> None:
        """Add the log-probabilities of labels' further tokens; `logits` has a row for each of these first."""
        rows = sum(len(branch.path.tokens) for branch, _ in branches)
        totals = log_sums(logits[:rows])
        for branch, row in branches:
            slot = branch.slot
            for label in branch.path.labels:
                for number, token in enumerate(slot.request.rests[label][1:], row):
                    slot.scores[label] += float(logits[number, token]) - totals[number]
            self._cache.give_back(branch.sequence)
            slot.open_branches -= 1
            if not slot.open_branches:
                self._finish(slot)

    def undo(self, branches: Added) -> None:
        """The decode of these has failed: they wait again."""
        for branch, _ in branches:
            self._cache.give_back(branch.sequence)
            self._branches.append(branch)

    def forget(self, slot: Slot) -> None:
        """Nobody wants this slot's scores any more."""
        for branch in [branch for branch in self._branches if branch.slot is slot]:
            self._branches.remove(branch)

    def _finish(self, slot: Slot) -> None:
        request = slot.request
        if not all(map(math.isfinite, slot.scores)):
            self._done(slot, UnusableAnswer("the model gives no numbers for these labels (NaN)"))
            return
        top = max(slot.scores)
        weights = [math.exp((score - top) / self._scale) for score in slot.scores]
        probabilities = tuple(weight / sum(weights) for weight in weights)
        usage = Usage(len(request.tokens), 0, slot.cached)
        best = probabilities.index(max(probabilities))
        self._done(slot, LabelScores(request.labels, probabilities, best, "sequence", usage))


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
