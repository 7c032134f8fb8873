"""progress: one line after a second of silence, gone before anything is written."""

import io
import time

import pyte
import pytest

from llmcli.output.progress import Status


class Terminal:
    """A terminal of 40 columns with a clock that is moved by hand."""

    def __init__(self, shown: bool = True, width: int = 40) -> None:
        self.now = 0.0
        self.screen = pyte.Screen(width, 5)
        self._stream = pyte.Stream(self.screen)
        self.status = Status(
            self._stream.feed, shown=shown, width=lambda: width, clock=lambda: self.now, watch=False
        )

    def wait(self, seconds: float) -> None:
        """Let time pass in tenths of a second, as the watching thread does."""
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 1)
            self.status.tick()

    @property
    def line(self) -> str:
        """The terminal's first line."""
        return self.screen.display[0].rstrip()


def test_a_quick_command_shows_nothing():
    terminal = Terminal()
    terminal.status.say("loading starter")
    terminal.wait(0.9)
    assert terminal.line == ""
    terminal.status.close()
    terminal.wait(5)
    assert terminal.line == ""


def test_after_a_second_of_silence_it_says_what_is_done_and_for_how_long():
    terminal = Terminal()
    terminal.status.say("loading starter")
    terminal.wait(1)
    assert terminal.line == "loading starter (1 s)"
    terminal.wait(2)
    assert terminal.line == "loading starter (3 s)"
    terminal.status.say("reading 3,100 of 9,800 tokens")
    assert terminal.line == "reading 3,100 of 9,800 tokens (3 s)"


def test_it_is_erased_before_output_and_waits_a_second_again():
    terminal = Terminal()
    terminal.status.say("part 3 of 7")
    terminal.wait(1.5)
    terminal.status.hide()
    assert terminal.line == ""
    terminal.wait(0.9)
    assert terminal.line == ""
    terminal.wait(0.2)
    assert terminal.line == "part 3 of 7 (2 s)"


def test_nothing_to_say_shows_nothing():
    terminal = Terminal()
    terminal.status.say("loading")
    terminal.wait(2)
    terminal.status.say("")
    terminal.wait(5)
    assert terminal.line == ""


@pytest.mark.parametrize("text", ["a " * 40, "日本語" * 20, "one\ntwo\x1b[2J " * 5])
@pytest.mark.parametrize("width", [1, 2, 20, 40])
def test_it_never_takes_more_than_one_line(text, width):
    terminal = Terminal(width=width)
    terminal.status.say(text)
    terminal.wait(2)
    assert [line.rstrip() for line in terminal.screen.display[1:]] == [""] * 4
    terminal.status.hide()
    assert terminal.line == ""


def test_without_a_terminal_nothing_is_written():
    out = io.StringIO()
    with Status(out.write, shown=False, delay=0) as status:
        status.say("loading")
        time.sleep(0.15)
        status.tick()
        status.hide()
    assert out.getvalue() == ""


def test_its_own_thread_shows_it_and_ends():
    out = io.StringIO()
    with Status(out.write, shown=True, delay=0.05) as status:
        status.say("loading")
        time.sleep(0.4)
    assert out.getvalue() == "\r\x1b[Kloading (0 s)\r\x1b[K"
    time.sleep(0.2)
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_terminal_that_went_away_does_not_stop_the_work():
    def broken(text: str) -> None:
        raise OSError(5, "gone")

    with Status(broken, shown=True, delay=0, watch=False) as status:
        status.say("loading")
        status.tick()
        status.say("still loading")
