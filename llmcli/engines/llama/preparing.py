"""
What is asked on the wire as the scheduler's requests: prompts to tokens, and the room of an answer.

All of it runs in the tokenizer's thread, to which the chat template and the tokenizer belong.
"""

from __future__ import annotations

from typing import Any

from llmcli.engines.llama import wire
from llmcli.engines.llama.branches import paths
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.library import Model
from llmcli.engines.llama.requests import (
    EXACT_PIECE,
    EXACT_PROMPT,
    EXPECTED_ANSWER,
    GPU_BATCH,
    SEARCHED_MORE,
    Limits,
    Request,
    too_long,
)
from llmcli.engines.llama.scheduler import Scheduler
from llmcli.engines.llama.thinking import marks_of
from llmcli.engines.llama.tokens import Tokenizer
from llmcli.engines.llama.writer import Writer
from llmcli.errors import UsageError
from llmcli.messages import Prompt, Sampling

LONGEST_LABEL = 64


class Requests:
    """
    Makes requests for one loaded model.

    `keeps_fixed`: whether prefixes are kept on disk; `can_be_alone`: whether one sequence may have a cache
    for itself.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        scheduler: Scheduler,
        template: ChatTemplate | None,
        tokenizer: Tokenizer,
        thinking: dict[str, Any],
        *,
        keeps_fixed: bool,
        can_be_alone: bool,
        on_gpu: bool,
    ) -> None:
        self._model, self._limits, self._scheduler = model, limits, scheduler
        self._template, self._tokenizer, self._thinking = template, tokenizer, thinking
        self._marks = marks_of(thinking, template.source if template is not None else "")
        self._keeps_fixed, self._can_be_alone, self._on_gpu = keeps_fixed, can_be_alone, on_gpu

    def counts(self, message: wire.Count) -> tuple[int, ...]:
        """Tokens of each item."""
        return tuple(
            len(self._tokenizer.encode(item)) if isinstance(item, Prompt) else self._tokenizer.count(item)
            for item in message.items
        )

    def score(self, message: wire.Score) -> Request:
        """Which label fits. Raises UsageError where no label can be scored, InputTooLong."""
        prefix = self._thinking.get("answer_prefix") or ""
        if self._marks and not prefix and not (self._template and self._template.can_not_think):
            raise UsageError(
                "this model always thinks before it answers, so where its answer begins is not known",
                "set `thinking: {answer_prefix: …}` for it in models.yaml, or use another model for labels",
            )
        tokens, rests = self._tokenizer.encode_with_answers(message.prompt, message.labels, prefix)
        _see_some(tokens)
        longest = max(len(rest) for rest in rests)
        if longest > LONGEST_LABEL:
            raise UsageError(f"a label is {longest} tokens long", f"at most {LONGEST_LABEL} are scored")
        if len(tokens) + longest > self._limits.context:
            raise too_long(len(tokens) + longest, self._limits.context)
        further = sum(len(path.tokens) for path in paths(rests))
        return Request(
            message.id,
            tokens,
            further,
            labels=message.labels,
            rests=rests,
            many=message.many,
            fixed=self._fixed(message.prompt, tokens),
        )

    def generate(self, message: wire.Generate) -> Request:
        """An answer to write. Raises InputTooLong where it has no room, UsageError for an empty prompt."""
        tokens = self._tokenizer.encode(message.prompt)
        _see_some(tokens)
        room = self._limits.context - len(tokens)
        wanted = message.sampling.max_tokens
        # An answer needs room too: a quarter of the context, where it may be that long.
        needed = min(wanted or 1, self._limits.context // 4)
        if room < needed:
            raise too_long(len(tokens) + needed, self._limits.context)
        budget = room if wanted is None else min(wanted, room)
        conversation = message.stream and message.prompt.fixed is None
        alone = conversation or self._limits.single or self._limits.sequential
        exact = not message.stream and not self._on_gpu and len(tokens) <= EXACT_PROMPT
        beams = message.sampling.beams if message.sampling.temperature == 0 else 1
        if beams > 1 and wanted is None and self._marks is None:
            budget = min(budget, 2 * len(tokens) + SEARCHED_MORE)
        # With --sequential whether an answer moves may not depend on what made the context larger before.
        expected = budget if beams > 1 or self._limits.sequential else _expected(budget, tokens)
        beside = beams > 1 or (message.many and not self._limits.sequential)
        apart = beside and self._limits.together_apart(len(tokens) + expected, beams) > 0
        if beams > 1 and not apart:
            expected = budget = self._budget_of_beams(len(tokens), budget, wanted, beams)
        inside = self._opened(message.prompt)  # renders the chat template, which belongs to this thread
        return Request(
            message.id,
            tokens,
            expected,
            budget - expected,
            make_writer=lambda limit: self._writer(message.prompt, message.sampling, limit, inside),
            stream=message.stream,
            many=message.many,
            stable=0 if message.many else self._tokenizer.stable(message.prompt, tokens),
            fixed=self._fixed(message.prompt, tokens),
            piece=EXACT_PIECE if exact else GPU_BATCH,
            apart=apart,
            alone=self._can_be_alone and (apart or alone) and beams == 1,
            beams=beams,
            wrote=self._tokenizer.remember,
        )

    def _budget_of_beams(self, tokens: int, budget: int, wanted: int | None, beams: int) -> int:
        """Tokens of an answer whose beams share one cache."""
        limits = self._limits
        room = (limits.cells - tokens) // beams
        states = limits.parallel if self._scheduler.cache.whole_only else beams
        if beams > states or room < (wanted or 1):
            raise UsageError(f"there is no room for {beams} beams of this text", "use fewer --beams")
        return min(budget, room)

    def ahead(self, message: wire.Ahead) -> Request:
        """What is known of a prompt to come, read and nothing written. Raises InputTooLong, UsageError."""
        tokens = self._tokenizer.coming(message.prompt)
        _see_some(tokens)
        room = self._limits.context - len(tokens)
        if room < 1:
            raise too_long(len(tokens) + 1, self._limits.context)
        expected = _expected(min(message.max_tokens or room, room), tokens)
        return Request(message.id, tokens, expected, alone=self._can_be_alone, ahead=True)

    def _fixed(self, prompt: Prompt, tokens: list[int]) -> int:
        return min(self._tokenizer.fixed(prompt, tokens), len(tokens) - 1) if self._keeps_fixed else 0

    def _opened(self, prompt: Prompt) -> bool:
        """Whether the chat template itself has opened the thinking."""
        if self._marks is None or self._template is None or prompt.raw is not None or prompt.continue_last:
            return False
        header = self._template.header(prompt.messages, thinking=prompt.thinking)
        return header.rstrip().endswith(self._marks.open)

    def _writer(self, prompt: Prompt, sampling: Sampling, budget: int, inside: bool) -> Writer:
        constrained = sampling.grammar is not None
        return Writer(
            self._model,
            prompt,
            sampling,
            budget=budget,
            candidates=self._scheduler.candidates,
            marks=None if constrained or prompt.raw is not None else self._marks,
            inside=inside,
            gbnf=sampling.grammar,
        )


def _expected(budget: int, tokens: list[int]) -> int:
    """Tokens that an answer to a prompt is first given room for, of those that it may have."""
    return min(budget, max(EXPECTED_ANSWER, 2 * len(tokens)))


def _see_some(tokens: list[int]) -> None:
    if not tokens:
        raise UsageError("the prompt is empty", "give it some text")
