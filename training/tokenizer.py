"""
Train the tokenizer: byte-level BPE on GPT-2's pattern, which llama.cpp reads as it is.

    python tokenizer.py --data FOLDER --out tokenizer.json

The words that answer a label question are made tokens of their own, so that a label costs one step.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from gguf import GGUFReader
from sources import Chat, Document, Pair, Prose, Row, Sentiment, read
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, USER, ASSISTANT, SYSTEM = CONTROL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
VOCABULARY = 8192
# The letters that bytes of European texts are shown as: a piece without any of them is (part of) Chinese.
LATIN = {chr(c) for c in range(0x21, 0x7F)} | {"Ġ", "Ċ", "Ã", "Â", "Å", "â", "Ä", "Î", "Ð", "Ñ"}
LABELS = ["positive", "neutral", "negative", "yes", "no", "question", "statement", "spam", "ham"]
LABELS += ["English", "German", "French", "Spanish", "Chinese"]

# Rows of each set that the merges are counted on. The everyday sentences come whole and the technical
# sets in part: their vocabulary is narrow and would take the room of common words.
ROWS = {
    "tatoeba_zh": 100_000,
    "tatoeba_de": 100_000,
    "tatoeba_fr": 80_000,
    "tatoeba_es": 80_000,
    "arxiv_titles": 5_000,
    "pydocs_zh": 12_000,
}
OTHER_ROWS = 6_000
WHOLE = {"vader_gt", "goemotions", "newsmtsc", "uci_sentences", "xed_en", "persona_chat"}


def texts(row: Row) -> list[str]:
    match row:
        case Pair(english, other):
            return [english, other]
        case Sentiment(text):
            return [text]
        case Document(sentences, title, summary):
            return [" ".join(sentence for _, sentence in sentences), title, summary]
        case Chat(turns):
            return turns
        case Prose(text):
            return [text]


def sample(data: Path) -> Iterator[str]:
    chance = random.Random(0)
    for folder in sorted((data / "train").iterdir()):
        rows = list(read(folder))
        most = len(rows) if folder.name in WHOLE else ROWS.get(folder.name, OTHER_ROWS)
        for row in chance.sample(rows, min(most, len(rows))):
            yield from texts(row) * (2 if folder.name == "tatoeba_zh" else 1)
    for label in LABELS:
        yield from [label, f"a {label}"] * 2000


def of_gguf(path: Path) -> Tokenizer:
    """The tokenizer that stands in an exported model."""
    fields = GGUFReader(str(path)).fields
    words, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    return assemble(words, [tuple(merge.split(" ")) for merge in merges])


def assemble(words: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def extend(old: Tokenizer, fresh: Tokenizer) -> Tokenizer:
    """
    The old tokenizer with its rarest pieces given up for the Chinese ones that a fresh one has.

    A model that knows the old pieces keeps nearly all it knows: texts in other languages come out the same,
    but for words that were a piece of their own only just.
    """
    words, merges = (json.loads(old.to_str())["model"][part] for part in ("vocab", "merges"))
    added = [(a, b) for a, b in json.loads(fresh.to_str())["model"]["merges"] if not set(a + b) & LATIN]
    alphabet = sorted(words, key=words.__getitem__)[: len(words) - len(merges)]
    kept: list[tuple[str, str]] = []
    made = {*alphabet, *(a + b for a, b in added)}
    for a, b in merges:  # the commonest first
        if len(kept) < len(merges) - len(added) and set(a + b) & LATIN and {a, b} <= made:
            kept.append((a, b))
            made.add(a + b)
    return assemble([*alphabet, *(a + b for a, b in (*kept, *added))], [*kept, *added])


def with_labels(old: Tokenizer) -> Tokenizer:
    """The old tokenizer with each of LABELS as one piece, in the place of its rarest pieces."""
    state = json.loads(old.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].__getitem__)
    merges = [tuple(merge) for merge in state["merges"]]
    added: list[tuple[str, str]] = []
    for label in LABELS:
        so_far = assemble([*words, *(a + b for a, b in added)], [*merges, *added])
        first, *rest = (piece.value for piece in so_far.model.tokenize(label))
        for piece in rest:
            added.append((first, piece))
            first += piece
    needed = {part for merge in (*merges, *added) for part in merge}
    # The commonest merges come first, and behind them the Chinese ones.
    latin = [(a, b) for a, b in merges if set(a + b) & LATIN and a + b not in needed]
    rare = latin[len(latin) - len(added) :]
    for (a, b), (c, d) in zip(rare, added, strict=True):
        words[words.index(a + b)] = c + d
    return assemble(words, [merge for merge in merges if merge not in rare] + added)


def train(data: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sample(data),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=CONTROL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=24,
            show_progress=False,
        ),
    )
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="what to count; without it, --keep's pieces and the labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="an exported model whose pieces are kept, Chinese added")
    options = parser.parse_args()
    made = of_gguf(options.keep) if options.keep else train(options.data)
    if options.keep and options.data:
        made = extend(made, train(options.data))
    with_labels(made).save(str(options.out))
