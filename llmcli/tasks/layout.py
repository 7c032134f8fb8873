"""
Take a text apart into the paragraphs that are words and the layout that is not, and put it together again.

    ## Opening hours            "## " + words
    - Monday: **closed**        "- " + words
    | Day | Hours |             "| " + words + " | " + words + " |"

Kept as they are: blank lines, indentation, the marks of headings, lists, quotes and tables, code blocks,
lines without a letter, and the number of lines. The lines of a wrapped paragraph are one text, and the
answer is spread over as many lines. Knows nothing of models; what is done to the words is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from msgspec import Struct


class Paragraph(Struct, frozen=True):
    """
    Words to be replaced: `text` is on one line; `frame` has what stands before and after on each line
    it came from, `widths` the lengths of these lines.
    """

    text: str
    frame: tuple[tuple[str, str], ...]
    widths: tuple[int, ...]
    in_table: bool = False


Part = str | Paragraph

WRAPPED = 40  # a line shorter than this was ended by its writer, not by an editor

# Indentation and quote marks, then the mark of a heading, list item or task.
_MARK = re.compile(
    r"(?P<quote>\s*(?:>\s?)*)(?P<mark>(?:\s*(?:#{1,6}|[-*+•–]|\d{1,3}[.)]|[a-zA-Z]\))\s+(?:\[[ xX]\]\s+)?)*)"
)
_FENCE = re.compile(r"\s*(?:>\s?)*(```+|~~~+)")
# A line that is nothing but an address, a picture, tags, or where a link leads. Linear, whatever it holds.
_ADDRESS = re.compile(
    r'\s*(?:\[[^\]]+\]:\s*\S+|<[^\s>]+>|https?://\S+|!\[[^\]]*\]\([^)]*\)|</?[a-zA-Z][^<>]*>(?:\s*</?[a-zA-Z][^<>]*>)*)(?:\s+"[^"]*")?\s*\Z'
)
_SETTING = re.compile(r"[\w-]+\s*:(?:\s|\Z)")
_INDENTED = re.compile(r"(?: {4}| {0,3}\t)\s*\S")
_LISTED = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)])\s|\s+\S")
_CODE = re.compile(
    r"\w\(|[={}<>;$\\`|]|[:{}()\[\]]\s*\Z|\A\s*(?:#|//|-{1,2}\w|(?:return|import|from|def|else)\b)"
)
_RULE = re.compile(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)+\|?\Z")  # under the head of a table, stripped
_SENTENCE_END = re.compile(r"[.!?…。！？:;]['\"”’)\]]*\Z")
_CELL = re.compile(r"((?<!\\)\|)")
_NOT_FIRST = tuple("。，、！？；：」』）")  # no line begins with one of these
_WIDE = re.compile(r"[⺀-鿿가-힯＀-￯]")


def parts(text: str) -> list[Part]:
    """
    The text as layout (str) and paragraphs, in order.

    >>> [part if isinstance(part, str) else part.text for part in parts("# Hi\\n\\n- one")]
    ['Hi', '\\n\\n', 'one']
    """
    made: list[Part] = []
    for is_layout, run in groupby(_parts(text), key=lambda part: isinstance(part, str)):
        same = list(run)
        made += ["".join(map(str, same))] if is_layout else same
    return [part for part in made if part != ""]


def written(part: Part, answer: str) -> str:
    """
    A part with the answer in the place of its words; layout stays as it is.

    >>> written(parts("  - Good day!")[0], "Guten Tag!")
    '  - Guten Tag!'
    """
    if isinstance(part, str):
        return part
    words = " ".join(answer.split())
    if part.in_table:
        words = _CELL.sub(r"\\\1", words)
    lines = spread(words, part.widths)
    return "\n".join(before + line + after for (before, after), line in zip(part.frame, lines))


def spread(words: str, widths: Sequence[int]) -> list[str]:
    """
    The words over as many lines as there are widths, each about its share.

    >>> spread("eins zwei drei vier", [10, 10])
    ['eins zwei', 'drei vier']
    """
    lines = []
    start, left = 0, sum(widths)
    for width in widths[:-1]:
        cut = _cut_near(words, start, start + round((len(words) - start) * width / left)) if left else start
        lines.append(words[start:cut].strip())
        start, left = cut, left - width
    return [*lines, words[start:].strip()]


def _cut_near(words: str, start: int, wanted: int) -> int:
    """The break between two words that is nearest; any place in a script that has no spaces."""
    before = words.rfind(" ", max(start + 1, wanted - 200), wanted + 1)
    after = words.find(" ", wanted, wanted + 200)
    near = min((place for place in (before, after) if place > 0), key=lambda p: abs(p - wanted), default=None)
    wide = _WIDE.search(words, max(start, wanted - 1), wanted + 1)
    if wide and (near is None or abs(near - wanted) > 20):
        return wanted + 1 if words[wanted : wanted + 1] in _NOT_FIRST else wanted
    if near is None:
        near = words.find(" ", wanted)
    return near if near >= 0 else len(words)


def _parts(text: str) -> Iterator[Part]:
    block: list[tuple[str, str, str]] = []  # lines that may be one paragraph: before, words, after
    lines = text.split("\n")
    for number, (line, kept, row) in enumerate(zip(lines, _kept(lines), _rows(lines))):
        end = "\n" if number < len(lines) - 1 else ""
        if kept or row:
            yield from _block_parts(block)
            block = []
            yield from (line,) if kept else _row(line)
            yield end
            continue
        framed = _framed(line)
        if block and not _continues(block, framed):
            yield from _block_parts(block)
            block = []
        block.append((framed[0], framed[1], framed[2] + end))
    yield from _block_parts(block)


def _kept(lines: Sequence[str]) -> list[bool]:
    """Of every line, whether it stays as it is."""
    kept = [not any(map(str.isalpha, line)) or _ADDRESS.match(line) is not None for line in lines]
    fence = ""
    for number, line in enumerate(lines):
        opened = _FENCE.match(line)
        kept[number] = bool(kept[number] or fence or opened)
        if opened and not fence:
            fence = opened[1]
        elif opened and opened[1].startswith(fence) and line.strip().endswith(opened[1]):
            fence = ""
    for start, end in (*_settings(lines), *_indented_code(lines)):
        kept[start:end] = [True] * (end - start)
    return kept


def _settings(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the settings before a Markdown file's first line stand (YAML between two lines of dashes)."""
    if lines[0].rstrip() == "---" and len(lines) > 1 and _SETTING.match(lines[1]):
        for end, line in enumerate(lines[1:], 2):
            if line.rstrip() in ("---", "..."):
                yield 0, end
                return


