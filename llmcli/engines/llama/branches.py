"""
The labels of a request as token ids, and the branches at the end of its prompt that they need.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

Rests = tuple[tuple[int, ...], ...]
"""The tokens of each label, behind those that all of them share with the prompt."""


class Path(NamedTuple):
    """Tokens to evaluate after a prompt, and the numbers of the labels that are read off them."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


@lru_cache(maxsize=64)
def paths(rests: Rests) -> tuple[Path, ...]:
    """
    The branches that labels need, the longest first: a label along another's tokens is read off its branch.

    A label's last token is only looked up, in the logits of the one before it, so it stands in no branch.

    >>> paths(((1, 2), (3, 4), (3, 5, 6), (7,)))
    (Path(tokens=(3, 5), labels=(2, 1)), Path(tokens=(1,), labels=(0,)))
    """
    found: list[Path] = []
    for label in sorted(range(len(rests)), key=lambda label: -len(rests[label])):
        tokens = rests[label][:-1]
        for number, path in enumerate(found):
            if path.tokens[: len(tokens)] == tokens and tokens:
                found[number] = Path(path.tokens, (*path.labels, label))
                break
        else:
            if tokens:
                found.append(Path(tokens, (label,)))
    return tuple(found)
