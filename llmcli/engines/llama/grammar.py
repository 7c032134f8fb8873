"""
Refuse a GBNF grammar that llama.cpp would not survive.

llama.cpp crashes, hangs or swallows memory on grammars that it should refuse: deep nesting,
`{5,2}`, left recursion behind a rule that may be empty, alternatives that multiply. So a grammar is
parsed and judged here first. It is not translated: what passes goes to llama.cpp as it is.

What no check can find beforehand is ambiguity that grows with the answer, `x ::= "a" x "b" | "a" x "c" | ""`:
such a grammar is slow, and slower with every character.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmcli.engines.llama.gbnf import (
    Characters,
    Choices,
    Group,
    Item,
    Place,
    Reference,
    Repeat,
    Rule,
    items_of,
    parse_gbnf,
    refused,
)
from llmcli.errors import BadConfig

MAX_CHAIN = 200
MAX_RULES = 10_000
MAX_ELEMENTS = 1_000_000
MAX_OPENINGS = 4096
MAX_STEPS = 20_000_000
MAX_PASSES = 100


def check_gbnf(text: str) -> None:
    """
    Refuse a grammar that llama.cpp cannot use, or not safely.

    Raises BadConfig, which names line and column.

    >>> check_gbnf('root ::= "yes" | "no"')
    >>> check_gbnf('root ::= "yes" | no')
    Traceback (most recent call last):
        ...
    llmcli.errors.BadConfig: grammar, line 1:18: rule 'no' is not defined
    """
    rules = parse_gbnf(text)
    if "root" not in rules:
        raise BadConfig("grammar: no rule is called 'root'", hint="the answer is what 'root' describes")
    for rule in rules.values():
        for item in items_of(rule.choices):
            if isinstance(item, Reference) and item.name not in rules:
                raise refused(item.place, f"rule {item.name!r} is not defined")
    _check_size(rules)
    _Openings(rules).check()
    _check_that_rules_end(rules)


def _inline(item: Item) -> int:
    """Elements of an item where it stands."""
    if isinstance(item, Characters):
        return item.elements
    if isinstance(item, Repeat):
        return item.least * _inline(item.item) + min(1, item.optional)
    return 1


def _body(choices: Choices) -> int:
    """Elements of some alternatives as a rule."""
    return sum(1 + sum(map(_inline, sequence)) for sequence in choices)


def _made_up(item: Item) -> tuple[int, int]:
    """Rules, and their elements, that llama.cpp makes up for an item itself."""
    if isinstance(item, Group):
        return 1, _body(item.choices)
    if isinstance(item, Repeat):
        return item.optional, item.optional * (_inline(item.item) + 3)
    return 0, 0


def _check_size(rules: Mapping[str, Rule]) -> None:
    count = elements = 0
    for rule in rules.values():
        count += 1
        elements += _body(rule.choices)
        for item in items_of(rule.choices):
            more_rules, more_elements = _made_up(item)
            count += more_rules
            elements += more_elements
        if count > MAX_RULES:
            raise refused(rule.place, f"the grammar makes more than {MAX_RULES:,} rules", hint=_SMALLER)
        if elements > MAX_ELEMENTS:
            raise refused(rule.place, f"the grammar makes more than {MAX_ELEMENTS:,} elements", hint=_SMALLER)


_SMALLER = "lower the bounds of its repetitions"


@dataclass(frozen=True)
class _Opening:
    """
    What llama.cpp meets when it opens an item.

    `empty`: whether it may be nothing. `ways`: stacks that it opens into. `steps`: elements
    that the search for left recursion visits; it remembers nothing, so they multiply.
    """

    empty: bool
    ways: int
    steps: int


_ONE_CHARACTER = _Opening(False, 1, 0)
_NOTHING = _Opening(True, 1, 0)


class _Openings:
    """The opening of every rule, each computed once; on the way, left recursion is found."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._known: dict[str, _Opening] = {}
        self._open: dict[str, None] = {}

    def check(self) -> None:
        steps = 0
        for rule in self._rules.values():
            opening = self._rule(rule.name, rule.place, 0)
            steps += opening.steps
            if opening.ways > MAX_OPENINGS:
                raise refused(
                    rule.place,
                    f"rule {rule.name!r} can begin in {opening.ways:,} ways, at most {MAX_OPENINGS:,} can be",
                    hint="let alternatives share what they begin with",
                )
        for rule in self._rules.values():
            for item in items_of(rule.choices):
                steps += self._made_up_steps(item, rule.place)
            if steps > MAX_STEPS:
                raise refused(rule.place, "its alternatives multiply beyond what llama.cpp can check")

    def _made_up_steps(self, item: Item, place: Place) -> int:
        """Steps for the rules made up for an item; refuses to repeat what may be empty."""
        if isinstance(item, Repeat):
            inner = self._item(item.item, place, 0)
            if inner.empty and item.most != 1:
                raise refused(
                    item.place,
                    "what is repeated here may be empty",
                    hint="let it have at least one character",
                )
            return item.optional * (inner.steps + _inline(item.item) + 3)
        if isinstance(item, Group):
            return self._item(item, place, 0).steps
        return 0

    def _rule(self, name: str, place: Place, depth: int) -> _Opening:
        if name in self._known:
            return self._known[name]
        if name in self._open:
            path = [*self._open][[*self._open].index(name) :]
            raise refused(
                self._rules[name].place,
                f"left recursion: {' → '.join([*path, name][:8])}",
                hint="a rule must read a character before it comes back to itself",
            )
        self._open[name] = None
        opening = self._choices(self._rules[name].choices, place, depth + 1)
        del self._open[name]
        self._known[name] = opening
        return opening

    def _choices(self, choices: Choices, place: Place, depth: int) -> _Opening:
        if depth > MAX_CHAIN:
            raise refused(place, f"rules that begin with each other, more than {MAX_CHAIN} deep")
        empty, ways, steps = False, 0, _body(choices)
        for sequence in choices:
            for item in sequence:
                opening = self._item(item, place, depth)
                ways += opening.ways
                steps += opening.steps
                if not opening.empty:
                    break
            else:
                empty, ways = True, ways + 1
        return _Opening(empty, ways, steps)

    def _item(self, item: Item, place: Place, depth: int) -> _Opening:
        levels, least = depth, 1
        while isinstance(item, Repeat):
            levels, least, item = levels + 1, min(least, item.least), item.item
        if isinstance(item, Reference):
            inner = self._rule(item.name, item.place, levels)
        elif isinstance(item, Group):
            inner = self._choices(item.choices, place, levels + 1)
        else:
            inner = _ONE_CHARACTER if item.elements else _NOTHING
        if least:
            return inner
        return _Opening(True, inner.ways + 1, inner.steps + levels - depth)


def _check_that_rules_end(rules: Mapping[str, Rule]) -> None:
    """Refuse a rule that no finite text can satisfy: every answer would be cut."""
    ending: set[str] = set()

    def ends(item: Item) -> bool:
        if isinstance(item, Reference):
            return item.name in ending
        if isinstance(item, Repeat):
            return item.least == 0 or ends(item.item)
        return isinstance(item, Characters) or any(all(map(ends, choice)) for choice in item.choices)

    waiting = list(rules.values())
    for _ in range(MAX_PASSES):
        waiting.reverse()  # rules that follow one another, up or down the page, settle in one pass
        left = []
        for rule in waiting:
            if any(all(map(ends, choice)) for choice in rule.choices):
                ending.add(rule.name)
            else:
                left.append(rule)
        if not left:
            return
        if len(left) == len(waiting):
            raise refused(left[0].place, f"rule {left[0].name!r} never comes to an end")
        waiting = left
    raise refused(waiting[0].place, "the rules are too entangled to see whether they end")