def _indented_code(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """
    Where code stands that is marked by its indentation alone, behind a blank line and outside a list.

    Prose is indented too, so half of the lines must look like code.
    """
    start, listed = 0, False
    for is_indented, run in groupby(lines, key=lambda line: not line.strip() or bool(_INDENTED.match(line))):
        block = list(run)
        if is_indented and not listed and (start == 0 or not block[0].strip()):
            said = [line for line in block if line.strip()]
            if 2 * sum(_CODE.search(line) is not None for line in said) >= max(1, len(said)):
                yield start, start + len(block)
        elif not is_indented:
            listed = _LISTED.match(block[-1]) is not None
        start += len(block)


def _rows(lines: Sequence[str]) -> Iterator[bool]:
    """Of every line, whether it is a row of a table: between bars, or around a line of dashes and bars."""
    inside = False
    ruled = [_RULE.match(line.strip()) is not None for line in lines]
    for line, is_rule, rule_follows in zip(lines, ruled, [*ruled[1:], False]):
        inside = "|" in line and (inside or is_rule or rule_follows)
        yield inside or (line.lstrip().startswith("|") and len(_CELL.findall(line)) > 1)


def _framed(line: str) -> tuple[str, str, str]:
    """What stands before the words, the words, and what stands after."""
    match = _MARK.match(line)
    start = match.end() if match else 0
    start += len(line[start:]) - len(line[start:].lstrip())
    words = line[start:].rstrip()
    return line[:start], words, line[start + len(words) :]


def _continues(block: list[tuple[str, str, str]], framed: tuple[str, str, str]) -> bool:
    """Whether a line may go on with the paragraph above: no mark of its own, and no hard break above it."""
    before, _, after = block[-1]
    match = _MARK.match(framed[0])
    if match is None or match["mark"].strip() or "#" in before:
        return False
    same_quote = match["quote"].count(">") == before.count(">")
    return same_quote and not after.startswith("  ") and not block[-1][1].endswith("\\")


def _block_parts(block: list[tuple[str, str, str]]) -> Iterator[Part]:
    """One paragraph if its lines were wrapped by an editor; else each line is a text of its own."""
    if _is_wrapped([words for _, words, _ in block]):
        *inner, last = block
        frame = (*((before, after.removesuffix("\n")) for before, _, after in inner), (last[0], ""))
        yield Paragraph(
            _joined(words for _, words, _ in block), frame, tuple(len(words) for _, words, _ in block)
        )
        yield last[2]
        return
    for before, words, after in block:
        if any(map(str.isalpha, words)):
            yield Paragraph(words, ((before, ""),), (len(words),))
            yield after
        else:
            yield before + words + after


def _is_wrapped(lines: Sequence[str]) -> bool:
    """
    Whether an editor broke these lines: each is as full as it can be, and few end with a sentence.

    A file with a sentence on each line is not wrapped, and its lines are not to be mixed.
    """
    if len(lines) < 2:
        return False
    width = max(map(_width, lines))
    ended = sum(bool(_SENTENCE_END.search(line)) for line in lines[:-1])
    full = all(
        _width(line) >= WRAPPED and _width(line) + 1 + _width(_first_word(after)) > width
        for line, after in pairwise(lines)
    )
    return full and 2 * ended < len(lines)


def _first_word(line: str) -> str:
    return line[:1] if _WIDE.match(line) else line.split(maxsplit=1)[0]


def _width(line: str) -> int:
    """Columns on a terminal, near enough: a Chinese character takes two."""
    return len(line) + len(_WIDE.findall(line))


def _joined(lines: Iterable[str]) -> str:
    text = ""
    for line in lines:
        glued = not text or (_WIDE.match(text[-1]) and _WIDE.match(line[0]))
        text += line if glued else " " + line
    return text


def _row(line: str) -> Iterator[Part]:
    """The cells of a table's row; bars and padding are layout."""
    for piece in _CELL.split(line):
        words = piece.strip()
        if not any(map(str.isalpha, words)):
            yield piece
            continue
        start = piece.index(words)
        yield piece[:start]
        yield Paragraph(words, (("", ""),), (len(words),), in_table=True)
        yield piece[start + len(words) :]
