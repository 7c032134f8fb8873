"""
From the corpus to training batches: which rows, in which prompt, with which share.

A sequence is a trunk and its branches: the instruction once and many rows after it, or a document once and
all that is asked about it. Branches see the trunk and not each other, which is how `llm` itself runs a shared
prefix, and it saves the third of the tokens that repeated instructions would take.

Step n is a function of (corpus, seed, n) alone, so a run resumes exactly from the number of its last step.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sources import GENRES, LANGUAGES, MAX_SENTENCES, TOPICS

PAIR, SENTIMENT, DOCUMENT, CHAT, PROSE, MESSAGE = range(6)
END, USER, ASSISTANT = 0, 1, 2  # the tokenizer's control tokens

# The share of all tokens that each task gets.
SHARES = {"sentiment": 0.18, "translate": 0.49, "label": 0.07, "document": 0.23, "chat": 0.02, "prose": 0.01}

# How often a row comes from a set, within its task.
DRAWS = {
    "vader_gt": 0.30,
    "goemotions": 0.34,
    "newsmtsc": 0.06,
    "uci_sentences": 0.07,
    "xed_en": 0.13,
    "xed_multi": 0.10,
    "arxiv_titles": 0.15,
    "scitldr": 0.15,
    "techdocs": 0.10,
    "techdocs_multi": 0.04,
    "digitalgov": 0.40,
    "gov_posts": 0.10,
    "mts_dialog": 0.04,
    "persona_chat": 0.50,
    "personality_chat": 0.20,
    "chatterbot": 0.15,
    "taskmaster4": 0.08,
    "self_instruct_seed": 0.03,
    "tldr_cli": 0.04,
}
LANGUAGE_DRAWS = {"German": 0.42, "French": 0.23, "Spanish": 0.23, "Chinese": 0.12}
TATOEBA = 0.72  # of the translation rows: the everyday sentences
TO_ENGLISH = 0.45  # the other way is the harder: more forms to get right

# What a wrong guess costs. A label is one token among thirty, so it must weigh more than a word;
# of the prompts' own words only a quarter is asked for, which saves most of the vocabulary's logits.
ANSWER_WEIGHT, LABEL_WEIGHT, TEXT_WEIGHT, TEXT_CHANCE = 1.0, 8.0, 0.5, 0.25

PASS = 300  # what a micro-batch costs beside its own tokens, in tokens: its pass over the weights

LENGTH = {"sentiment": 256, "translate": 256, "label": 192, "chat": 256, "prose": 384}
LATER_PART, DIGEST = 0.25, 0.25  # of the long documents
DIGEST_SIZES = (5, 33)  # sentences
LONG = 20  # sentences
MOST_COUNTED = 160  # sentences of a text
MOST_ASKED = 12
DOCUMENT_LENGTHS = (256, 384, 512, 900, 900)
UNSUMMARISED = 0.25  # of the documents drawn that only a title can be asked of
DOCUMENT_SEQUENCE = 1536  # each of its branches ends within the trained context

# Other names for positive, neutral, negative, so that `llm label` learns to read its labels.
SENTIMENT_WORDS = [
    ("positive", "neutral", "negative"),
    ("good", "neutral", "bad"),
    ("happy", "neutral", "unhappy"),
    ("praise", "neither", "complaint"),
    ("favourable", "mixed", "unfavourable"),
    ("like", "neutral", "dislike"),
    ("good", "other", "bad"),
    ("Positive", "Neutral", "Negative"),
    ("pleased", "indifferent", "angry"),
]
MESSAGE_WORDS = [
    ("spam", "ham"),
    ("spam", "not spam"),
    ("spam", "other"),
    ("Spam", "Ham"),
    ("spam", "normal"),
    ("junk", "fine"),
]
MESSAGE_SHARES = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05]
MADE = 0.6  # of the messages that are no spam: the made ones; the others are texts of other people's sets
HAM_SETS = ["goemotions", "xed_en", "vader_gt", "persona_chat", "tatoeba_de"]
FORMS = [("question", "statement"), ("question", "answer"), ("Question", "Statement"), ("asks", "tells")]
EMOTION_WORDS = """
admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval
disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization
relief remorse sadness surprise
"""
EMOTIONS = EMOTION_WORDS.split()
WORDS = sorted(
    {
        "yes",
        "no",
        *EMOTIONS,
        *GENRES.values(),
        *TOPICS.values(),
        *LANGUAGES.values(),
        *(word for words in (*SENTIMENT_WORDS, *FORMS, *MESSAGE_WORDS) for word in words),
    }
)

Tokens = list[int]


@dataclass(frozen=True)
class Sequence:
    task: str
    tokens: np.ndarray
    branch: np.ndarray  # 0 in the trunk, then 1, 2, …
    position: np.ndarray  # each branch counts on from the trunk's end
    weight: np.ndarray  # what guessing the NEXT token is worth
    label: np.ndarray  # is the next token the first of a label?
    share: np.ndarray  # how likely the next token ought to be; for the rest stands `other`
    other: np.ndarray


class Corpus:
    """The tokenised rows that data.py wrote, and where to find the ones with a given property."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.tokens, self.starts, self.rows, self.worth = (
                file[k] for k in ("tokens", "starts", "rows", "worth")
            )
            meta = json.loads(str(file["meta"]))
        self.sets: list[str] = meta["sets"]
        self.prompts: dict[str, Tokens] = meta["prompts"]
        self.bare: dict[str, Tokens] = meta["bare"]  # a label as the answer
        self.spaced: dict[str, Tokens] = meta["spaced"]  # a label in a list, after its space
        self.marks: dict[str, int] = meta["marks"]
        self.numbers: list[Tokens] = meta["numbers"]
        self.by_set = {name: np.flatnonzero(self.rows["set"] == i) for i, name in enumerate(self.sets)}
        self.by_word: dict[tuple[str, str], np.ndarray] = {}
        for column in ("label", "fine", "genre", "language"):
            for i, word in enumerate(WORDS):
                found = np.flatnonzero(self.rows[column] == i)
                if len(found):
                    self.by_word[column, word] = found
        self.draws = {kind: self._draws(kind) for kind in (SENTIMENT, DOCUMENT, CHAT, PROSE)}
        self.pair_draws = {language: self._pair_draws(language) for language in LANGUAGE_DRAWS}

    def segment(self, row: int, number: int) -> Tokens:
        at = self.rows["first"][row] + number
        return self.tokens[self.starts[at] : self.starts[at + 1]].tolist()

    def segments(self, row: int) -> list[Tokens]:
        return [self.segment(row, i) for i in range(self.rows["count"][row])]

    def worths(self, row: int) -> np.ndarray:
        """Of a document's sentences, 0 to 1; all 0 where nobody wrote a summary."""
        first = self.rows["first"][row]
        return self.worth[first + 2 : first + self.rows["count"][row] : 3] / 255

    def word(self, row: int, column: str) -> str:
        return WORDS[self.rows[column][row]]

    def _draws(self, kind: int) -> tuple[list[str], np.ndarray]:
        names = [name for name in self.sets if self._kind(name) == kind]
        sizes = np.array([DRAWS.get(name, 0.1) for name in names])
        return names, sizes / sizes.sum() if names else sizes

    def _pair_draws(self, language: str) -> tuple[list[str], np.ndarray]:
        code = next(code for code, name in LANGUAGES.items() if name == language)
        names = [name for name in self.sets if self._kind(name) == PAIR and name.endswith(f"_{code}")]
        sizes = np.array([0.0 if "tatoeba" in name else len(self.by_set[name]) ** 0.5 for name in names])
        sizes *= (1 - TATOEBA) / max(sizes.sum(), 1e-9)
        return names, sizes + (np.array(["tatoeba" in name for name in names]) * (1 - sizes.sum()))

    def _kind(self, name: str) -> int:
        rows = self.by_set[name]
        return int(self.rows["kind"][rows[0]]) if len(rows) else -1

    def draw(self, chance: np.random.Generator, names: list[str], shares: np.ndarray) -> int:
        rows = self.by_set[names[chance.choice(len(names), p=shares)]]
        return int(rows[chance.integers(len(rows))])


