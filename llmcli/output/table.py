"""
Rows as lines: aligned columns on a terminal, tab-separated to a pipe. Widths are terminal cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from llmcli.output.sanitize import one_line

GAP = 2  # blanks between two columns
NARROWEST = 4  # cells that the last column keeps on the narrowest terminal
READABLE = 24  # cells that it should have, if other columns can be cut for it
SHORTENED = 12  # cells that these keep


def cells(text: str) -> int:
    """
    Columns that a text takes on a terminal.

    >>> cells("tea"), cells("お茶"), cells("e\\u0301")
    (3, 4, 1)
    """
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """
    A text cut to `width` cells, with an ellipsis where something is missing.

    >>> fit("a long line", 7), fit("お茶です", 5), fit("short", 7)
    ('a long…', 'お茶…', 'short')
    """
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cell(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…" if width > 0 else ""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    terminal: bool,
    width: int = 80,
    right: Sequence[int] = (),
    cut: Sequence[int] = (),
) -> Iterator[str]:
    """
    The lines of a table, without line ends; columns whose numbers are in `right` are aligned to the right.

    On a terminal the last column is cut to fit `width`, and before it those in `cut`, so that it can be read;
    to a pipe nothing is cut or padded.

    >>> list(table(["model", "MB"], [["starter", "9"], ["お茶", "1200"]], terminal=True, right=[1]))
    ['model      MB', 'starter     9', 'お茶     1200']
    """
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    if not terminal:
        yield from ("\t".join(line) for line in lines)
        return
    widths = [max(cells(line[column]) for line in lines) for column in range(len(header))]
    room = width - sum(widths[:-1]) - GAP * (len(widths) - 1)
    for column in cut:
        given = max(0, min(widths[column] - SHORTENED, min(READABLE, widths[-1]) - room))
        widths[column] -= given
        room += given
    widths[-1] = min(widths[-1], max(NARROWEST, room))
    for line in lines:
        yield (
            (" " * GAP)
            .join(padded(cell, widths[column], column in right) for column, cell in enumerate(line))
            .rstrip()
        )


def padded(text: str, width: int, right: bool = False) -> str:
    """A text cut or filled with blanks to `width` cells."""
    text = fit(text, width)
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks
