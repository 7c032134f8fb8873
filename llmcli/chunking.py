"""
Find the sentences of a text, and split a text into chunks that fit a token budget.

Cuts at paragraphs first, then sentences, then words, then characters. Every span is
verbatim: `text[span.start:span.end] == span.text`. Knows nothing of prompts or
models: `split` is given a function that counts tokens. The sentence rules are for
languages written with `.` `!` `?` or with `。` `！` `？`; they know common abbreviations of
English, German, French and Spanish, and would rather join two sentences than cut one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from llmcli.errors import InputTooLong

Count = Callable[[Sequence[str]], list[int]]
Range = tuple[int, int]


class Span(Struct, frozen=True):
    """A verbatim part of a text; `start` and `end` are character offsets."""

    start: int
    end: int
    text: str


# ---------------------------------------------------------------- sentences

_END = re.compile(r"[.!?…]+|[。！？｡．؟۔।]+")
_WIDE_END = frozenset("。！？｡．؟۔।")  # these end a sentence without a space after them
_CLOSERS = frozenset("\"'”’»›)]}*_`」』）】》")
_OPENERS = frozenset("\"'“‘„‚«‹([{¿¡*_`「『（【《")
_FRENCH_CLOSER = re.compile(r"\s»(?![^\s.,;:!?)])")  # « Non ! » has spaces inside its quotes
_FOOTNOTE = re.compile(r"\[\d{1,3}\]")


def _words(line: str) -> frozenset[str]:
    return frozenset(line.split())


# Never the end of a sentence: what they belong to follows.
_TITLES = _words(
    "mr mrs ms mx dr prof st hon rev gen sen rep gov capt lt col sgt mme mlle sr sra srta hr fr herr "
    "e.g i.e vs cf viz al ca approx bzw z.b d.h u.a p.ej e.v"
)
# An abbreviation only before a number: "No. 5", "Fig. 3", "p. 12".
_BEFORE_NUMBER = _words("no nr nos fig figs p pp art sec ch vol eq s num núm tab kap abs")
# May end a sentence; does when an ordinary first word follows.
_MAYBE = _words(
    "inc ltd co corp jr bros dept est ave blvd rd univ usw etc jan feb mar apr jun jul aug sep sept oct nov "
    "dec ph.d m.d b.a m.a u.s u.k u.n e.u d.c a.m p.m"
)
_FIRST_WORDS = _words(
    "a an the this that these those there here it he she they we i you his her its their our my your in on "
    "at by for from to with as if when while after before since until although because but and or so yet "
    "then however what who why how where which no not one some many most all each every both another "
    "der die das ein eine es er sie wir ich ihr im am in und aber le la les un une il elle ils elles nous "
    "el los las una en pero"
)
_GERMAN_DATES = _words(
    "januar februar märz april mai juni juli august september oktober november dezember jahrhundert"
)

_HEADING = re.compile(r" {0,3}#{1,6}(?=\s)")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)]|[A-Za-z]\))\s+(?=\S)")
_RULE = re.compile(r"\s*(?:[-=_*~]\s*){3,}$")
_TABLE_ROW = re.compile(r"\s*\|")
_WORD_BEFORE = 24  # characters looked back at for an abbreviation


def sentences(text: str) -> list[Span]:
    """
    The sentences of `text`, verbatim and in order, without the white space between them.

    A heading, a list item and a table row start a sentence of their own; the newlines
    of a wrapped paragraph belong to its sentences; a blank line ends one.

    >>> [span.text for span in sentences("Dr. Bly paid $3.50. Why?\\n\\n- Tea\\n- Cake")]
    ['Dr. Bly paid $3.50.', 'Why?', '- Tea', '- Cake']
    """
    found = []
    for start, end in _blocks(text):
        for first, last in _sentences_of_block(text, start, end):
            first, last = _trim(text, first, last)
            if first < last:
                found.append(Span(first, last, text[first:last]))
    return found


def _blocks(text: str) -> Iterator[Range]:
    """Runs of lines that belong together: a paragraph, a heading, a list item, a table row."""
    begin = 0
    position = 0
    alone = False  # the block so far takes no further line
    for line in _lines(text):
        start, position = position, position + len(line)
        single = bool(_HEADING.match(line) or _TABLE_ROW.match(line) or _RULE.match(line))
        if not line.strip() or single or alone or _LIST_ITEM.match(line):
            if begin < start:
                yield begin, start
            begin = start
        alone = single or not line.strip()
    if begin < position:
        yield begin, position


def _lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _sentences_of_block(text: str, start: int, end: int) -> Iterator[Range]:
    heading = _HEADING.match(text, start, end)
    if heading:
        yield start, end
        return
    marker = _LIST_ITEM.match(text, start, end)
    position = marker.end() if marker else start  # the dot of "1." ends nothing
    begin = start
    while match := _END.search(text, position, end):
        position = _after_closers(text, match.end(), end)
        if _is_end(text, match.start(), match.end(), position, start, end):
            yield begin, position
            begin = position
    if begin < end:
        yield begin, end


def _after_closers(text: str, position: int, end: int) -> int:
    """Step over quotes and brackets that close after a full stop, and over a footnote mark."""
    while position < end:
        if footnote := _FOOTNOTE.match(text, position, end):
            position = footnote.end()
        elif text[position] in _CLOSERS:
            position += 1
        elif _FRENCH_CLOSER.match(text, position, end):
            position += 2
        else:
            break
    return position


def _is_end(text: str, mark: int, after: int, closed: int, start: int, end: int) -> bool:
    """Whether the punctuation text[mark:after] ends a sentence; `closed` is past its closing quotes."""
    if closed >= end:
        return True
    if text[mark] in _WIDE_END:
        return not (text[mark] == "．" and text[closed].isdigit())
    if not text[closed].isspace():
        return False
    following = _next_word(text, closed, end)
    if not following or following[0].islower():
        return not following
    if text[mark:after] != "." or closed > after:
        return True
    return not _is_abbreviation(_previous_word(text, mark, start), following)


def _next_word(text: str, position: int, end: int) -> str:
    """The word after white space and opening quotes, at most 24 characters of it."""
    while position < end and (text[position].isspace() or text[position] in _OPENERS):
        position += 1
    last = position
    while last < min(end, position + _WORD_BEFORE) and text[last].isalnum():
        last += 1
    return text[position:last] or text[position : position + 1]


def _previous_word(text: str, mark: int, start: int) -> str:
    first = mark
    while first > max(start, mark - _WORD_BEFORE) and (text[first - 1].isalnum() or text[first - 1] == "."):
        first -= 1
    return text[first:mark]


def _is_abbreviation(word: str, following: str) -> bool:
    """
    Whether the full stop after `word` belongs to it.

    >>> _is_abbreviation("Dr", "Bly"), _is_abbreviation("U.S", "The"), _is_abbreviation("tea", "The")
    (True, False, False)
    """
    low, first = word.lower(), following.lower()
    if low in _TITLES:
        return True
    if low in _BEFORE_NUMBER and following[0].isdigit():
        return True
    if low.isdigit() and len(low) <= 2 and first in _GERMAN_DATES:  # "am 3. Oktober"
        return True
    initials = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    if low in _MAYBE or initials or re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word):
        return first not in _FIRST_WORDS
    return False


# ------------------------------------------------------------------ chunks

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_CHARACTERS_PER_TOKEN = 8  # longer pieces are cut before they are counted, and packed again after


def split(text: str, budget: int, count: Count) -> list[Span]:
    """
    Chunks of `text`, each of at most `budget` tokens as `count` counts them, in order.

    Nothing but white space stands between two chunks. `count` is called with many texts
    at once, some ten times in all. Raises InputTooLong where one character exceeds the budget.

    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> [chunk.text for chunk in split("One two. Three four.\\n\\nFive six.", budget=4, count=words)]
    ['One two. Three four.', 'Five six.']
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} tokens")
    units, sizes = _units(text, budget, count)
    base = count([""])[0]  # what the counting itself adds, such as a begin-of-text token
    groups = _pack([size - base for size in sizes], budget - base)
    return _checked(text, [[units[i] for i in group] for group in groups], budget, count)


