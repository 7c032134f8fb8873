"""
What a batch is: the question (Job), how it is run (RowOptions), and where it runs (Outside).

Plain values, made at the door. A job's identity is what may not change between a run and its
resumption; a row's key is the hash of that identity and the row's text, never its position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import msgspec

from llmcli import __version__
from llmcli.engines.base import EngineInfo, EngineOptions
from llmcli.messages import Sampling

if TYPE_CHECKING:
    from llmcli.templates import Template

InputFormat = Literal["csv", "tsv", "jsonl", "parquet", "lines"]
OutputFormat = Literal["text", "json", "jsonl", "csv", "tsv", "parquet"]

SEED_RULE = "the numbers drawn for a row come from (seed, prompt, sample)"


@dataclass(frozen=True)
class Job:
    """
    What every row is asked.

    `values` are the template's parameters, checked. `model` and `engine` say how another process (a Ray
    actor) opens the same engine: the reference as given to `-m`, and its options. `truncate` is the
    part that is cut out of a text too long for the context; None refuses such a row.
    """

    template: Template
    values: Mapping[str, Any]
    sampling: Sampling
    model: str = "starter"
    engine: EngineOptions = field(default_factory=EngineOptions)
    truncate: Literal["head", "tail", "middle"] | None = None


@dataclass(frozen=True)
class RowOptions:
    """
    How a batch is read, run and written. Everything has the default that a bare command has.

    Input: `source` None is standard input. `input_format` None goes by the file's ending (`.gz` after it
    is unpacked). `field` is the text's column, `a.b` a nested one; None takes `text`, or the only column.
    `delimiter` and `quote` None are sniffed. `row_limit` is the longest row, in characters.

    Output: `output` None is standard output, without a journal. `name` is the result column's name, None
    the template's; `error_name` the error column's. `probabilities` adds a column per label.

    Run: `limit` rows are read. More than `max_errors` failed rows stop the job (75); None stops when the
    first 20 rows all fail, or more than 10 % of at least 1,000. `copies`, `cpus` and `gpus` (of each copy)
    are for `on="ray"`; None chooses.
    """

    source: Path | None = None
    input_format: InputFormat | None = None
    field: str | None = None
    header: bool = True
    delimiter: str | None = None
    quote: str | None = None
    encoding: str | None = None
    row_limit: int = 1 << 20

    output: Path | None = None
    output_format: OutputFormat | None = None
    name: str | None = None
    error_name: str = "error"
    probabilities: bool = False
    sidecar: bool = False

    limit: int | None = None
    max_errors: int | None = None
    retry_errors: bool = False
    keep_journal: bool = False
    dry_run: bool = False

    on: Literal["ray"] | None = None
    copies: int | None = None
    cpus: float | None = None
    gpus: float | None = None


class Outside(Protocol):
    """What a run sees of the world; the command line's Environment is one."""

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO
    stdout_is_terminal: bool
    stderr_is_terminal: bool
    quiet: bool
    verbose: bool

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        ...

    def write(self, text: str) -> None:
        """Write a result to standard output, control characters made visible on a terminal."""
        ...

    def status(self, text: str) -> None:
        """What is being done, for a terminal that has been silent for a second; "" for nothing."""
        ...

    def note(self, text: str) -> None:
        """Tell something beside the result, unless quiet."""
        ...

    def warn(self, text: str) -> None:
        """Tell what went wrong without stopping."""
        ...

    def complain(self, line: str) -> None:
        """One line on standard error."""
        ...


@dataclass(frozen=True)
class Identity:
    """
    What makes two runs the same job: named parts, and their hash.

    `difference` names the first part in which two identities differ, for the person who mixed them up.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)

    def key_function(self) -> Callable[[str], bytes]:
        """A function from a row's text to its key, 16 bytes: the hash of all parts and the text."""
        digest = hashlib.blake2b(_canonical(self.parts), digest_size=16).digest()

        def key_of(text: str) -> bytes:
            data = text.encode("utf-8", "surrogatepass")
            return hashlib.blake2b(data, key=digest, digest_size=16).digest()

        return key_of

    def is_that_of(self, other: Mapping[str, Any]) -> bool:
        """Whether these are the parts of the same job; they may have been JSON in between."""
        return _canonical(self.parts) == _canonical(other)

    def difference(self, other: Mapping[str, Any]) -> str:
        """
        >>> Identity({"model": "a", "field": "text"}).difference({"model": "b", "field": "text"})
        'its model is b, this one is a'
        >>> Identity({"sampling": {"seed": 1, "beams": 1}}).difference({"sampling": {"seed": 2, "beams": 1}})
        'its sampling is seed=2, this one is seed=1'
        """
        for name, mine in self.parts.items():
            theirs = other.get(name)
            if _canonical(theirs) != _canonical(mine):
                theirs, mine = _without_what_is_equal(theirs, mine)
                return f"its {name} is {_short(theirs)}, this one is {_short(mine)}"
        return "it has more parts"


def identify(job: Job, info: EngineInfo, field_name: str) -> Identity:
    """
    The identity of a job: template, parameters, sampling, field, and who answers.

    A model file is known by its hash alone (it may be renamed or moved), a server by its URL and model
    name. The llama.cpp build and the number of parallel sequences are not part of it.
    """
    return Identity(
        {
            "template": [job.template.name, _template_digest(job.template)],
            "parameters": dict(job.values),
            "sampling": msgspec.to_builtins(job.sampling),
            "field": field_name,
            "truncate": job.truncate,
            "engine": info.engine,
            "model": info.sha256 or info.model,
            "engine settings": list(info.settings),
        }
    )


def provenance(job: Job, info: EngineInfo, source: str, field_name: str, name: str) -> dict[str, Any]:
    """How a result came about, for the journal, the sidecar and JSON output."""
    return {
        "llmcli": __version__,
        "source": source,
        "field": field_name,
        "result": name,
        "model": {
            "reference": job.model,
            "name": info.model,
            "sha256": info.sha256,
            "quantisation": info.quantisation,
            "context": info.context,
        },
        "engine": {"name": info.engine, "build": info.build, "settings": list(info.settings)},
        "template": {
            "name": job.template.name,
            "source": job.template.source,
            "sha256": job.template.sha256,
        },
        "parameters": dict(job.values),
        "sampling": msgspec.to_builtins(job.sampling),
        "seed_rule": SEED_RULE,
    }


def _template_digest(template: Template) -> str:
    """What a template asks, wherever its file lies; overrides of models.yaml are in it."""
    asked = {
        name: value
        for name, value in msgspec.to_builtins(template).items()
        if name not in ("path", "source", "sha256", "help")
    }
    return hashlib.sha256(_canonical(asked)).hexdigest()[:16]


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _without_what_is_equal(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two mappings, the entries in which they differ."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one, other
    keys = [key for key in {**one, **other} if _canonical(one.get(key)) != _canonical(other.get(key))]
    return {key: one.get(key) for key in keys}, {key: other.get(key) for key in keys}


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(str(one) for one in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={one}" for key, one in value.items()) or "none"
    return "none" if value is None else str(value)
