"""How long answers took, and how many tokens: what `/stats` and the bottom line show."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmcli.messages import Usage


@dataclass
class Timing:
    """The last answer in figures, and the sums of the session."""

    first: float = 0.0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    answers: int = 0
    total: Usage = field(default_factory=Usage)
    total_seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Answer tokens a second, from the first token on."""
        writing = self.seconds - self.first
        return (self.usage.answer - 1) / writing if writing > 0 and self.usage.answer > 1 else 0.0

    def add(self, first: float, seconds: float, usage: Usage) -> None:
        """Count one more answer."""
        self.first, self.seconds, self.usage = first, seconds, usage
        self.answers += 1
        self.total += usage
        self.total_seconds += seconds
