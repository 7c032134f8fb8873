"""
Train the tokenizer: byte-level BPE on GPT-2's pattern, which llama.cpp reads as it is.

    python tokenizer.py --data FOLDER --out tokenizer.json

The words that answer a label question are made tokens of their own, with and without a space before them,
so that a label costs one step.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from sources import Chat, Document, Pair, Prose, Row, Sentiment, read
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, USER, ASSISTANT, SYSTEM = CONTROL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
VOCABULARY = 8192
LABELS = ["positive", "neutral", "negative", "yes", "no", "question", "statement"]
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    train(options.data).save(str(options.out))
