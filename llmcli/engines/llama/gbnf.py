"""
The rules of a GBNF grammar: text in, rules out, with the place of every error.

The syntax is llama.cpp's (llama-grammar.cpp of llama-cpp-python 0.3.36), parsed in bounded time. Narrower
on purpose: `<token>` literals, rules defined twice, ranges that are the wrong way round and bounds above
2000 (which llama.cpp takes for "no bound") are refused. Whether llama.cpp survives the rules is
for grammar.py to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmcli.errors import BadConfig

MAX_BYTES = 256 * 1024
MAX_REPEATS = 2000  # llama-grammar.cpp: MAX_REPETITION_THRESHOLD
MAX_NESTING = 64
MAX_IN_A_ROW = 4


@dataclass(frozen=True)
class Place:
    """Where something stands in the text, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Characters:
    """A literal, a class or `.`; `elements` is its length in llama.cpp's tables, 0 for `""`."""

    elements: int


@dataclass(frozen=True)
class Reference:
    """Another rule's name."""

    name: str
    place: Place


@dataclass(frozen=True)
class Group:
    """Alternatives in parentheses."""

    choices: Choices


@dataclass(frozen=True)
class Repeat:
    """An item at least and at most so many times; None is "no bound"."""

    item: Item
    least: int
    most: int | None
    place: Place

    @property
    def optional(self) -> int:
        """How many rules llama.cpp makes up for what may be left out."""
        return 1 if self.most is None else self.most - self.least


Item = Characters | Reference | Group | Repeat
Choices = tuple[tuple[Item, ...], ...]


@dataclass(frozen=True)
class Rule:
    """A named rule."""

    name: str
    choices: Choices
    place: Place


def items_of(choices: Choices) -> Iterator[Item]:
    """Every item of some alternatives, those inside groups and repetitions too."""
    for sequence in choices:
        for item in sequence:
            yield item
            while isinstance(item, Repeat):
                item = item.item
                yield item
            if isinstance(item, Group):
                yield from items_of(item.choices)


