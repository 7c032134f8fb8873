"""
What a text command is to work on: files, standard input, `--text`; or rows and lines, which go elsewhere.

`choose` looks at names only, so that a mistake is told before a model is loaded; the texts are read
one by one as they are asked for. A text that cannot be read is an item with an error, and the next follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmcli.cli.environment import Environment, as_word
from llmcli.errors import LlmError, MissingInput, UsageError

if TYPE_CHECKING:
    from llmcli.cli.options import InputOptions

ROW_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
STDIN = "-"

Kind = Literal["document", "documents", "lines", "rows"]


class Item(NamedTuple):
    """One text, or why there is none; `source` is a file's name, `-` or `--text`."""

    source: str
    text: str
    error: LlmError | None = None

    @property
    def shown(self) -> str:
        """The source as people read it."""
        return "standard input" if self.source == STDIN else self.source


@dataclass(frozen=True)
class Inputs:
    """What the command line names, checked but not read."""

    kind: Kind
    files: tuple[str, ...]
    texts: tuple[str, ...]
    encoding: str | None

    def items(self, env: Environment) -> Iterator[Item]:
        """Read the texts, in order."""
        for text in self.texts:
            yield Item("--text", text)
        for name in self.files:
            yield self._document(name, env)

    def _document(self, name: str, env: Environment) -> Item:
        from llmcli import documents

        try:
            if name == STDIN:
                if env.stdin_is_terminal:
                    env.status("")  # somebody is typing
                return Item(STDIN, documents.read_stream(env.stdin, self.encoding))
            return Item(name, documents.read_document(env.cwd / name, self.encoding))
        except LlmError as error:
            return Item(name, "", error)


def choose(
    files: Sequence[str], options: InputOptions, env: Environment, example: str, row_format: str | None = None
) -> Inputs:
    """
    What to work on; `row_format` says that everything is rows, whatever its name.

    Raises MissingInput for a file that does not exist, UsageError where nothing is named and standard input
    is a terminal, or where files of rows and documents are mixed.
    """
    texts = tuple(options.text or ())
    names = tuple(files)
    if not texts and not names:
        if env.stdin_is_terminal:
            raise UsageError("nothing to read", hint=f"for example: {example}")
        names = (STDIN,)
    for name in names:
        if not name or (name != STDIN and not _exists(env.cwd / name)):
            raise _missing(name, env.cwd)
    kind = _kind(names, texts, options.lines, row_format)
    return Inputs(kind, names, texts, options.encoding)


def _kind(names: tuple[str, ...], texts: tuple[str, ...], lines: bool, row_format: str | None) -> Kind:
    rows = [name for name in names if is_rows(name)]
    if lines and row_format:
        raise UsageError(f"--lines and --input-format {row_format} contradict each other", hint="give one")
    if row_format and texts:
        raise UsageError("--input-format is for files, not for --text", hint="leave one of them out")
    if row_format:
        return "rows"
    if lines and texts:
        raise UsageError("--lines reads files or standard input, not --text", hint="leave one of them out")
    if lines:
        return "lines"
    if rows:
        if texts or len(rows) < len(names):
            other = next((name for name in names if not is_rows(name)), "--text")
            raise UsageError(f"{rows[0]} holds rows and {other} is a document", hint="one kind at a time")
        return "rows"
    return "document" if len(names) + len(texts) == 1 else "documents"


def is_rows(name: str) -> bool:
    """
    Whether a file holds rows, by its name.

    >>> is_rows("reviews.csv"), is_rows("reviews.jsonl.gz"), is_rows("reviews.txt")
    (True, True, False)
    """
    return name.lower().removesuffix(".gz").endswith(ROW_ENDINGS)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:  # reading it says so
        return True
    except (OSError, ValueError):  # a whole paragraph is too long for a name, a NUL is in none
        return False
    return True


def _missing(name: str, folder: Path) -> MissingInput:
    if not name:  # "$FILE" with nothing in it
        return MissingInput("no file ''", hint="a file's name is empty")
    shown = name if len(name) <= 60 else f"{name[:57]}…"
    from llmcli import documents

    prose = documents.is_prose(name) or len(name) > len(shown)
    advice = f"for text itself: --text {as_word(shown)}" if prose else documents.neighbour(folder / name)
    return MissingInput(f"no file {shown!r}", hint=advice)
