"""
Tokenise the sources once, into one compressed file that any number of epochs can be drawn from.

    python data.py --data FOLDER --tokenizer tokenizer.json --out corpus.npz
    python data.py --data FOLDER --tokenizer tokenizer.json --out dev.npz --dev

The prompts are the built-in templates, rendered by `llmcli` itself. What stands around the text is tokenised
here, apart from it: the tokenizer's pattern never joins a blank line with the word after it, so the parts add
up to the whole (checked below).
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from messages import messages
from mix import CHAT, DOCUMENT, MESSAGE, MOST_COUNTED, PAIR, PROSE, SENTIMENT, WORDS
from sources import LANGUAGES, Chat, Document, Message, Pair, Prose, Row, Sentiment, half, lines, parse
from tokenizers import Tokenizer

from prompts import prompts

MOST_ROWS = {"arxiv_titles": 33_000, "tldr_cli": 6_000}  # more would only make the file larger
COLUMNS = [
    ("kind", "i1"),
    ("set", "i1"),
    ("first", "i4"),
    ("count", "i2"),
    ("label", "i1"),
    ("fine", "i1"),
    ("genre", "i1"),
    ("language", "i1"),
]


def rows(folder: Path, dev: bool) -> Iterator[Row]:
    found = [
        line for path in sorted(folder.glob("*.gz")) for line in lines(path) if not dev or half(line) == "a"
    ]
    random.Random(0).shuffle(found)  # so that a limit takes any, not the first
    parsed = (row for line in found for row in parse(folder.name, line))
    return itertools.islice(parsed, MOST_ROWS.get(folder.name))


def segments(row: Row, tokenizer: Tokenizer) -> list[str]:
    """The texts of a row that are tokenised each by itself."""
    match row:
        case Pair(english, other):
            return [english, other]
        case Sentiment(text) | Message(text):
            return [text]
        case Document(sentences, title, summary):
            return [
                title,
                summary,
                *itertools.chain.from_iterable(pieces(gap, s, tokenizer) for gap, s in sentences),
            ]
        case Chat(turns):
            return turns
        case Prose(text):
            return [text]


def pieces(gap: str, sentence: str, tokenizer: Tokenizer) -> list[str]:
    """A sentence's first word as it stands in the text and by itself, then the rest: both forms are used."""
    _, (_, end) = tokenizer.pre_tokenizer.pre_tokenize_str(sentence[:60])[0]
    return [gap + sentence[:end], sentence[:end], sentence[end:]]


def worth_of_segments(row: Row, count: int) -> np.ndarray:
    """In 255ths: each sentence's where its first segment stands, 0 for every other segment."""
    worth = np.zeros(count, dtype=np.uint8)
    if isinstance(row, Document):
        worth[2::3] = np.round(np.array(row.worth) * 255)
    return worth


def describe(row: Row) -> tuple[int, str, str, str, str]:
    """Kind, then the words that label questions are made of: label, emotion or topic, genre, language."""
    match row:
        case Pair():
            return PAIR, "", "", "", row.language
        case Sentiment():
            return SENTIMENT, row.label, row.emotion, row.genre, row.language
        case Document():
            return DOCUMENT, "", row.topic, row.genre, row.language
        case Chat():
            return CHAT, "", "", "", "en"
        case Prose():
            return PROSE, "", "", row.genre, "en"
        case Message():
            return MESSAGE, row.kind, "", "", "en"


def sets(data: Path, dev: bool) -> dict[str, Iterator[Row]]:
    """The rows of every set, by name; to the folders' come, for training, the messages made here."""
    folders = sorted(path for path in (data / ("dev" if dev else "train")).iterdir() if path.is_dir())
    found = {folder.name: rows(folder, dev) for folder in folders}
    return found if dev else found | {"messages": messages()}


def build(data: Path, tokenizer: Tokenizer, dev: bool) -> dict[str, np.ndarray]:
    word = {name: i for i, name in enumerate(WORDS)}
    tokens: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    table: list[tuple] = []
    worth: list[np.ndarray] = []
    first = 0
    found = sets(data, dev)
    for number, (name, rows_of_set) in enumerate(found.items()):
        texts: list[str] = []
        for row in rows_of_set:
            own = segments(row, tokenizer)
            kind, label, fine, genre, language = describe(row)
            table.append(
                (
                    kind,
                    number,
                    first,
                    len(own),
                    word.get(label, -1),
                    word.get(fine, -1),
                    word.get(genre, -1),
                    word[LANGUAGES[language]],
                )
            )
            worth.append(worth_of_segments(row, len(own)))
            texts += own
            first += len(own)
        for start in range(0, len(texts), 50_000):
            coded = [code.ids for code in tokenizer.encode_batch_fast(texts[start : start + 50_000])]
            sizes.append(np.array([len(ids) for ids in coded], dtype=np.int64))
            tokens.append(np.fromiter(itertools.chain.from_iterable(coded), dtype=np.uint16))
        print(f"{name:20} {len(table):9,} rows so far, {sum(map(len, tokens)):12,} tokens", flush=True)
    return {
        "tokens": np.concatenate(tokens),
        "starts": np.concatenate([[0], np.cumsum(np.concatenate(sizes))]),
        "rows": np.array(table, dtype=COLUMNS),
        "worth": np.concatenate(worth),
        "meta": np.array(json.dumps(describe_vocabulary(list(found), tokenizer))),
    }


def describe_vocabulary(sets: list[str], tokenizer: Tokenizer) -> dict[str, object]:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text).ids

    parts = {name: encode(text) for name, text in prompts().items()}
    for name, text in prompts().items():
        joined = f"Wort.{text}" if text.startswith(("\n", " ")) else f"{text}Wort."
        assert sorted(encode(joined)) == sorted(parts[name] + encode("Wort.")), (
            f"prompt {name!r} does not split"
        )
    return {
        "sets": sets,
        "prompts": parts,
        "bare": {word: encode(word) for word in WORDS},
        "spaced": {word: encode(f" {word}") for word in WORDS},
        "marks": {mark: encode(mark)[0] for mark in ",.?\n"},
        "numbers": [encode(f" {number}") for number in range(MOST_COUNTED)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--dev", action="store_true", help="half a of the development sets, for the log of a run"
    )
    options = parser.parse_args()
    np.savez_compressed(
        options.out, **build(options.data, Tokenizer.from_file(str(options.tokenizer)), options.dev)
    )
