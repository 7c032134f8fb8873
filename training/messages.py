"""
Spam and ordinary messages, made from patterns written for this purpose: none of the licensed sets holds spam.

A pattern, a line of patterns/spam.txt or ham.txt, is text with choices, {one|another}, which may be
nested, and <slots> that words.txt fills. What comes out is then roughened as people write (capitals,
missing marks, "u" for "you"), both kinds alike, so that carelessness is no sign of either. Other ordinary
messages are drawn from the other sets when a batch is made (mix.py).

    python messages.py | shuf -n 20          # look at some
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from sources import Message

COUNT = 6_000  # of each kind


def read_patterns(name: str) -> list[str]:
    return (Path(__file__).parent / "patterns" / f"{name}.txt").read_text(encoding="utf-8").splitlines()


WORDS = dict(line.split(": ", 1) for line in read_patterns("words"))

SHORTER = {
    "you": "u", "your": "ur", "are": "r", "to": "2", "for": "4", "text": "txt", "please": "pls", "be": "b",
    "see": "c", "and": "n", "message": "msg", "because": "coz", "tomorrow": "tmr", "why": "y", "great": "gr8",
}  # fmt: skip
CHOICE = re.compile(r"\{([^{}]*)\}")
SLOT = re.compile(r"<(\w+)>")


def expand(pattern: str, chance: random.Random) -> str:
    """
    One text of a pattern.

    >>> expand("{Hi|Hi} {{a|a} b|a b}", random.Random(0))
    'Hi a b'
    """
    while True:
        # Choices first, from the inside: a slot in a choice that is not taken is never filled.
        text, found = CHOICE.subn(lambda m: chance.choice(m.group(1).split("|")), pattern)
        if not found:
            text, found = SLOT.subn(lambda m: "{" + WORDS[m.group(1)] + "}", text)
        if not found:
            text = re.sub(r" +([.,?!])", r"\1", " ".join(text.split()))
            return text.replace("?.", "?").replace("..", ".")
        pattern = text


def roughen(text: str, chance: random.Random) -> str:
    """As people type: now and then all small, in capitals, without marks, with short forms."""
    if chance.random() < 0.12:
        text = re.sub(
            r"[a-z]+",
            lambda m: SHORTER.get(m.group(), m.group()) if chance.random() < 0.7 else m.group(),
            text,
        )
    manner = chance.random()
    if manner < 0.12:
        text = text.lower()
    elif manner < 0.17:
        text = text.upper()
    elif manner < 0.25:
        text = re.sub(r"(?<!\d)[.,!'](?!\d)(?=\s|$)", "", text)
    if chance.random() < 0.06:  # its beginning alone
        parts = re.split(r"(?<=[.!?]) ", text)
        text = " ".join(parts[: len(parts) // 2 + 1])
    return text.rstrip()


def messages(seed: int = 0) -> Iterator[Message]:
    """COUNT texts of each kind, all different; the same for the same seed."""
    chance = random.Random(seed)
    for kind in ("spam", "ham"):
        choices = read_patterns(kind)
        seen: set[str] = set()
        while len(seen) < COUNT:
            text = roughen(expand(chance.choice(choices), chance), chance)
            if text not in seen:
                seen.add(text)
                yield Message(text, kind)


if __name__ == "__main__":
    for message in messages():
        print(f"{message.kind}\t{message.text}")
