"""
One answer being written: logits in, token and text out, until there is a reason to stop.

Knows nothing of batches or caches: it sees one row of logits at a time.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from llmcli.engines.llama.library import Array, Model
from llmcli.engines.llama.samplers import Candidates, Grammar, Sampler
from llmcli.engines.llama.thinking import Marks, StopTexts, ThinkingSplitter
from llmcli.messages import Completion, FinishReason, Piece, Prompt, Sampling, Usage

REPEATED_TOKENS = 48
LOOPS = ((32, 8), (256, 6))
"""Runs of up to so many tokens, words and sentences or whole paragraphs, that come so often in a row."""


class Writer:
    """
    Chooses tokens for one prompt and joins their text.

    `budget` is the most tokens that fit. `marks` are those of the model's thinking, None
    where it has none; `marked` maps control tokens that are part of such a mark to its text.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sampling: Sampling,
        *,
        budget: int,
        candidates: Candidates,
        marks: Marks | None,
        inside: bool,
        gbnf: str | None,
    ) -> None:
        self._model = model
        self._budget = budget
        self._candidates = candidates
        self._grammar = Grammar(model, gbnf) if gbnf else None
        self._sampler = None
        if sampling.temperature > 0:
            self._sampler = Sampler(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                seed=row_seed(sampling, prompt),
            )
        self._builder = TextBuilder()
        self._splitter = ThinkingSplitter(marks, inside=inside)
        self._marks = marks
        self._stops = StopTexts(sampling.stop)
        # Not where the answer goes on from a message: the space stands between its words and ours.
        self._strip_space = model.sentencepiece and prompt.raw is None and not prompt.continue_last
        self.tokens: list[int] = []
        self._answer: list[str] = []
        self._thoughts: list[str] = []
        self.finish_reason: FinishReason | None = None

    def choose(self, logits: Array) -> int | None:
        """The next token; None, with a finish reason, where the logits are no numbers."""
        best = int(np.argmax(logits))  # of a row with a NaN in it, the NaN
        if not np.isfinite(logits[best]):
            self.finish_reason = "degenerate"
            return None
        if self._grammar is not None:
            return self._choose_by_grammar(logits)
        if self._sampler is None:
            return best
        return self._sampler.choose(self._candidates.fill(logits))

    def _choose_by_grammar(self, logits: Array) -> int | None:
        """Try the token that would be taken anyway; filter the whole vocabulary only where it is refused."""
        grammar = self._grammar
        assert grammar is not None
        # llama.cpp lets a control token pass as its text, but it is written as nothing.
        logits = logits.copy()
        logits[self._model.unwritten] = -np.inf
        token = (
            int(np.argmax(logits))
            if self._sampler is None
            else self._sampler.choose(self._candidates.fill(logits))
        )
        alone = self._candidates.only(token, float(logits[token]))
        grammar.filter(alone)
        if not np.isfinite(alone.best()[1]):
            everything = self._candidates.fill(logits)
            grammar.filter(everything)
            token, logit = everything.best()
            if not np.isfinite(logit):
                self.finish_reason = "stop"
                return None
            if self._sampler is not None:
                token = self._sampler.choose(everything)
        grammar.accept(token)
        return token

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return self._model.ends_generation(token)

    def accept(self, token: int) -> Iterator[Piece]:
        """Go on by this token; the pieces of text that it completes. Sets `finish_reason` at the end."""
        if self.ends(token):
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        yield from self._add(self._builder.add(self._model.piece(token, special=self._is_mark(token))))
        if self._stops.found:
            self.finish_reason = "stop"
        elif repeats(self.tokens):
            self.finish_reason = "degenerate"
        elif len(self.tokens) >= self._budget:
            self.finish_reason = "length"

    def finish(self) -> Iterator[Piece]:
        """The text that was held back for more to come."""
        if not self._stops.found:
            yield from self._add(self._builder.finish())
            for piece in self._splitter.finish():
                yield from self._give(piece)
            yield from self._keep(Piece(self._stops.finish()))

    def free(self) -> None:
        """Give llama.cpp's memory back; no token can be chosen afterwards."""
        if self._sampler is not None:
            self._sampler.free()
        if self._grammar is not None:
            self._grammar.free()

    def completion(self, prompt_tokens: int, cached: int) -> Completion:
        """The whole answer; one without any text is degenerate."""
        text = "".join(self._answer)
        reason = self.finish_reason or "cancelled"
        if reason == "stop" and not text.strip() and not self._stops.found:
            reason = "degenerate"
        usage = Usage(prompt_tokens, len(self.tokens), cached)
        return Completion(text, reason, usage, "".join(self._thoughts))

    def _is_mark(self, token: int) -> bool:
        if self._marks is None:
            return False
        text = self._model.token_text(token)
        return bool(text) and (text in self._marks.open or text in self._marks.close)

    def _add(self, text: str) -> Iterator[Piece]:
        if self._strip_space and text:  # SentencePiece writes a space before its first word
            text = text.removeprefix(" ")
            self._strip_space = False
        for piece in self._splitter.add(text):
            yield from self._give(piece)

    def _give(self, piece: Piece) -> Iterator[Piece]:
        if piece.thinking:
            yield from self._keep(piece)
        else:
            yield from self._keep(Piece(self._stops.add(piece.text)))

    def _keep(self, piece: Piece) -> Iterator[Piece]:
        if piece.text:
            (self._thoughts if piece.thinking else self._answer).append(piece.text)
            yield piece


class TextBuilder:
    """Token pieces joined to text: a character comes out when its last byte is there, never before."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> str:
        """The text that this piece completes."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What is left: a replacement character for a cut one."""
        return self._decoder.decode(b"", final=True)


def row_seed(sampling: Sampling, prompt: Prompt) -> int:
    """The seed of one row, 32 bits: from the run's seed, the prompt and the number of the sample."""
    key = f"{sampling.seed}\x00{sampling.sample}\x00{prompt.text}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


def repeats(tokens: Sequence[int]) -> bool:
    """
    Whether an answer has come to its end in a loop.

    The same run of up to 32 tokens, 8 times over and for at least 48 tokens, or of up to 256, 6 times
    over. Looked for at every 16th token, which is soon enough.

    >>> repeats([1, 2] * 24), repeats([1, 2] * 23 + [3, 4])
    (True, False)
    >>> repeats([*range(80)] * 6), repeats([*range(80)] * 5 + [*range(79), 5])
    (True, False)
    """
    if len(tokens) < REPEATED_TOKENS or len(tokens) % 16:
        return False
    shortest = 1
    for longest, times in LOOPS:
        for period in range(shortest, min(longest, len(tokens) // times) + 1):
            span = max(REPEATED_TOKENS, times * period)
            # One token tells most runs from a loop.
            if tokens[-1] == tokens[-1 - period] and tokens[-span:-period] == tokens[period - span :]:
                return True
        shortest = longest + 1
    return False
