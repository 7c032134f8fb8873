"""
The nouns that everything speaks of: messages, prompts, sampling, answers.

Plain frozen values, nothing else. They cross the wire to the engine's child
process as they are (msgspec), so they hold only text, numbers and tuples.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "degenerate", "cancelled"]
DEGENERATE = "the answer is degenerate: empty, or repeating itself"


class Message(Struct, frozen=True):
    """One message of a conversation."""

    role: Role
    content: str


class Prompt(Struct, frozen=True):
    """
    What a model is asked.

    `messages` go through the model's chat template. A prompt with `raw` text
    instead is continued as it stands (`llm complete`). `thinking` lets a model
    that can think do so before it answers. `continue_last` leaves the last
    message, an assistant's, open, so that the model writes on from its end.
    `fixed` says that the messages are a template's own words and nobody's text, the last
    one up to so many characters: an engine may keep these on disk. None: it may keep nothing.
    """

    messages: tuple[Message, ...] = ()
    raw: str | None = None
    thinking: bool = False
    continue_last: bool = False
    fixed: int | None = None

    @property
    def text(self) -> str:
        """The words of this prompt, without roles; what a scripted engine matches."""
        if self.raw is not None:
            return self.raw
        return "\n\n".join(message.content for message in self.messages)


class Sampling(Struct, frozen=True):
    """
    How the next token is chosen, and when to stop.

    temperature 0 takes the likeliest token; `max_tokens` counts answer tokens and
    None means what is left of the context window. `seed` is the run's: the numbers
    drawn for a row come from (seed, prompt, `sample`), so a resumed job draws the
    same ones. `beams`, at temperature 0: search for the likeliest answer with so many side by side (1: no
    search, the likeliest token each time). At most one of `schema` (a JSON Schema, as JSON
    text) and `grammar` (GBNF) constrains the answer.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    max_tokens: int | None = None
    seed: int = 0
    sample: int = 0
    beams: int = 1
    stop: tuple[str, ...] = ()
    schema: str | None = None
    grammar: str | None = None


class Usage(Struct, frozen=True):
    """Tokens of one answer: read (`prompt`, of which `cached` were not evaluated again) and written."""

    prompt: int = 0
    answer: int = 0
    cached: int = 0

    def __add__(self, more: Usage) -> Usage:
        """The tokens of two requests together."""
        return Usage(self.prompt + more.prompt, self.answer + more.answer, self.cached + more.cached)


class Piece(Struct, frozen=True):
    """A part of an answer while it is being written; `thinking` text is not part of the answer."""

    text: str
    thinking: bool = False


class Completion(Struct, frozen=True):
    """A whole generated answer; `text` equals the joined pieces that are not thinking."""

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    thinking: str = ""


class LabelScores(Struct, frozen=True):
    """
    One probability per label, in the order asked; they sum to 1.

    `method` says how they came about: `sequence` (log-probability of each
    label's full token sequence), `first-token` (a server's top log-probabilities)
    or `choice` (a server answered with one label and no probability: all are None).
    """

    labels: tuple[str, ...]
    probabilities: tuple[float | None, ...]
    best: int
    method: Literal["sequence", "first-token", "choice"] = "sequence"
    usage: Usage = Usage()

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.labels[self.best]

    @property
    def p(self) -> float | None:
        """The likeliest label's probability."""
        return self.probabilities[self.best]
