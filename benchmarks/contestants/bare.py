"""
Bare prompt processing: the rows' token ids in decodes of 512, one row of logits per text.

Nothing but `llama_decode`: one sequence that begins anew with every decode, no text, no answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing

import texts

from contestants.task import Measured, Task
from llmcli.engines.llama import amx
from llmcli.engines.llama.context import AbortSwitch, Batch, Context, ContextSettings
from llmcli.engines.llama.library import Log, Model
from llmcli.messages import Prompt


class Contestant:
    """A model, and a context of 512 tokens; with `model` one that is loaded already, as in share.py."""

    def __init__(self, task: Task, model: Model | None = None, log: Log | None = None) -> None:
        amx.settle()
        self._task = task
        self._log = log or Log()
        self._model = model or Model(str(task.model), self._log)

    def close(self) -> None:
        self._model.free()

    def tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [
            self._model.tokenize(text, special=True) for text in texts.rendered(self._task.model, prompts)
        ]

    def labels(self) -> Measured:
        tokens = self.tokens(self._task.labels()[1])
        shared = common(tokens)
        return len(tokens), self._decode(
            [(tokens[0][:shared], False), *((row[shared:], True) for row in tokens)]
        )

    def long(self) -> Measured:
        tokens = self.tokens(self._task.long()[1])
        return sum(map(len, tokens)), self._decode([(row, True) for row in tokens])

    def _decode(self, runs: Sequence[tuple[list[int], bool]]) -> float:
        """Seconds for runs of tokens in decodes of 512; logits of a run's last token where wanted."""
        ids = [
            (token, wanted and number == len(run) - 1)
            for run, wanted in runs
            for number, token in enumerate(run)
        ]
        settings = ContextSettings(cells=512, sequences=1, batch=512, threads=self._task.threads)
        context = Context(self._model, settings, AbortSwitch(), self._log)
        parts = [ids[start : start + 512] for start in range(0, len(ids), 512)]
        self._decode_part(context, parts[0])  # warm-up
        seconds = sum(self._decode_part(context, part) for part in parts)
        context.free()
        return seconds

    def _decode_part(self, context: Context, part: Sequence[tuple[int, bool]]) -> float:
        context.clear_all()
        batch = Batch(512)
        for position, (token, wanted) in enumerate(part):
            batch.add(0, position, [token], "last" if wanted else "none")
        begun = time.perf_counter()
        if context.decode(batch):
            raise SystemExit("llama_decode failed")
        return time.perf_counter() - begun


def common(rows: Sequence[list[int]]) -> int:
    """How many ids all rows begin with."""
    return len(os.path.commonprefix(list(rows)))  # noqa: RUF071 (of lists of ids, not of paths)


def own_tokens(task: Task) -> int:
    """Tokens of a row to write about that it does not share with the others, on average."""
    with closing(Contestant(task)) as bare:
        tokens = bare.tokens(task.writing(100)[1])
    shared = common(tokens)
    return round(sum(len(row) - shared for row in tokens) / len(tokens))