class Weaver:
    """Lays one sequence: a trunk, then branches until the length is used up."""

    def __init__(self, task: str, chance: np.random.Generator) -> None:
        self.task, self.chance = task, chance
        self.tokens: Tokens = []
        self.branch: list[int] = []
        self.position: list[int] = []
        self.worth: list[float] = []
        self.label: list[bool] = []
        self.shares: dict[int, tuple[float, int]] = {}  # by the place of a token that another may stand for
        self.trunk = self.branches = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def lay_trunk(self, *parts: tuple[Tokens, float]) -> None:
        self._lay(parts, 0, 0)
        self.trunk = len(self.tokens)

    def lay_branch(self, *parts: tuple[Tokens, float]) -> None:
        self.branches += 1
        self._lay(parts, self.branches, self.trunk)

    def lay_question(self, question: tuple[Tokens, float], answer: int, share: float, other: int) -> None:
        """A branch whose answer is one of two labels: `answer` with the chance `share`, else `other`."""
        self.lay_branch(question, *reply([answer], LABEL_WEIGHT))
        self.shares[len(self) - 2] = share, other  # the last token is the turn's end

    def _lay(self, parts: tuple[tuple[Tokens, float], ...], branch: int, start: int) -> None:
        for tokens, worth in parts:
            self.tokens += tokens
            self.branch += [branch] * len(tokens)
            self.worth += [worth] * len(tokens)
            self.label += [worth == LABEL_WEIGHT] * min(len(tokens), 1) + [False] * (len(tokens) - 1)
            self.position += range(start, start + len(tokens))
            start += len(tokens)

    def sequence(self, length: int) -> Sequence:
        tokens, branch, position = (np.array(x[:length]) for x in (self.tokens, self.branch, self.position))
        worth = np.array(self.worth[:length], dtype=np.float32)
        skipped = (worth == TEXT_WEIGHT) & (self.chance.random(len(worth)) >= TEXT_CHANCE)
        worth[skipped] = 0
        weight, label = np.zeros_like(worth), np.zeros(len(worth), dtype=bool)
        weight[:-1] = worth[1:] * (branch[1:] == branch[:-1])
        label[:-1] = np.array(self.label[:length])[1:] & (weight[:-1] > 0)
        share, other = np.ones_like(worth), np.zeros_like(tokens)
        for place, (chance, token) in self.shares.items():
            if place < length:
                share[place - 1], other[place - 1] = chance, token
        return Sequence(self.task, tokens, branch, position, weight, label, share, other)


