"""
Where the training text comes from, and how each file becomes rows.

A row is one of six nouns: a Pair of translations, a Sentiment, a Document with its title and summary,
a Chat, Prose, or a Message that is spam or not. Nothing here knows of tokens, prompts or shares of the mix.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcli.tasks.extract import candidates

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "zh": "Chinese"}

# What the first part of a set's name says about the kind of text, for the genre question of `llm label`.
GENRES = {
    "arxiv_titles": "abstract",
    "scitldr": "abstract",
    "techdocs": "help page",
    "techdocs_multi": "help page",
    "gov_posts": "government page",
    "digitalgov": "government page",
    "books_ohenry": "story",
    "newsmtsc": "news",
    "mts_dialog": "conversation",
    "goemotions": "comment",
    "xed_en": "subtitle",
    "tweets": "tweet",
    "products": "product review",
    "films": "film review",
    "editorials": "editorial",
    "restaurants": "restaurant review",
}
TOPICS = {
    "cs": "computing",
    "eess": "engineering",
    "physics": "physics",
    "stat": "statistics",
    "math": "mathematics",
    "q-bio": "biology",
    "q-fin": "economics",
    "econ": "economics",
}

MAX_BODY = 8000  # characters of a document that are kept: two of the trained context
MAX_SENTENCES = 120


@dataclass(frozen=True)
class Pair:
    english: str
    other: str
    language: str


@dataclass(frozen=True)
class Sentiment:
    text: str
    label: str
    emotion: str = ""
    genre: str = ""
    language: str = "en"


@dataclass(frozen=True)
class Document:
    sentences: list[tuple[str, str]]  # (what stands before the sentence, the sentence)
    title: str
    summary: str
    worth: list[float]  # of each sentence, 0 to 1: as a summary, compared with the best of them
    genre: str = ""
    topic: str = ""
    language: str = "en"


@dataclass(frozen=True)
class Chat:
    turns: list[str]


@dataclass(frozen=True)
class Prose:
    text: str
    genre: str = ""


@dataclass(frozen=True)
class Message:
    text: str
    kind: str  # "spam" or "ham"


Row = Pair | Sentiment | Document | Chat | Prose | Message


def half(line: str) -> str:
    """
    The half of a development set that a row belongs to: "a" for decisions, "b" for the published table.

    >>> half("Hello."), half("No.")
    ('b', 'a')
    """
    return "ab"[hashlib.sha256(line.strip().encode()).digest()[0] % 2]


def lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def read(folder: Path) -> Iterator[Row]:
    """The rows of one set, by the reader that its name selects."""
    for path in sorted(folder.glob("*.gz")):
        for line in lines(path):
            yield from parse(folder.name, line)


def parse(name: str, line: str) -> Iterator[Row]:
    """One line of the set `name` as rows: none where the line is of no use, two for both voices of a chat."""
    kind, _, language = name.rpartition("_")
    if language in LANGUAGES and kind in PAIRS:
        yield from parse_pair(line, language)
    elif name in READERS:
        yield from READERS[name](name, line)


PAIRS = {"tatoeba", "pydocs", "bcdocs", "rustbook", "guides", "ui_chat", "tldr"}


def parse_pair(line: str, language: str) -> Iterator[Pair]:
    if line.startswith('{"en":'):  # a development row holds every known translation: the first will do here
        row = json.loads(line)
        line = f"{row['en']}\t{row['refs'][0]}"
    english, other, *_ = line.split("\t")
    if english.strip() and other.strip() and len(english) < 500:
        yield Pair(english.strip(), other.strip(), language)


def parse_sentiment(name: str, line: str) -> Iterator[Sentiment]:
    label, text, *more = line.split("\t")
    if name == "newsmtsc" and more[1] != "same":
        return  # targets disagree: the sentence as a whole has no one label
    emotion = more[0] if name == "goemotions" and "," not in more[0] else ""
    genre = GENRES.get(more[0] if name in ("vader_gt", "uci_sentences") else name, "")
    language = more[0] if name == "xed_multi" else "en"
    yield Sentiment(text.strip(), label, emotion, genre, language)


def parse_document(name: str, line: str) -> Iterator[Row]:
    row = json.loads(line)
    body = (row.get("body") or row.get("document", ""))[:MAX_BODY].strip()
    lead = row.get("description_is_lead") or row.get("summary_is_lead")
    written = row.get("description") or row.get("deck") or row.get("summary") or ""
    summaries = row.get("summaries") or ["" if lead and not row.get("deck") else written]
    title = row.get("title", "").strip()
    sentences = asked_about(body)[:MAX_SENTENCES]
    for summary in summaries[:2]:
        if len(sentences) < 2:
            continue
        # A lead "summary" would teach that main points come first; without one the title must do.
        goal = summary or ("" if lead else title)
        yield Document(
            sentences,
            title,
            summary.strip(),
            worths([s for _, s in sentences], goal),
            GENRES.get(name, ""),
            TOPICS.get(str(row.get("cat", "")).partition(".")[0], ""),
            row.get("lang", "en"),
        )


def parse_chat(name: str, line: str) -> Iterator[Chat]:
    row = json.loads(line)
    if name == "personality_chat":
        yield Chat([row["user"], row["bot"]])
    elif name == "self_instruct_seed":
        request = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        yield Chat([request, row["output"]])
    elif name == "chatterbot":
        for reply in row["turns"][1:3]:
            yield Chat([row["turns"][0], reply])
    else:
        turns = [turn.strip() for turn in row["turns"] if turn.strip()]
        if any("(user" in turn for turn in turns):
            return  # a persona's name left unfilled
        yield Chat(turns)
        if name == "persona_chat":
            yield Chat(turns[1:])


def parse_command(name: str, line: str) -> Iterator[Row]:
    """A page of tldr: each task is a request for a shell command, the page as a whole a text to describe."""
    row = json.loads(line)
    for example in row["examples"][:3]:
        yield Chat([f"What is the shell command for this: {example['task']}", example["cmd"]])


def parse_prose(name: str, line: str) -> Iterator[Prose]:
    paragraphs = json.loads(line)["body"].split("\n")
    chunk = ""
    for paragraph in paragraphs:
        if chunk and len(chunk) + len(paragraph) > 1500:
            yield Prose(chunk, GENRES[name])
            chunk = ""
        chunk = f"{chunk}\n{paragraph}".strip()
    if chunk:
        yield Prose(chunk, GENRES[name])


READERS = {
    "vader_gt": parse_sentiment,
    "goemotions": parse_sentiment,
    "newsmtsc": parse_sentiment,
    "uci_sentences": parse_sentiment,
    "xed_en": parse_sentiment,
    "xed_multi": parse_sentiment,
    "goemotions_test": parse_sentiment,
    "arxiv_titles": parse_document,
    "techdocs": parse_document,
    "techdocs_multi": parse_document,
    "gov_posts": parse_document,
    "digitalgov": parse_document,
    "scitldr": parse_document,
    "scitldr_test": parse_document,
    "mts_dialog": parse_document,
    "persona_chat": parse_chat,
    "taskmaster4": parse_chat,
    "personality_chat": parse_chat,
    "chatterbot": parse_chat,
    "self_instruct_seed": parse_chat,
    "tldr_cli": parse_command,
    "books_ohenry": parse_prose,
}

SENTENCE_END = re.compile(r"(?<=[.!?])[\"”’)]?(\s+)(?=[\"“‘(]?[A-ZÄÖÜÉÈÀ0-9¿¡])|(\n+)")


def split(text: str) -> list[tuple[str, str]]:
    """
    Sentences with what stands between them.

    >>> split("It rains. We stay. Why?")
    [('', 'It rains.'), (' ', 'We stay.'), (' ', 'Why?')]
    """
    parts, start, gap = [], 0, ""
    for match in SENTENCE_END.finditer(text):
        begin, end = match.span(1) if match.group(1) else match.span(2)
        if text[start:begin].strip():
            parts.append((gap, text[start:begin]))
            start, gap = end, "\n" if "\n" in text[begin:end] else " "
    if text[start:].strip():
        parts.append((gap, text[start:].rstrip()))
    return parts


def asked_about(text: str) -> list[tuple[str, str]]:
    """
    The sentences that `llm` asks about, with what stands before each: headings and scraps among it.

    >>> asked_about("# News\\n\\nThe bridge is open. Cars may cross.")
    [('# News\\n\\n', 'The bridge is open.'), (' ', 'Cars may cross.')]
    """
    spans = candidates(text)
    starts = [0, *(span.end for span in spans)]
    return [(text[end : span.start], span.text) for end, span in zip(starts, spans)]


def worths(sentences: list[str], goal: str) -> list[float]:
    """
    How much of `goal` each sentence says, beside the one that says most: ROUGE-1 (Lin 2004), no stemming.

    >>> worths(["Cats sleep a lot.", "Dogs bark.", "Big dogs bark."], "Dogs bark loudly")
    [0.0, 1.0, 0.8333333333333333]
    """
    wanted = words(goal)
    scores = [overlap(words(sentence), wanted) for sentence in sentences]
    best = max(scores, default=0.0)
    return [score / best if best else 0.0 for score in scores]


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def overlap(said: Counter[str], wanted: Counter[str]) -> float:
    """F1 of the words in common."""
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0
