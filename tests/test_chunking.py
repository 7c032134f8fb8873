"""chunking: sentences are verbatim and well cut; chunks cover the text and keep to the budget."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.chunking import Span, sentences, split
from llmcli.errors import InputTooLong


def texts_of(spans: Sequence[Span]) -> list[str]:
    return [span.text for span in spans]


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


class Counter:
    """Counts about as a tokenizer does, and remembers how often and how much it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.characters = 0

    def __call__(self, texts: Sequence[str]) -> list[int]:
        self.calls += 1
        self.characters += sum(map(len, texts))
        return [1 + len(text) // 4 for text in texts]


SENTENCES = {
    "plain": ["It rained.", "We stayed in!", "Why not?"],
    "titles": ["Dr. Mary Bly met Mr. J. R. Smith.", "They talked."],
    "decimals and prices": ["It rose by 3.5 percent to $1,204.50.", "Version 2.1.3 is out."],
    "latin abbreviations": ["Bring tools, e.g. a saw, i.e. something sharp.", "Tea, cake etc. will be."],
    "initials of states": ["He moved to the U.S. Army base.", "She left the U.S. on Monday."],
    "numbers of things": ["See Fig. 3 and No. 5 on p. 12.", "It is clear."],
    "he said": ['"Is it true?" she asked.', '"Yes."', "He nodded."],
    "curly quotes": ["“It works.”", "They cheered."],
    "brackets": ["(See the annex.)", "The rest follows."],
    "ellipsis": ["He waited... and waited.", "Then…", "Nothing."],
    "footnotes": ["Sales fell.[12]", "Costs rose."],
    "german": ["Am 3. Oktober kam Dr. Maier z.B. nach Bonn.", "Es regnete."],
    "french": ["M. Dupont dit : « Non ! »", "Mme. Roy part."],
    "spanish": ["¿Dónde está?", "¡Aquí!", "Gracias, Sr. Ruiz."],
    "web addresses": ["Go to example.org/a.html today.", "Or not."],
    "the pronoun": ["So did I.", "Then we left."],
    "the time": ["We met at 5 p.m. on Monday.", "It was dark."],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_prose_is_cut_where_a_reader_would_cut_it(name):
    expected = SENTENCES[name]
    assert expected == texts_of(sentences(" ".join(expected)))


def test_chinese_and_japanese_sentences_need_no_space():
    text = "今天下雨。我们没出去！为什么？「そうです。」彼は言った。圆周率是３．１４。"

    assert texts_of(sentences(text)) == [
        "今天下雨。", "我们没出去！", "为什么？", "「そうです。」", "彼は言った。", "圆周率是３．１４。",
    ]  # fmt: skip


def test_a_wrapped_paragraph_keeps_its_newlines_inside_its_sentences():
    text = "The first sentence is\nwrapped here. The second\nis too.\n\nA new paragraph"

    assert texts_of(sentences(text)) == [
        "The first sentence is\nwrapped here.", "The second\nis too.", "A new paragraph",
    ]  # fmt: skip


def test_headings_list_items_and_table_rows_stand_alone():
    text = (
        "# A title. With a stop\nText under it. More.\n1. First thing\n2. Second thing,\n   wrapped\n"
        "- a point. And another.\n| a | b |\n|---|---|\n| 1 | 2 |\nAfter"
    )

    assert texts_of(sentences(text)) == [
        "# A title. With a stop", "Text under it.", "More.", "1. First thing", "2. Second thing,\n   wrapped",
        "- a point.", "And another.", "| a | b |", "|---|---|", "| 1 | 2 |", "After",
    ]  # fmt: skip


def test_windows_line_ends_make_blank_lines_too():
    assert texts_of(sentences("One\r\n\r\nTwo\r\n")) == ["One", "Two"]


MESSY = st.text(st.sampled_from("aB3 .!?\n\t\"')(-#*|。！é\u0301\u200d😀\r\u3000I"), max_size=300)


@given(MESSY | st.text(max_size=200))
def test_sentences_are_verbatim_in_order_and_lose_nothing(text):
    spans = sentences(text)

    position = 0
    for span in spans:
        assert text[span.start : span.end] == span.text == span.text.strip() != ""
        assert text[position : span.start].strip() == ""
        position = span.end
    assert text[position:].strip() == ""


@given(MESSY | st.text(max_size=200), st.integers(4, 40), st.sampled_from([words, characters, Counter()]))
def test_chunks_keep_to_the_budget_and_lose_nothing(text, budget, count):
    spans = split(text, budget, count)

    position = 0
    for span in spans:
        assert text[span.start : span.end] == span.text
        assert span.text.strip()
        assert count([span.text])[0] <= budget
        assert text[position : span.start].strip() == ""
        position = span.end
    assert text[position:].strip() == ""


@given(MESSY, st.integers(3, 12))
def test_a_count_that_is_not_additive_still_keeps_to_the_budget(text, budget):
    def odd(texts: Sequence[str]) -> list[int]:
        return [1 + len(text.split()) + 2 * text.strip().count("\n") for text in texts]

    assert all(odd([span.text])[0] <= budget for span in split(text, budget, odd))


def test_paragraphs_are_kept_whole_while_they_fit():
    text = "A b c.\n\nD e f.\n\nG h i j. K l m n."

    assert texts_of(split(text, 6, words)) == ["A b c.\n\nD e f.", "G h i j.", "K l m n."]


def test_a_text_that_fits_is_one_chunk_without_its_outer_blanks():
    assert split("\n  Hello there.\n", 10, words) == [Span(3, 15, "Hello there.")]


def test_no_text_gives_no_chunk():
    assert split(" \n\t\n", 10, words) == []
    assert sentences("") == []


def test_a_long_sentence_is_cut_between_words():
    text = " ".join(f"word{i}" for i in range(100))

    chunks = split(text, 50, characters)

    assert " ".join(texts_of(chunks)) == text


def test_an_accent_stays_on_its_letter():
    text = "e\u0301" * 50

    assert all(not chunk.text.startswith("\u0301") for chunk in split(text, 7, characters))


def test_a_character_that_exceeds_the_budget_is_refused():
    with pytest.raises(InputTooLong, match="one character"):
        split("😀", 2, lambda texts: [4 * len(text) for text in texts])


PATHOLOGICAL = {
    "no spaces": "a" * 1_000_000,
    "dots": "." * 1_000_000,
    "dots that end in a letter": "." * 1_000_000 + "a",
    "emoji": "😀" * 250_000,
    "blank": "a" + " " * 1_000_000 + "b",
    "blank lines": "a\n" + "\n \t" * 330_000 + "b",
    "open brackets": "([{\"'" * 200_000,
    "initials": "A." * 500_000,
    "stop and quote": ".\"' " * 250_000,
    "short lines": "- a\n" * 250_000,
    "words": "word " * 200_000,
    "sentences": "A short sentence stands here. " * 33_000,
    "cjk": "今天下雨。" * 200_000,
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_200_kilobytes_are_split_in_seconds_with_few_counts(name):
    is_split_in_seconds_with_few_counts(PATHOLOGICAL[name][-200_000:])


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_a_megabyte_is_split_in_seconds_with_few_counts(name):
    is_split_in_seconds_with_few_counts(PATHOLOGICAL[name])


def is_split_in_seconds_with_few_counts(text):
    count = Counter()

    began = time.process_time()
    chunks = split(text, 1000, count)

    assert time.process_time() - began < 10
    assert count.calls < 20
    assert count.characters < 8 * len(text)
    assert sum(len(chunk.text.split()) for chunk in chunks) >= len(text.split())