def parse_gbnf(text: str) -> dict[str, Rule]:
    """
    The rules of a grammar, by name.

    Raises BadConfig for a syntax error, a rule defined twice, and nesting, repetition or a
    text beyond the limits.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise refused(_place(text, error.start), "half a surrogate pair is no character") from None
    if size > MAX_BYTES:
        raise BadConfig(f"grammar: {size:,} bytes, at most {MAX_BYTES:,} are read")
    return _Parser(text).rules()


def refused(place: Place, message: str, hint: str = "") -> BadConfig:
    """The error for something in a grammar."""
    return BadConfig(f"grammar, line {place.line}:{place.column}: {message}", hint)


def _place(text: str, offset: int) -> Place:
    before = re.split(r"\r\n|\r|\n", text[:offset])
    return Place(len(before), len(before[-1]) + 1)


_ESCAPE = r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]-])'
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)+")
_TOKEN = re.compile(r"(?P<newline>\r\n|\r|\n)|(?P<name>[A-Za-z0-9-]+)|(?P<define>::=)|(?P<mark>[()|.*+?{},])")
_LITERAL_CHARACTER = re.compile(rf'{_ESCAPE}|[^"\\]')
_CLASS_PART = re.compile(rf"({_ESCAPE}|[^\\\]])(?:-(?!\])({_ESCAPE}|[^\\]))?", re.DOTALL)
_BOUND = re.compile(r"[0-9]{1,9}\Z")
_QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True)
class _Token:
    kind: str  # newline, name, define, mark, characters, end
    text: str
    place: Place
    elements: int = 0


class _Parser:
    """Recursive descent; newlines end a rule except in parentheses, after `::=` and after `|`."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._token = next(self._tokens)
        self._names: set[str] = set()
        self._made_up = 0

    def rules(self) -> dict[str, Rule]:
        found: dict[str, Rule] = {}
        self._skip_newlines()
        while self._token.kind != "end":
            name = self._take("name", "a rule's name")
            self._names.add(name.text)
            self._take("define", "'::='")
            self._skip_newlines()
            rule = Rule(name.text, self._choices(0), name.place)
            if self._token.kind not in ("newline", "end"):
                raise self._unexpected("a new line, or the end")
            self._skip_newlines()
            if rule.name in found:
                first = found[rule.name].place.line
                raise refused(rule.place, f"rule {rule.name!r} is defined in line {first} already")
            found[rule.name] = rule
        return found

    def _advance(self) -> _Token:
        token = self._token
        if token.kind != "end":
            self._token = next(self._tokens)
        return token

    def _take(self, kind: str, wanted: str, text: str | None = None) -> _Token:
        if self._token.kind != kind or (text is not None and self._token.text != text):
            raise self._unexpected(wanted)
        return self._advance()

    def _unexpected(self, wanted: str) -> BadConfig:
        shown = {"end": "the end", "newline": "a new line"}.get(self._token.kind, repr(self._token.text))
        return refused(self._token.place, f"expected {wanted}, found {shown}")

    def _sees(self, mark: str) -> bool:
        return self._token.kind == "mark" and self._token.text == mark

    def _skip_newlines(self) -> None:
        while self._token.kind == "newline":
            self._advance()

    def _choices(self, depth: int) -> Choices:
        choices = [self._sequence(depth)]
        while self._sees("|"):
            self._advance()
            self._skip_newlines()
            choices.append(self._sequence(depth))
        return tuple(choices)

    def _sequence(self, depth: int) -> tuple[Item, ...]:
        items: list[Item] = []
        weight = 1  # how many rules llama.cpp says the last item stands for
        while True:
            if depth:
                self._skip_newlines()
            token = self._token
            if token.kind == "characters":
                items.append(Characters(self._advance().elements))
                weight = 1
            elif token.kind == "name":
                self._names.add(token.text)
                items.append(Reference(token.text, self._advance().place))
                weight = 1
            elif self._sees("."):
                self._advance()
                items.append(Characters(1))
                weight = 1
            elif self._sees("("):
                known = self._symbols
                items.append(self._group(depth + 1))
                weight = self._symbols - known
            elif token.kind == "mark" and token.text in "*+?{":
                items[-1:], weight = self._repeated(items[-1:], weight, depth)
            else:
                return tuple(items)

    @property
    def _symbols(self) -> int:
        return len(self._names) + self._made_up

    def _group(self, depth: int) -> Item:
        opening = self._advance()
        if depth > MAX_NESTING:
            raise refused(opening.place, f"parentheses nested more than {MAX_NESTING} deep")
        self._made_up += 1
        self._skip_newlines()
        group = Group(self._choices(depth))
        self._take("mark", "')'", ")")
        return group

    def _repeated(self, last: list[Item], weight: int, depth: int) -> tuple[list[Item], int]:
        place = self._token.place
        mark = self._advance().text
        least, most = _QUANTIFIERS[mark] if mark in _QUANTIFIERS else self._bounds(depth)
        if not last or _is_nothing(last[0]):
            raise refused(place, f"nothing stands before {mark!r} that could be repeated")
        if _repeats(last[0]) >= MAX_IN_A_ROW:
            raise refused(place, f"more than {MAX_IN_A_ROW} repetitions in a row")
        weight *= most or least or 1
        if weight > MAX_REPEATS:
            raise refused(
                place,
                f"a repetition of {weight:,} rules, at most {MAX_REPEATS:,} are possible",
                hint="give what is repeated a name of its own, or lower the bound",
            )
        repeat = Repeat(last[0], least, most, place)
        self._made_up += repeat.optional
        return [repeat], weight

    def _bounds(self, depth: int) -> tuple[int, int | None]:
        place = self._token.place
        least = self._bound(depth)
        most: int | None = least
        if self._sees(","):
            self._advance()
            self._skip_if(depth)
            most = None if self._sees("}") else self._bound(depth)
        self._take("mark", "'}'", "}")
        if most is not None and most < least:
            raise refused(place, f"at least {least} and at most {most} times is impossible")
        return least, most

    def _bound(self, depth: int) -> int:
        self._skip_if(depth)
        token = self._take("name", "a number")
        if not token.text.isdecimal():
            raise refused(token.place, f"expected a number, found {token.text!r}")
        if not _BOUND.match(token.text) or int(token.text) > MAX_REPEATS:
            raise refused(
                token.place, f"repeated {token.text[:20]} times, at most {MAX_REPEATS} are possible"
            )
        self._skip_if(depth)
        return int(token.text)

    def _skip_if(self, depth: int) -> None:
        if depth:
            self._skip_newlines()


