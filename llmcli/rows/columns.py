"""
What is added to a row: the result columns, their names, and an outcome as their values.

Rows keep every column they came with. An outcome is a Result or, where the row failed, its error.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from llmcli.errors import LlmError, UsageError
from llmcli.tasks import Result
from llmcli.templates import Template, label_set

if TYPE_CHECKING:
    from llmcli.rows.job import Job, RowOptions

Outcome = Result | LlmError
Kind = Literal["bool", "int", "long", "float", "text"]
Columns = Mapping[str, Collection[Kind]]
"""The input's columns, in order, with the kinds of their values where they are known."""
DECIMALS = 4
LARGEST_EXACT = 2**53  # the whole numbers up to it are exact as float64


@dataclass(frozen=True)
class ResultColumns:
    """
    The columns of one job: NAME; with labels NAME_p and, where asked, NAME_LABEL; and the error's.

    JSON also has NAME_probabilities, and NAME_spans where sentences are extracted.
    """

    name: str
    error: str = "error"
    labels: tuple[str, ...] = ()
    probabilities: bool = False
    spans: bool = False

    @property
    def flat(self) -> list[str]:
        """Column names of a table (CSV, TSV, Parquet), in order."""
        names = [self.name]
        if self.labels:
            names.append(f"{self.name}_p")
            if self.probabilities:
                names += [f"{self.name}_{label}" for label in self.labels]
        return [*names, self.error]

    @property
    def keys(self) -> list[str]:
        """Keys of a JSON object, in order."""
        names = [self.name]
        if self.labels:
            names += [f"{self.name}_p", f"{self.name}_probabilities"]
        if self.spans:
            names.append(f"{self.name}_spans")
        return [*names, self.error]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name of ours, of a column or a key."""
        return frozenset((*self.flat, *self.keys))

    def check(self, taken: Iterable[str], where: str) -> None:
        """Raise UsageError where the input has a column of one of these names, or two of them are equal."""
        clash = self.names.intersection(taken)
        if self.error in clash:
            raise UsageError(
                f"{where} already has a column {self.error!r}", hint="--error-as NAME renames ours"
            )
        if clash:
            raise UsageError(f"{where} already has a column {min(clash)!r}", hint="--as NAME renames ours")
        if len(set(self.flat)) < len(self.flat) or len(set(self.keys)) < len(self.keys):
            hint = "--as NAME and --error-as NAME rename ours"
            if self.probabilities and "p" in self.labels:
                hint = "without --probabilities, or as JSON Lines, a label may be called p"
            raise UsageError(f"two result columns have one name: {', '.join(self.flat)}", hint=hint)

    def table_values(self, outcome: Outcome) -> list[Any]:
        """Typed values in the order of `flat`; None where there is none."""
        if isinstance(outcome, LlmError):
            return [None] * (len(self.flat) - 1) + [failure(outcome)]
        values: list[Any] = [outcome.text]
        if self.labels:
            values.append(_rounded(outcome.p))
            if self.probabilities:
                by_label = outcome.probabilities or {}
                values += [_rounded(by_label.get(label)) for label in self.labels]
        return [*values, failure(outcome)]

    def cells(self, outcome: Outcome) -> list[str]:
        """`table_values` as text: 4 decimals, nothing for None."""
        return [_cell(value) for value in self.table_values(outcome)]

    def items(self, outcome: Outcome) -> dict[str, Any]:
        """The keys and values of a JSON object."""
        if isinstance(outcome, LlmError):
            return {**dict.fromkeys(self.keys), self.error: failure(outcome)}
        values: list[Any] = [outcome.text]
        if self.labels:
            rounded = {label: _rounded(p) for label, p in (outcome.probabilities or {}).items()}
            values += [_rounded(outcome.p), rounded or None]
        if self.spans:
            values.append([_span(span) for span in outcome.spans])
        return dict(zip(self.keys, [*values, failure(outcome)]))

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """What `--json` says of an outcome: the result, and how it came about; null where there is none."""
        made = self.items(outcome)
        spans = made.pop(f"{self.name}_spans", None)
        result = None if isinstance(outcome, LlmError) else outcome
        if self.labels:
            made["method"] = result and result.method
        made["finish_reason"] = result and result.finish_reason
        made["tokens"] = result and {"prompt": result.usage.prompt, "answer": result.usage.answer}
        made["chunks"] = result and result.chunks
        if self.spans:
            made["spans"] = spans
        return made


def failure(outcome: Outcome) -> str | None:
    """
    What the error column says; None for a row that is well.

    An answer that cannot be used is a failure, though there is one: it must not pass for an answer.
    """
    return outcome.message if isinstance(outcome, LlmError) else outcome.unusable


def result_columns(job: Job, options: RowOptions) -> ResultColumns:
    """The columns that a job adds."""
    name, error = options.name, options.error_name
    return columns_of(job.template, job.values, name, error, probabilities=options.probabilities)


def columns_of(
    template: Template,
    values: Mapping[str, Any],
    name: str | None = None,
    error: str = "error",
    *,
    probabilities: bool = False,
) -> ResultColumns:
    """The columns of a template's results; they are called after the template where `name` is None."""
    return ResultColumns(
        name=name or template.name,
        error=error,
        labels=tuple(label_set(template, values)) if template.mode == "label" else (),
        probabilities=probabilities,
        spans=template.mode == "extract",
    )


def as_cell(value: Any) -> str:
    """
    A value of JSON or Parquet as a CSV cell.

    >>> as_cell(True), as_cell(None), as_cell([1, "ä"]), as_cell(0.5)
    ('true', '', '[1, "ä"]', '0.5')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if is_json(value) else str(value)


def kind_of(value: Any) -> Kind | None:
    """
    What a column of Parquet must be to hold this value of JSON exactly; None for null, which any holds.

    >>> [kind_of(value) for value in (True, 3, 2**60, 2**70, 0.5, "a", [1], None)]
    ['bool', 'int', 'long', 'text', 'float', 'text', 'text', None]
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        size = abs(value)
        return "int" if size <= LARGEST_EXACT else "long" if size < 2**63 else "text"
    return "float" if isinstance(value, float) else "text"


def is_json(value: Any) -> bool:
    """Whether JSON has this type."""
    return isinstance(value, bool | int | float | list | dict)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    return value or ""


def _rounded(p: float | None) -> float | None:
    return None if p is None else round(p, DECIMALS)


def _span(span: Any) -> dict[str, Any]:
    return {
        "text": span.text,
        "line": span.line,
        "start": span.start,
        "end": span.end,
        "p": _rounded(span.p),
    }
