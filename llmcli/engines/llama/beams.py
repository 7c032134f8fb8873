"""
Beam search: the likeliest answer instead of the answer of likeliest tokens.

Several beginnings of an answer are followed side by side. Knows nothing of caches: it sees one row of logits
for each beginning and says which of them go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmcli.engines.llama.library import Array


@dataclass(frozen=True)
class Hypothesis:
    """The beginning of an answer; `score` is the sum of its tokens' log-probabilities."""

    score: float
    tokens: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """By what answers of different lengths are compared (Wu et al. 2016, section 7, with alpha 1)."""
        return self.score / max(1, len(self.tokens))


class BeamSearch:
    """
    One answer being searched for with `width` beams, in up to `longest` tokens.

    `ends` tells the tokens that end an answer; they count and are kept, as the last of it.
    """

    def __init__(self, width: int, longest: int, ends: Callable[[int], bool]) -> None:
        self.width = width
        self.live = [Hypothesis(0.0)]
        self._longest = longest
        self._ends = ends
        self._complete: list[Hypothesis] = []

    def advance(self, logits: Array) -> list[int]:
        """
        Take each beginning on by a token; shape (beginnings, vocabulary), finite at their largest.

        Gives, for each beginning that is `live` now, which of those before it continues; nothing when
        the search is over.
        """
        scores = logits - logits.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        most = min(2 * self.width, scores.shape[1])  # of which some may end
        likeliest = np.argpartition(scores, -most, axis=1)[:, -most:]
        found = sorted(
            (
                (beginning.score + float(scores[at, token]), at, int(token))
                for at, beginning in enumerate(self.live)
                for token in likeliest[at]
            ),
            reverse=True,
        )
        live, parents = [], []
        for score, at, token in found:
            hypothesis = Hypothesis(score, (*self.live[at].tokens, token))
            if self._ends(token):
                self._complete.append(hypothesis)
            else:
                live.append(hypothesis)
                parents.append(at)
            if len(live) == self.width:
                break
        self.live = live
        return [] if self._is_over() else parents

    def best(self) -> tuple[int, ...]:
        """The tokens of the likeliest answer; where there is no room for more, it may be a cut one."""
        found = self._complete + (self.live if self._is_full() else [])
        return max(found, key=lambda hypothesis: hypothesis.mean).tokens

    def _is_full(self) -> bool:
        return bool(self.live) and len(self.live[0].tokens) >= self._longest

    def _is_over(self) -> bool:
        if not self.live or self._is_full():
            return True
        if len(self._complete) < self.width:
            return False
        return max(done.mean for done in self._complete) >= self.live[0].mean
