"""
What is counted while rows are run: for the progress line, the summary at the end, and the error budget.

`Tally` counts answers as they come; `Summary` counts rows as they are written; `ErrorBudget` says when
so much fails that going on would waste the user's time.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from llmcli.errors import BackendUnreachable, LlmError, Stopped
from llmcli.rows.answers import is_passing
from llmcli.rows.columns import failure
from llmcli.rows.writers import one_line
from llmcli.tasks import Result

CAUSES = {
    "UnreadableInput": "unreadable",
    "InputTooLong": "too long for the context",
    "UnusableAnswer": "without a usable answer",
    "EngineCrashed": "crashed the engine",
    "BackendUnreachable": "not answered by the server",
    "PermissionRefused": "refused by the server",
    "ModelError": "without a model to answer them",
    "InputOutputError": "cut off by an error of input or output",
}

FIRST_ROWS = 20  # when all of these fail, something is wrong with more than the rows
ENOUGH_ROWS = 1000  # a share of fewer says little
TOLERATED = 0.1


@dataclass
class Tally:
    """Counts of one run."""

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Result | LlmError) -> None:
        """An answer has come from the engine."""
        self.answered += 1
        self.failed += failure(outcome) is not None
        if not isinstance(outcome, LlmError):
            self.prompt_tokens += outcome.usage.prompt
            self.answer_tokens += outcome.usage.answer

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return max(time.monotonic() - self.started, 1e-6)


@dataclass
class Summary:
    """What became of the rows, in the order in which they were written."""

    rows: int = 0
    distinct: int | None = None
    failed: int = 0
    empty: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    left_out: int = 0

    def add(self, outcome: Result | LlmError, labelled: bool) -> None:
        """A row was written."""
        self.rows += 1
        if isinstance(outcome, LlmError):
            self.failed += 1
            cause = type(outcome).__name__
            self.causes[CAUSES.get(cause, cause)] += 1
            return
        if not outcome.text and not outcome.chunks:
            self.empty += 1
        elif labelled:
            self.labels[outcome.text] += 1
        if outcome.unusable:
            self.failed += 1
            self.causes[CAUSES["UnusableAnswer"]] += 1
        self.cut += outcome.finish_reason == "length"
        self.left_out += outcome.left_out > 0

    def failures(self) -> str:
        """The failed rows by cause, most frequent first."""
        return ", ".join(f"{number:,} {cause}" for cause, number in self.causes.most_common())


class ErrorBudget:
    """
    When to stop: more than `max_errors` failures; without that, when the first 20 rows of this run all fail,
    when 20 in a row have no answer for a reason that is not theirs, or more than 10 % of at least 1,000 fail.

    `retrying` (--retry-errors) asks only for rows that failed before: there the rows that are known to be
    well count too, and the first 20 only where a server did not answer. `read_*` are called by the thread
    that reads rows, `answered` by the other.
    """

    def __init__(self, max_errors: int | None, retrying: bool = False) -> None:
        self._max_errors, self._retrying = max_errors, retrying
        self._asked = 0
        self._known = self._unreadable = 0
        self._answered = self._failed = 0
        self._first_unreadable = self._first_failed = 0
        self._without_answer = 0  # in a row
        self._reasons: Counter[str] = Counter()  # of the first rows' failures
        self._last_reason = ""

    def read_known(self) -> None:
        """A row whose answer is known, or is being asked for already, or that is empty."""
        self._known += 1

    def read_unreadable(self, error: LlmError) -> None:
        """A row that cannot be read."""
        self._unreadable += 1
        if not self._known and self._asked + self._unreadable <= FIRST_ROWS:
            self._first_unreadable += 1
            self._reasons[error.message] += 1

    def read_asked(self) -> int:
        """A row that is asked; gives its number among them."""
        self._asked += 1
        return self._asked + self._unreadable

    def answered(self, number: int, outcome: Result | LlmError) -> None:
        """The answer to the row of that number."""
        self._answered += 1
        reason = failure(outcome)
        if reason is None or not is_passing(outcome):
            self._without_answer = 0
        if reason is not None:
            self._failed += 1
            self._without_answer += is_passing(outcome)
            self._last_reason = reason
            self._reasons[reason] += self._answered <= FIRST_ROWS
            if number <= FIRST_ROWS and not (self._retrying and not isinstance(outcome, BackendUnreachable)):
                self._first_failed += 1

    def check(self, remedy: str) -> None:
        """Raise Stopped, with this hint, where the run must stop."""
        if reason := self.exceeded():
            raise Stopped(f"stopped: {reason}", hint=remedy)

    def exceeded(self) -> str:
        """Why the run must stop; "" while it may go on."""
        failed = self._failed + self._unreadable
        if self._max_errors is not None:
            return f"{failed:,} rows failed" if failed > self._max_errors else ""
        if self._first_failed + self._first_unreadable >= FIRST_ROWS:
            ((reason, _),) = self._reasons.most_common(1)
            return f"the first {FIRST_ROWS} rows all failed: {one_line(reason)}"
        if self._without_answer >= FIRST_ROWS:
            return f"{FIRST_ROWS} rows in a row without an answer: {one_line(self._last_reason)}"
        if _too_many(failed, self._known + self._asked + self._unreadable):
            return f"{failed:,} rows failed, more than 10 % of those read"
        if not self._retrying and _too_many(self._failed, self._answered):
            return f"{self._failed:,} of {self._answered:,} rows failed, more than 10 %"
        return ""


def _too_many(failed: int, of: int) -> bool:
    return of >= ENOUGH_ROWS and failed > TOLERATED * of
