"""sanitize: nothing that reaches a terminal can steer it, and pipes get every character."""

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.output.sanitize import one_line, sanitize

UNSAFE = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from([chr(code) for code in UNSAFE]))


@given(ANY_TEXT)
def test_no_unsafe_character_reaches_a_terminal(text):
    shown = sanitize(text)

    assert not any(ord(character) in UNSAFE for character in shown)
    shown.encode("utf-8")  # and no lone surrogate


@given(ANY_TEXT, st.data())
def test_a_stream_cut_anywhere_comes_out_the_same(text, data):
    cut = data.draw(st.integers(0, len(text)))

    assert sanitize(text[:cut]) + sanitize(text[cut:]) == sanitize(text)


@given(ANY_TEXT)
def test_a_pipe_gets_the_text_unchanged(text):
    assert sanitize(text, terminal=False) == text


@pytest.mark.parametrize(
    "text", ["Grüße\n\tan alle", "日本語 😀 👩‍👧", "שלום", "e\u0301", "\u200f\ufeff", ""]
)
def test_ordinary_text_is_shown_as_it_is(text):
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0=\x07", "␛]52;c;cm0=␇"),
        ("\x9b2J", "\\x9b2J"),
        ("over\rwritten", "over␍written"),
        ("\x7f\x00", "␡␀"),
        ("\u202egnp.exe\u2066", "<U+202E>gnp.exe<U+2066>"),
        ("\ud83d!", "<U+D83D>!"),
    ],
)
def test_what_would_steer_the_terminal_is_visible(text, shown):
    assert sanitize(text) == shown


def test_a_real_terminal_shows_the_sequence_and_does_not_obey_it():
    screen = pyte.Screen(60, 3)
    stream = pyte.Stream(screen)

    stream.feed(sanitize("safe \x1b[2J\x1b]0;title\x07\x9b31m end"))

    assert screen.display[0].rstrip() == "safe ␛[2J␛]0;title␇\\x9b31m end"
    assert screen.title == ""


def test_a_message_stays_on_one_line():
    assert one_line("no file 'a\nb\tc\x1b[0m\u2028'") == "no file 'a\\nb\\tc␛[0m\\u2028'"
