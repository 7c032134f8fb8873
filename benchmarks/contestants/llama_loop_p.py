"""
The high-level `Llama` again, for labels that come with a probability, as ours do.
"""

from __future__ import annotations

from contestants import llama_loop
from contestants.task import Measured


class Contestant(llama_loop.Contestant):
    """Labels only."""

    def labels(self) -> Measured:
        return super().labels(probable=True)