def _units(text: str, budget: int, count: Count) -> tuple[list[Range], list[int]]:
    """
    Neighbouring ranges that cover the text, each within the budget: paragraphs, and the sentences and
    parts of those that are too long; and their sizes in tokens.
    """
    fitting: dict[Range, int] = {}
    pending = [(0, len(text))] if text.strip() else []
    for cut in (_paragraph_ranges, _sentence_ranges, _bounded_ranges(budget)):
        pending = [part for start, end in pending for part in cut(text, start, end)]
        pending = _count_into(fitting, text, pending, budget, count)
    while pending:
        pending = [part for start, end in pending for part in _halves(text, start, end, budget)]
        pending = _count_into(fitting, text, pending, budget, count)
    units = sorted(fitting)
    return units, [fitting[unit] for unit in units]


def _count_into(
    fitting: dict[Range, int], text: str, ranges: list[Range], budget: int, count: Count
) -> list[Range]:
    """Note what fits, give back what does not. Far too long is known without counting."""
    ranges = [(start, end) for start, end in ranges if not text[start:end].isspace()]
    limit = _CHARACTERS_PER_TOKEN * budget
    counted = [span for span in ranges if span[1] - span[0] <= limit]
    sizes = dict(zip(counted, count([text[start:end] for start, end in counted]))) if counted else {}
    fitting.update({span: size for span, size in sizes.items() if size <= budget})
    return [span for span in ranges if span not in fitting]


