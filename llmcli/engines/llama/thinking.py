"""
What a model thinks aloud, kept apart from what it answers.

Works on text as it streams: a mark may arrive in pieces. Thinking is only looked for
at the beginning of an answer, so an answer may speak of `<think>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmcli.messages import Piece


@dataclass(frozen=True)
class Marks:
    """How a family of models opens and closes its thinking."""

    open: str = "<think>"
    close: str = "</think>"


FAMILIES = {
    "</think>": Marks(),
    # openai-gpt-oss-120b.jinja and google-gemma-4-31B-it.jinja, of llama.cpp's models/templates
    "<|channel|>analysis": Marks(
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    "<|channel>thought": Marks("<|channel>thought\n", "<channel|>"),
}
"""The marks of a family, by what the chat templates of its models say somewhere."""


def marks_of(settings: dict[str, Any], source: str) -> Marks | None:
    """
    The marks of a model's thinking: from models.yaml, else those of its chat template's family.

    >>> marks_of({}, "{{ '<|channel>thought\\n<channel|>' }}").close, marks_of({}, "{{ content }}")
    ('<channel|>', None)
    """
    if settings.get("open"):
        return Marks(settings["open"], settings["close"])
    return next((marks for words, marks in FAMILIES.items() if words in source), None)


class ThinkingSplitter:
    """
    Takes text piece by piece, gives it back as thinking and answer.

    `inside`: the chat template itself has opened the thinking.

    >>> splitter = ThinkingSplitter(Marks(), inside=False)
    >>> [(p.text, p.thinking) for t in ["<thi", "nk>so", "</think>\\n\\nYes"] for p in splitter.add(t)]
    [('so', True), ('Yes', False)]
    """

    def __init__(self, marks: Marks | None, *, inside: bool) -> None:
        self._marks = marks or Marks()
        self._state = "answer" if marks is None else "thinking" if inside else "start"
        self._held = ""

    def add(self, text: str) -> Iterator[Piece]:
        """The pieces that this text completes."""
        if self._state == "answer":
            if text:
                yield Piece(text)
            return
        self._held += text
        if self._state == "start":
            yield from self._start()
        if self._state == "thinking":
            yield from self._think()
        if self._state == "gap":
            yield from self._gap()

    def finish(self) -> Iterator[Piece]:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        if held and self._state != "gap":
            yield Piece(held, thinking=self._state == "thinking")

    def _start(self) -> Iterator[Piece]:
        text = self._held.lstrip()
        if text.startswith(self._marks.open):
            self._state, self._held = "thinking", text[len(self._marks.open) :]
        elif not self._marks.open.startswith(text):
            self._state, held, self._held = "answer", self._held, ""
            yield Piece(held)

    def _think(self) -> Iterator[Piece]:
        before, mark, after = self._held.partition(self._marks.close)
        if mark:
            self._state, self._held = "gap", after
            if before:
                yield Piece(before, thinking=True)
            return
        keep = _partial_mark(self._held, self._marks.close)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if ready:
            yield Piece(ready, thinking=True)

    def _gap(self) -> Iterator[Piece]:
        """Blank lines between thinking and answer belong to neither."""
        text = self._held.lstrip()
        if text:
            self._state, self._held = "answer", ""
            yield Piece(text)


def _partial_mark(text: str, mark: str) -> int:
    """
    How many characters at the end of a text may be the beginning of a mark.

    >>> _partial_mark("so</th", "</think>")
    4
    """
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-size:]):
            return size
    return 0


class StopTexts:
    """Ends an answer at the first of some texts, which is not part of it. Works on text as it streams."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that surely comes before any stop."""
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            ready, self._held = self._held[: min(places)], ""
            return ready
        keep = max(_partial_mark(self._held, stop) for stop in self._stops)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held
