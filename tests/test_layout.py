"""Layout is what stays when the words of a text are replaced."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.tasks.layout import Paragraph, parts, spread, written


def words(text):
    return [part.text for part in parts(text) if isinstance(part, Paragraph)]


def shout(text):
    """Every paragraph answered by itself in capitals."""
    return "".join(
        written(part, part.text.upper() if isinstance(part, Paragraph) else "") for part in parts(text)
    )


REPORT = """\
---
title: 2024
---
# The bridge

The bridge was closed for seven weeks because one of its pillars had
moved, and it was not clear for how long that had been so.

  - an *item*
    1. a numbered one
- [ ] a task

> a quote
>
> and more

| Day | Hours |
|:----|------:|
| Monday | 9–17 |

```python
total = 1  # not touched
```
https://example.org/not-touched
[ref]: https://example.org
Two blanks end a line  \nand another
\tTabbed
Heading
-------
"""


WORDS = [
    "The bridge",
    "The bridge was closed for seven weeks because one of its pillars had",
    "moved, and it was not clear for how long that had been so.",
    "an *item*",
    "a numbered one",
    "a task",
    "a quote",
    "and more",
    "Day | Hours",
    "Monday",
    "Two blanks end a line",
    "and another",
    "Tabbed",
    "Heading",
]


def test_only_the_words_change():
    expected = REPORT
    for text in WORDS[::-1]:
        expected = expected.replace(text, text.upper())
    assert shout(REPORT) == expected


@pytest.mark.parametrize(
    "kept",
    [
        "    for day in week:\n        print(day)\n\n        return x\n",
        "\tmake install\n\tPATH=$HOME/bin\n",
        '<div class="note">\n</div>\n',
        '<img src="a.png" alt="x"> <br/>\n',
    ],
)
def test_code_and_tags_stay_as_they_are(kept):
    assert shout(f"Before.\n\n{kept}\nAfter.\n") == f"BEFORE.\n\n{kept}\nAFTER.\n"
    assert shout(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "    Dear Sir or Madam,\n\n    your bridge is closed (again).\n",
        "- an item\n\n    x = y(1), said the teacher, and that was all\n",
        "A paragraph\n    f(x) = 1 goes on\n",
        "---\nA line between two rules\n---\n",
    ],
)
def test_prose_is_words_even_where_it_looks_like_code(text):
    assert shout(text) == text.upper()


@pytest.mark.parametrize("line", ["{}x|", "<a>{}x", "--|--{}x", "| --{}|x", "a:{}x", "-{}x|"])
def test_a_long_run_of_blanks_takes_no_longer_than_its_length(line):
    begun = time.process_time()
    parts("a\n\n" + line.format(" " * 50_000) + "\nb")
    assert time.process_time() - begun < 5  # quadratic: a minute


def test_a_table_may_have_no_bars_around_it():
    text = "See:\n\nDay | Hours\n--- | ---\nMonday | nine to five\n\nThat | is all.\n"
    assert words(text) == ["See:", "Day", "Hours", "Monday", "nine to five", "That | is all."]
    assert shout(text) == text.upper()


def test_a_wrapped_paragraph_is_one_text():
    text = (
        "The bridge was closed for seven weeks because one of its pillars\n"
        "had moved, and it was not clear for how long that had been so."
    )
    assert words(text) == [text.replace("\n", " ")]


def test_a_wrapped_quote_or_list_item_is_one_text_and_keeps_its_marks():
    text = (
        "> - The bridge was closed for seven weeks because one of its\n"
        ">   pillars had moved, and it was not clear for how long that\n"
        ">   had been so."
    )
    assert len(words(text)) == 1
    assert shout(text).split("\n") == [line.upper() for line in text.split("\n")]


@pytest.mark.parametrize(
    "text",
    [
        "I love this phone and I would buy it again.\nThe battery is poor, and was from the start.",
        "Milk\nButter\nBread",
        "Jane Doe\n12 Long Street\nSpringfield",
        "Roses are red,\nviolets are blue,\nsugar is sweet\nand so are you.",
    ],
)
def test_lines_that_no_editor_broke_are_texts_of_their_own(text):
    assert words(text) == text.split("\n")


def test_a_heading_does_not_run_into_the_line_below():
    assert words("# The bridge was closed for seven weeks because of a pillar\nthat moved") == [
        "The bridge was closed for seven weeks because of a pillar",
        "that moved",
    ]


def test_chinese_lines_are_joined_without_a_space():
    text = (
        "第一行是这样的一个很长的句子因为我们需要很长的句子来测试这个程序\n是否能够正确地处理没有空格的文字。"
    )
    assert words(text) == [text.replace("\n", "")]


def test_a_bar_in_a_tables_answer_does_not_make_a_new_cell():
    cell = next(part for part in parts("| one | two |") if isinstance(part, Paragraph))
    assert written(cell, "eins | zwei") == r"eins \| zwei"


def test_a_code_block_ends_at_its_own_fence():
    assert words("~~~\na\n```\nb\n~~~\nc") == ["c"]
    assert words("```\nnever closed\nx") == []


@pytest.mark.parametrize("text", ["", "\n", "  \n\t\n", "1995\n", "***", "| 1 | 2 |", "…"])
def test_a_text_without_words_is_all_layout(text):
    assert words(text) == []
    assert "".join(map(str, parts(text))) == text


@given(st.text(alphabet=st.sampled_from("ab \n\t#>-*|`.1)é漢\\[]:"), max_size=80))
def test_nothing_is_lost_and_only_white_space_between_words_is_changed(text):
    made = "".join(written(part, getattr(part, "text", "")) for part in parts(text))
    assert "".join(made.split()) == "".join(text.split())
    assert [not line.strip() for line in made.split("\n")] == [not line.strip() for line in text.split("\n")]


@given(st.text(alphabet=st.sampled_from("abcdefgh \n->|"), max_size=300), st.text(max_size=60))
def test_the_number_of_lines_stays_whatever_the_answers_are(text, answer):
    made = "".join(written(part, answer) for part in parts(text))
    assert made.count("\n") == text.count("\n")


@given(
    st.lists(st.text("abc", min_size=1, max_size=9), max_size=30),
    st.lists(st.integers(1, 80), min_size=1, max_size=6),
)
def test_words_are_spread_over_lines_whole_and_in_order(given_words, widths):
    lines = spread(" ".join(given_words), widths)
    assert len(lines) == len(widths)
    assert " ".join(lines).split() == given_words


@pytest.mark.parametrize(
    "text",
    [
        "```\n" + "x = 1\n" * 50_000,
        "<" + ">" * 100_000 + " a b",
        "http://" + "a" * 100_000 + " b c",
        " " * 100_000 + "a",
        "- " * 50_000 + "a",
        "> " * 50_000 + "a",
        "| a " * 20_000,
        "第" * 100_000,
        "\n".join(["The bridge was closed for seven weeks because of a pillar that"] * 4_000),
        "\n".join(["第一行是这样的一个很长的句子因为我们需要很长的句子来测试这个程序"] * 4_000),
    ],
    ids=lambda text: text[:8],
)
def test_a_hostile_text_is_taken_apart_in_time_that_grows_with_its_length(text):
    begin = time.process_time()
    made = "".join(written(part, getattr(part, "text", "")) for part in parts(text))
    assert made.count("\n") == text.count("\n")
    assert time.process_time() - begin < 5
