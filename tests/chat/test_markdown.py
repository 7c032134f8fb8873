"""Streamed Markdown: blocks come out complete, in order, once, however the text was cut up."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from llmcli.chat.markdown import Blocks, rendered

ANSWER = """# Trains

There are **two** trains.
One at nine.

1. The first
2. The second

   with a paragraph

10. The tenth
- a bullet
  - inside

```python
def when():
    return "nine"

print(when())
```
A | B
--|--
1 | 2

> A quotation
> of two lines

***

~~~
no language
~~~

1. with code:

   ```sh
   - not an item
   ```

The end."""


def blocks(*pieces):
    cutter = Blocks()
    found = [block for piece in pieces for block in cutter.feed(piece)]
    return [*found, *cutter.end()]


def shown(text, width=80, colour=False):
    console = Console(
        width=width, force_terminal=True, color_system="standard" if colour else None, no_color=not colour
    )
    return "".join(("\n" if block.gap else "") + rendered(block, console) for block in blocks(text))


def test_an_answer_is_cut_into_its_blocks():
    assert [(block.kind, block.text) for block in blocks(ANSWER)] == [
        ("text", "# Trains"),
        ("text", "There are **two** trains.\nOne at nine."),
        ("item", "1. The first"),
        ("item", "2. The second\n\n   with a paragraph"),
        ("item", "10. The tenth"),
        ("item", "- a bullet\n  - inside"),
        ("fence", "```python"),
        ("code", "def when():"),
        ("code", '    return "nine"'),
        ("code", ""),
        ("code", "print(when())"),
        ("end", "```"),
        ("text", "A | B\n--|--\n1 | 2"),
        ("text", "> A quotation\n> of two lines"),
        ("text", "***"),
        ("fence", "~~~"),
        ("code", "no language"),
        ("end", "~~~"),
        ("item", "1. with code:\n\n   ```sh\n   - not an item\n   ```"),
        ("text", "The end."),
    ]


def test_the_blocks_do_not_depend_on_how_the_text_arrives():
    chooser = random.Random(5)
    whole = blocks(ANSWER)
    for _ in range(50):
        cuts = sorted(chooser.sample(range(len(ANSWER)), 20))
        pieces = [ANSWER[start:end] for start, end in zip([0, *cuts], [*cuts, len(ANSWER)])]
        assert blocks(*pieces) == whole


@settings(deadline=None)
@given(st.text(alphabet="ab #-*>`|1.\n ~_[](é漢", max_size=120), st.integers(1, 5))
def test_no_letter_is_lost_and_none_depends_on_the_cuts(text, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    found = blocks(*pieces)

    assert found == blocks(text)
    letters = re.sub(r"\s", "", text)
    joined = re.sub(r"\s", "", "".join(block.text for block in found))
    assert joined == letters or (joined.startswith(letters) and set(joined[len(letters) :]) <= set("`~"))


def test_a_block_is_given_out_before_the_next_is_complete():
    cutter = Blocks()

    assert [b.text for b in cutter.feed("One.\n\nTw")] == ["One."]
    assert cutter.growing == "Tw"
    assert [b.text for b in cutter.feed("o.\n\n- a\n- b")] == ["Two."]
    assert [b.text for b in cutter.feed("\n- c\n")] == ["- a", "- b"]
    assert [b.text for b in cutter.end()] == ["- c"]


def test_drawn_text_has_no_padding_and_no_frames():
    text = shown("Some `code`.\n\n```python\nx = 1\n```\n\n# Head")

    assert text == "\nSome code.\n\n```python\nx = 1\n```\n\nHead\n"


def test_code_is_coloured_line_by_line_and_its_text_is_whole():
    text = shown('```python\ndef f():\n    """A\n    docstring"""\n    return 1\n```', colour=True)

    assert "\x1b[" in text
    assert (
        re.sub(r"\x1b\[[0-9;]*m", "", text)
        == '\n```python\ndef f():\n    """A\n    docstring"""\n    return 1\n```\n'
    )


def test_wide_letters_are_counted_by_their_width():
    lines = shown("漢字" * 30, width=40).strip().splitlines()

    assert [len(line) for line in lines] == [20, 20, 20]


def test_tables_of_wide_letters_line_up():
    lines = shown("| 名前 | price |\n|---|---|\n| お茶 | 120 |\n| tea | 9 |").splitlines()

    assert lines[1:] == [" 名前  price", " ───────────", " お茶  120", " tea   9"]


def test_a_cell_that_is_too_wide_is_folded_and_not_cut():
    address = "https://example.com/" + "very/long/path/" * 8
    drawn = shown(f"| name | where |\n|---|---|\n| alpha | {address} |")

    assert "…" not in drawn
    assert address in "".join(line.removeprefix(" alpha").strip() for line in drawn.splitlines())


def test_nothing_of_the_text_is_hidden():
    text = shown(
        "List<String> <b>x</b> <!-- note --> ![alt](http://a.b/c.png) <http://d.e> [t](http://f.g)\n\n<div>\nyes\n</div>"
    )

    for part in (
        "List<String>",
        "<b>x</b>",
        "<!-- note -->",
        "alt",
        "http://a.b/c.png",
        "http://d.e",
        "http://f.g",
        "<div>",
        "yes",
    ):
        assert part in text


def test_markdown_cannot_spell_a_control_character():
    text = shown(
        "&#27;[2J &#x9b;31m &#x202e; [a](http://x/&#27;[2J) `&#27;`\n\n- &#27;[2J\n\n| &#27; |\n|---|\n"
    )

    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_drawing_any_text_gives_no_control_character(text):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown(text, width=30))


def test_lines_end_where_the_model_ended_them():
    assert shown("Roses are red\nViolets are blue") == "\nRoses are red\nViolets are blue\n"


def test_an_empty_line_goes_between_blocks_but_not_between_tight_items():
    assert shown("one\n- two\n- three\n\n- four\nfive") == "\none\n\n • two\n • three\n\n • four\n   five\n"


def test_numbers_stay_as_they_are_written():
    assert shown("7. seven\n8. eight") == "\n 7. seven\n 8. eight\n"