def _is_nothing(item: Item) -> bool:
    if isinstance(item, Repeat):
        return item.most == 0
    return isinstance(item, Characters) and item.elements == 0


def _repeats(item: Item) -> int:
    return 1 + _repeats(item.item) if isinstance(item, Repeat) else 0


def _tokens(text: str) -> Iterator[_Token]:
    position, line, line_start = 0, 1, 0
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        place = Place(line, position - line_start + 1)
        if position == len(text):
            yield _Token("end", "", place)
            return
        start = position
        if text[position] in '"[':
            reader = _literal if text[position] == '"' else _class
            position, elements = reader(text, position, place)
            yield _Token("characters", text[start:position], place, elements)
            for newline in re.finditer(r"\r\n|\r|\n", text[start:position]):
                line, line_start = line + 1, start + newline.end()
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unknown(text[position], place)
        position = match.end()
        yield _Token(str(match.lastgroup), match.group(), place)
        if match.lastgroup == "newline":
            line, line_start = line + 1, position


def _unknown(character: str, place: Place) -> BadConfig:
    if character in "<!":
        return refused(place, "token literals are not supported", hint="write the text in quotation marks")
    if character == "\0":
        return refused(place, "a grammar cannot hold the character 0")
    hint = "names are of A-Z, a-z, 0-9 and -" if character == "_" else ""
    return refused(place, f"unexpected {character!r}", hint)


def _literal(text: str, start: int, place: Place) -> tuple[int, int]:
    """Where a literal ends, and its length in characters."""
    position, count = start + 1, 0
    while text[position : position + 1] != '"':
        match = _LITERAL_CHARACTER.match(text, position)
        if match is None:
            raise _bad_character(text, position, place, "literal")
        _code(match.group(), text, position, zero=False)
        position, count = match.end(), count + 1
    return position + 1, count


def _class(text: str, start: int, place: Place) -> tuple[int, int]:
    """Where a character class ends, and its elements: one a character, two a range."""
    position, count = start + 1, 0
    if text[position : position + 1] == "^":
        position += 1
    while text[position : position + 1] != "]":
        match = _CLASS_PART.match(text, position)
        if match is None:
            raise _bad_character(text, position, place, "character class")
        first = _code(match.group(1), text, position)
        if match.group(2) is not None and _code(match.group(2), text, match.start(2)) < first:
            raise refused(_place(text, position), f"the range {match.group()} is the wrong way round")
        position, count = match.end(), count + (1 if match.group(2) is None else 2)
    if not count:
        raise refused(place, "the character class is empty")
    return position + 1, count


def _bad_character(text: str, position: int, place: Place, kind: str) -> BadConfig:
    if position < len(text) and position + 1 < len(text):
        return refused(_place(text, position), f"unknown escape {text[position : position + 2]!r}")
    return refused(place, f"the {kind} that begins here does not end")


_LETTERS = {"t": "\t", "r": "\r", "n": "\n"}


def _code(written: str, text: str, position: int, zero: bool = True) -> int:
    """The code point of a character as written; `zero` says whether 0 may stand here."""
    if len(written) == 1:
        code = ord(written)
    elif written[1] in "xuU":
        code = int(written[2:], 16)
    else:
        code = ord(_LETTERS.get(written[1], written[1]))
    if code > 0x10FFFF or written == "\0":
        raise refused(_place(text, position), f"{written!r} is no character")
    if not code and not zero:
        raise refused(_place(text, position), "the character 0 can never be written")
    return code