def _paragraph_ranges(text: str, start: int, end: int) -> Iterator[Range]:
    begin = start
    for gap in _BLANK_LINE.finditer(text, start, end):
        yield begin, gap.end()
        begin = gap.end()
    if begin < end:
        yield begin, end


def _sentence_ranges(text: str, start: int, end: int) -> Iterator[Range]:
    """The sentences of a paragraph, each with the white space after it."""
    edges = [start + span.start for span in sentences(text[start:end])][1:]
    yield from zip([start, *edges], [*edges, end])


def _bounded_ranges(budget: int) -> Callable[[str, int, int], Iterator[Range]]:
    """A cutter into parts short enough to be counted: a tokenizer may be slow on 1 MB without a space."""

    def cut(text: str, start: int, end: int) -> Iterator[Range]:
        while end - start > _CHARACTERS_PER_TOKEN * budget:
            middle = _cut_position(text, start, start + _CHARACTERS_PER_TOKEN * budget)
            yield start, middle
            start = middle
        yield start, end

    return cut


def _halves(text: str, start: int, end: int, budget: int) -> tuple[Range, Range]:
    if end - start < 2:
        raise InputTooLong(f"one character is longer than the {budget} tokens there is room for")
    middle = _cut_position(text, start, (start + end + 1) // 2)
    return (start, middle), (middle, end)


def _cut_position(text: str, start: int, wanted: int) -> int:
    """
    Where to cut so that text[start:cut] has at most `wanted - start` characters, and at least one.

    After the last white space of the second half, where there is one; else not before
    a combining mark, so that a letter keeps its accents.
    """
    for position in range(wanted, (start + wanted) // 2, -1):
        if text[position - 1].isspace():
            return position
    for position in range(wanted, max(start, wanted - 16), -1):
        if position < len(text) and not _joins(text[position - 1], text[position]):
            return position
    return max(wanted, start + 1)


def _joins(before: str, after: str) -> bool:
    return bool(unicodedata.combining(after)) or "\u200d" in (before, after) or "\ufe00" <= after <= "\ufe0f"


def _pack(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """
    Group neighbours without going over budget; give their positions.

    >>> _pack([3, 4, 2, 6], budget=7)
    [[0, 1], [2], [3]]
    """
    groups: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if not groups or size > room:
            groups.append([])
            room = budget
        groups[-1].append(position)
        room -= size
    return groups


def _checked(text: str, groups: list[list[Range]], budget: int, count: Count) -> list[Span]:
    """
    The groups as spans, each counted as it will be used.

    The sum of the parts is nearly always the size of the whole; where it is not, the
    group is halved.
    """
    done: list[Span] = []
    while groups:
        spans = []
        for group in groups:
            start, end = _trim(text, group[0][0], group[-1][1])
            spans.append(Span(start, end, text[start:end]))
        sizes = count([span.text for span in spans])
        halved: list[list[Range]] = []
        for group, span, size in zip(groups, spans, sizes):
            if size <= budget:
                done.append(span)
            elif len(group) > 1:
                halved += [group[: len(group) // 2], group[len(group) // 2 :]]
            else:
                halved += [[half] for half in _halves(text, span.start, span.end, budget)]
        groups = [group for group in halved if text[group[0][0] : group[-1][1]].strip()]
    return sorted(done, key=lambda span: span.start)


def _trim(text: str, start: int, end: int) -> Range:
    """The same range without white space at its ends."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, max(start, end - (len(part) - len(part.rstrip())))