def reply(answer: Tokens, worth: float = ANSWER_WEIGHT) -> tuple[tuple[Tokens, float], ...]:
    """The end of the user's turn and the whole of the assistant's."""
    end = ANSWER_WEIGHT if worth == ANSWER_WEIGHT else TEXT_WEIGHT
    return ([END, ASSISTANT], 0.0), (answer, worth), ([END], end)


def sentiment(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    weaver, length = Weaver("sentiment", chance), LENGTH["sentiment"]
    weaver.lay_trunk(([USER, *corpus.prompts["sentiment"]], 0.0))
    while True:
        row = corpus.draw(chance, *corpus.draws[SENTIMENT])
        text = corpus.segment(row, 0)[:150]
        if len(weaver) + len(text) + 4 > length:
            return weaver.sequence(length)
        weaver.lay_branch((text, TEXT_WEIGHT), *reply(corpus.bare[corpus.word(row, "label")], LABEL_WEIGHT))


def translate(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    weaver, length = Weaver("translate", chance), LENGTH["translate"]
    other = str(chance.choice(list(LANGUAGE_DRAWS), p=list(LANGUAGE_DRAWS.values())))
    to_english = bool(chance.random() < TO_ENGLISH)
    source, goal = (other, "English") if to_english else ("English", other)
    named = f"translate {goal} from {source}"
    said = chance.random() < 0.15 and named in corpus.prompts
    weaver.lay_trunk(([USER, *corpus.prompts[named if said else f"translate {goal}"]], 0.0))
    while True:
        # Into English any language may come, where the prompt does not say which.
        any_language = to_english and not said
        language = (
            str(chance.choice(list(LANGUAGE_DRAWS), p=list(LANGUAGE_DRAWS.values())))
            if any_language
            else other
        )
        row = corpus.draw(chance, *corpus.pair_draws[language])
        text, target = corpus.segments(row)[:: -1 if to_english else 1]
        if len(text) + len(target) > length // 2 + 60:
            continue
        if len(weaver) + len(text) + len(target) + 3 > length:
            return weaver.sequence(length)
        weaver.lay_branch((text, TEXT_WEIGHT), *reply(target))


@dataclass
class Reading:
    """What of a document stands in one context: all of it, a later part, or its better sentences."""

    shown: list[int]  # the sentences, by their place in the document
    count: int  # that the questions tell of
    text: Tokens
    digest: bool  # sentences put together as a text of their own, and numbered anew

    def number(self, place: int) -> int:
        """Of the sentence at this place of `shown`, from 1."""
        return place + 1 if self.digest else self.shown[place] + 1


def document(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    row = corpus.draw(chance, *corpus.draws[DOCUMENT])
    while not corpus.worths(row).any() and chance.random() >= UNSUMMARISED:
        row = corpus.draw(chance, *corpus.draws[DOCUMENT])
    title, summary, *pieces = corpus.segments(row)
    # A sentence is its first word after a gap, the same bare, the rest.
    sentences = [pieces[i : i + 3] for i in range(0, len(pieces), 3)]
    worths = corpus.worths(row)
    weaver = Weaver("document", chance)
    reading = read(corpus, chance, sentences, worths)
    weaver.lay_trunk(([USER], 0.0), (reading.text[:900], 0.0 if reading.digest else TEXT_WEIGHT))
    if reading.shown[0] == 0 and not reading.digest:
        if 0 < len(title) <= 40 and chance.random() < 0.8:
            weaver.lay_branch((corpus.prompts["title"], 0.0), *reply(title))
        if 0 < len(summary) < 90:
            weaver.lay_branch((corpus.prompts["summarize"], 0.0), *reply(summary))
    yes, no = (corpus.bare[answer][0] for answer in ("yes", "no"))
    for place in chance.permutation(len(reading.shown))[:MOST_ASKED] if worths.any() else ():
        i = reading.shown[place]
        _, bare, rest = sentences[i]
        question = [
            *(*corpus.prompts["extract"], *corpus.numbers[reading.number(place)]),
            *(*corpus.prompts["extract of"], *corpus.numbers[reading.count]),
            *corpus.prompts["extract end"],
            *[*bare, *rest][:80],
        ]
        weaver.lay_question((question, 0.0), yes, float(worths[i]), no)
    return weaver.sequence(DOCUMENT_SEQUENCE)


def read(
    corpus: Corpus, chance: np.random.Generator, sentences: list[list[Tokens]], worths: np.ndarray
) -> Reading:
    """A reading as `llm` does it: a text over the context in parts, then the best of all parts once more."""
    length = int(chance.choice(DOCUMENT_LENGTHS))
    shown, count = list(range(len(sentences))), len(sentences)
    if count == MAX_SENTENCES:  # the rest was not kept: it may have been any number
        count = int(chance.integers(count, MOST_COUNTED))
    way = chance.random() if len(sentences) > LONG else 1.0
    digest = way < DIGEST and worths.any()
    if digest:
        shown = likely(chance, worths, int(chance.integers(*DIGEST_SIZES)))
        count = len(shown)
    elif way < DIGEST + LATER_PART:
        shown = shown[int(chance.integers(len(sentences))) :]
    text: Tokens = []
    for place, i in enumerate(shown):
        spaced, bare, rest = sentences[i]
        if digest:
            spaced = [corpus.marks["\n"], *bare]
        elif i == 0:
            bare = spaced  # with a heading before it
        if place and len(text) + len(spaced) + len(rest) > length:
            shown = shown[:place]
            break
        text += [*(spaced if place else bare), *rest]
    return Reading(shown, count, text, digest)


def likely(chance: np.random.Generator, worths: np.ndarray, most: int) -> list[int]:
    """Sentences as a first reading may choose them: rather the good ones, in the text's order."""
    noisy = worths + chance.gumbel(scale=0.25, size=len(worths))
    return sorted(np.argsort(-noisy)[:most].tolist())


def label(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    scheme = SCHEMES[chance.choice(len(SCHEMES), p=SCHEME_SHARES)]
    shown, draw = scheme(corpus, chance)
    weaver, length = Weaver("label", chance), LENGTH["label"]
    listed = [
        token
        for i, word in enumerate(shown)
        for token in ([corpus.marks[","]] if i else []) + corpus.spaced[word]
    ]
    weaver.lay_trunk(([USER, *corpus.prompts["label"], *listed, *corpus.prompts["label end"]], 0.0))
    while True:
        text, answer = draw()
        if weaver.branches and len(weaver) + len(text) + 6 > length:
            return weaver.sequence(length)
        weaver.lay_branch((text[:120], TEXT_WEIGHT), *reply(corpus.bare[answer], LABEL_WEIGHT))


def some(chance: np.random.Generator, words: list[str], least: int, most: int) -> list[str]:
    """A few of the words, in any order."""
    count = min(len(words), int(chance.integers(least, most + 1)))
    return chance.permutation(words)[:count].tolist()


def pick(chance: np.random.Generator, rows: np.ndarray) -> int:
    return int(rows[chance.integers(len(rows))])


def by_language(corpus: Corpus, chance: np.random.Generator):
    shown = some(chance, list(LANGUAGES.values()), 2, 5)

    def draw() -> tuple[Tokens, str]:
        answer = str(chance.choice(shown))
        side = 0 if answer == "English" else 1
        language = str(chance.choice(list(LANGUAGE_DRAWS))) if answer == "English" else answer
        return corpus.segment(corpus.draw(chance, *corpus.pair_draws[language]), side), answer

    return shown, draw


def by_form(corpus: Corpus, chance: np.random.Generator):
    words = FORMS[chance.choice(len(FORMS), p=[0.7, 0.1, 0.1, 0.1])]

    def draw() -> tuple[Tokens, str]:
        wanted = int(chance.integers(2))
        while True:
            language = str(chance.choice(list(LANGUAGE_DRAWS)))
            row = corpus.draw(chance, *corpus.pair_draws[language])
            text = corpus.segment(row, 0 if chance.random() < 0.7 else 1)
            if len(text) > 3 and text[-1] == corpus.marks["?."[wanted]]:
                # Without its mark in half of the rows: the words must tell too.
                return text[:-1] if chance.random() < 0.5 else text, words[wanted]

    return some(chance, list(words), 2, 2), draw


def by_sentiment(corpus: Corpus, chance: np.random.Generator):
    words = SENTIMENT_WORDS[chance.integers(len(SENTIMENT_WORDS))]
    kept = [0, 1, 2] if chance.random() < 0.5 else [0, 2]

    def draw() -> tuple[Tokens, str]:
        while True:
            row = corpus.draw(chance, *corpus.draws[SENTIMENT])
            which = SENTIMENT_WORDS[0].index(corpus.word(row, "label"))
            if which in kept:
                return corpus.segment(row, 0), words[which]

    return some(chance, [words[i] for i in kept], 3, 3), draw


def by_column(column: str, words: list[str], least: int, most: int):
    """Labels that stand in the rows themselves: the emotion of a comment, the topic or the kind of a text."""

    def scheme(corpus: Corpus, chance: np.random.Generator):
        shown = some(chance, [word for word in words if (column, word) in corpus.by_word], least, most)

        def draw() -> tuple[Tokens, str]:
            answer = str(chance.choice(shown))
            return opening(corpus, pick(chance, corpus.by_word[column, answer]), chance), answer

        return shown, draw

    return scheme


def by_message(corpus: Corpus, chance: np.random.Generator):
    words = MESSAGE_WORDS[chance.choice(len(MESSAGE_WORDS), p=MESSAGE_SHARES)]
    sets = [name for name in HAM_SETS if name in corpus.by_set]

    def draw() -> tuple[Tokens, str]:
        which = int(chance.integers(2))
        if which and sets and chance.random() >= MADE:
            rows = corpus.by_set[str(chance.choice(sets))]
        else:
            rows = corpus.by_word["label", MESSAGE_WORDS[0][which]]
        return corpus.segment(pick(chance, rows), 0)[:60], words[which]

    return some(chance, list(words), 2, 2), draw


def opening(corpus: Corpus, row: int, chance: np.random.Generator) -> Tokens:
    """A short text that stands for the row: the row itself, a document's title or its first sentences."""
    segments = corpus.segments(row)
    if corpus.rows["kind"][row] != DOCUMENT:
        return segments[0][:60]
    title, _, *pieces = segments
    if title and chance.random() < 0.3:
        return title
    return [*pieces[1], *pieces[2], *pieces[3], *pieces[5]][:60]


SCHEMES = [
    by_language,
    by_form,
    by_sentiment,
    by_column("fine", EMOTIONS, 3, 6),
    by_column("genre", sorted(set(GENRES.values())), 2, 5),
    by_column("fine", sorted(set(TOPICS.values())), 2, 5),
    by_message,
]
SCHEME_SHARES = [0.12, 0.10, 0.26, 0.11, 0.09, 0.09, 0.23]


def chat(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    row = corpus.draw(chance, *corpus.draws[CHAT])
    turns = corpus.segments(row)
    first = 2 * int(chance.integers(len(turns) // 2)) if len(turns) > 3 and chance.random() < 0.5 else 0
    weaver = Weaver("chat", chance)
    for asked, said in zip(turns[first::2], turns[first + 1 :: 2]):
        weaver._lay((([USER, *asked], TEXT_WEIGHT), *reply(said)), 0, len(weaver))
    return weaver.sequence(LENGTH["chat"])


def prose(corpus: Corpus, chance: np.random.Generator) -> Sequence:
    weaver = Weaver("prose", chance)
    weaver.lay_trunk((corpus.segment(corpus.draw(chance, *corpus.draws[PROSE]), 0), ANSWER_WEIGHT))
    return weaver.sequence(LENGTH["prose"])


TASKS = {
    "sentiment": sentiment,
    "translate": translate,
    "label": label,
    "document": document,
    "chat": chat,
    "prose": prose,
}


class Mix:
    """Batches by the number of their step."""

    def __init__(
        self,
        corpus: Corpus,
        seed: int,
        step_tokens: int,
        micro_tokens: int,
        shares: dict[str, float] = SHARES,
    ):
        self.corpus, self.seed, self.step_tokens, self.micro_tokens = corpus, seed, step_tokens, micro_tokens
        chance = np.random.default_rng(0)
        lengths = {
            task: np.mean([len(TASKS[task](corpus, chance).tokens) for _ in range(100)]) for task in shares
        }
        odds = np.array([shares[task] / lengths[task] for task in shares])
        self.names, self.odds = list(shares), odds / odds.sum()

    def step(self, number: int) -> list[list[Sequence]]:
        """The sequences of one step, cut into micro-batches of like length."""
        chance = np.random.default_rng((self.seed, number))
        sequences: list[Sequence] = []
        left = self.step_tokens
        while left > 0:
            sequence = TASKS[self.names[chance.choice(len(self.names), p=self.odds)]](self.corpus, chance)
            left -= len(sequence.tokens)
            sequences.append(sequence)
        return cut(sequences, self.micro_tokens)


def cut(sequences: list[Sequence], most: int, fixed: int = PASS) -> list[list[Sequence]]:
    """
    Micro-batches of at most `most` tokens with the least work in all: padding costs its tokens, and each
    micro-batch what about `fixed` tokens do.
    """
    ranked = sorted(sequences, key=lambda s: -len(s.tokens))
    best: list[tuple[int, int]] = [
        (0, 0)
    ]  # the work for the first n sequences, and where their last batch starts
    for end in range(1, len(ranked) + 1):
        best.append(
            min(
                (best[start][0] + (end - start) * len(ranked[start].tokens) + fixed, start)
                for start in range(end)
                if start == end - 1 or (end - start) * len(ranked[start].tokens) <= most
            )
        )
    batches, end = [], len(ranked)
    while end:
        start = best[end][1]
        batches.append(ranked[start:end])
        end = start
    return batches
