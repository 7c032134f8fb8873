"""
What went wrong with single texts while the others went on: told as it happens, summed up at the end.

One text's failure is the command's own, with its exit code; among several it is a line on standard
error, and exit 3 at the end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmcli.cli.environment import Environment
from llmcli.errors import InputTooLong, LlmError, RowsFailed, UnusableAnswer

if TYPE_CHECKING:
    from llmcli.cli.inputs import Item
    from llmcli.tasks import Result

NAMES = {"-": "standard input", "--text": "the text"}


class Tally:
    """Counts texts and failures of one run; `single` says that there is one text only."""

    def __init__(self, env: Environment, single: bool, show_thinking: bool = False) -> None:
        self._env = env
        self._single = single
        self._show_thinking = show_thinking
        self._texts = 0
        self._cut = 0
        self._errors: list[LlmError] = []
        self._failures = 0
        self._read = self._written = 0
        self._begun = time.monotonic()

    def failed(self, item: Item, error: LlmError) -> None:
        """Count a text without an answer, and tell it with the text's name."""
        named = about(item.source, error)
        self._texts += 1
        self._failures += 1
        if self._single:
            self._errors.append(named)
        else:
            self._env.complain(f"llm: error: {named}")

    def answered(self, item: Item, result: Result) -> None:
        """Count an answer; a cut one is noted, a degenerate one is a failure that has been printed."""
        self._texts += 1
        self._read += result.usage.prompt
        self._written += result.usage.answer
        if self._show_thinking and result.thinking:
            for line in result.thinking.strip().splitlines():
                self._env.complain(f"  {line}")
        if result.finish_reason == "length":
            self._cut += 1
        if result.unusable:
            self._texts -= 1
            self.failed(item, UnusableAnswer(result.unusable))
        if result.left_out:
            name = NAMES.get(item.source, item.source)
            self._env.note(f"{name}: {result.left_out:,} tokens are left out (--truncate)")
        if self._single and not item.text.strip():
            self._env.note(f"{NAMES.get(item.source, item.source)} is empty")

    def finish(self) -> None:
        """Tell what is to be told at the end. Raises the only text's error, or RowsFailed."""
        if self._cut:
            which = "the answer is" if self._single else f"{self._cut:,} answers are"
            self._env.note(f"{which} cut at the limit of tokens (see --max-tokens)")
        if self._env.verbose:
            seconds = time.monotonic() - self._begun
            texts = "1 text" if self._texts == 1 else f"{self._texts:,} texts"
            tokens = f"{self._read:,} tokens read, {self._written:,} written"
            self._env.note(f"{texts}, {tokens}, {seconds:.1f} s")
        if self._errors:
            raise self._errors[0]
        if self._failures:
            raise RowsFailed(f"{self._failures:,} of {self._texts:,} texts failed")


def about(source: str, error: LlmError) -> LlmError:
    """The same error, naming its text."""
    name = NAMES.get(source, source)
    if isinstance(error, InputTooLong) and error.tokens:
        message = f"{name} is {error.tokens:,} tokens and the context is {error.context:,}"
        return InputTooLong(message, error.hint, error.tokens, error.context)
    if name in error.message or source == "--text":
        return error
    return type(error)(f"{name}: {error.message}", error.hint)
