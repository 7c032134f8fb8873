"""
What the model is compared with: methods that need no model, on the same rows.

Naive Bayes over words and word pairs, VADER's lexicon, copying and word-by-word translation, the first
sentences, and LexRank. None of them sees a development row in training.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from sources import Pair, Sentiment, read

SENTIMENT_SETS = ("vader_gt", "goemotions", "newsmtsc", "uci_sentences", "xed_en")

Classify = Callable[[str], str]


def features(text: str) -> list[str]:
    """
    Words and neighbouring pairs of words.

    >>> features("Not good!")
    ['not', 'good', '!', 'not good', 'good !']
    """
    words = re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def naive_bayes(data: Path) -> Classify:
    """Trained on the same English sentiment rows as the model."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    rows: Counter[str] = Counter()
    for name in SENTIMENT_SETS:
        for row in read(data / "train" / name):
            assert isinstance(row, Sentiment)
            counts[row.label].update(set(features(row.text)))
            rows[row.label] += 1
    known = set().union(*counts.values())
    totals = {label: sum(found.values()) + len(known) for label, found in counts.items()}

    def classify(text: str) -> str:
        asked = [feature for feature in set(features(text)) if feature in known]

        def score(label: str) -> float:
            words = sum(math.log((counts[label][feature] + 1) / totals[label]) for feature in asked)
            return math.log(rows[label]) + words

        return max(counts, key=score)

    return classify


def vader() -> Classify:
    """The lexicon and rules of Hutto and Gilbert (2014), with the thresholds that they recommend."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()

    def classify(text: str) -> str:
        score = analyzer.polarity_scores(text)["compound"]
        return "positive" if score >= 0.05 else "negative" if score <= -0.05 else "neutral"

    return classify


def word_by_word(data: Path, language: str, to_english: bool) -> Callable[[str], str]:
    """Each word replaced by the one that goes with it most often in the Tatoeba training pairs (Dice)."""
    here: Counter[str] = Counter()
    there: Counter[str] = Counter()
    both: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read(data / "train" / f"tatoeba_{language}"):
        assert isinstance(row, Pair)
        texts = (row.other, row.english) if to_english else (row.english, row.other)
        source, target = (set(words_of(text)) for text in texts)
        here.update(source)
        there.update(target)
        for word in source:
            both[word].update(target)

    def best(word: str) -> str:
        if word not in both:
            return word
        return max(both[word], key=lambda other: 2 * both[word][other] / (here[word] + there[other]))

    def translate(text: str) -> str:
        joined = "".join(f" {best(word)}" for word in words_of(text))
        return re.sub(r" ([.,!?;:])", r"\1", joined).strip().capitalize()

    return translate


def words_of(text: str) -> list[str]:
    """
    Lower-case words and marks; a Chinese character is a word.

    >>> words_of("Geht es? 好的")
    ['geht', 'es', '?', '好', '的']
    """
    return re.findall(r"[一-鿿]|[^\W一-鿿]+|[^\w\s]", text.lower())


def lead(sentences: list[str], count: int) -> list[str]:
    """The first sentences."""
    return sentences[:count]


def lexrank(sentences: list[str], count: int) -> list[str]:
    """The sentences most like all others (Erkan and Radev 2004), by sumy."""
    from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
    from sumy.summarizers.lex_rank import LexRankSummarizer

    document = ObjectDocumentModel([Paragraph([Sentence(text, _Words()) for text in sentences])])
    return [str(sentence) for sentence in LexRankSummarizer()(document, count)]


class _Words:
    """Stands in for sumy's tokenizer, which would fetch data."""

    def to_words(self, text: str) -> Iterable[str]:
        return re.findall(r"\w+", text.lower())
