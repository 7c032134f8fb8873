"""
Which of the known models to begin with on this machine, and why.

It knows sizes and memory, not quality: of what fits, a larger model of the list is named for work that
needs more, a smaller one where speed matters. What a maker says of a model is quoted with its source.
"""

from __future__ import annotations

from msgspec import Struct

from llmcli.models.entries import STARTER, ModelEntry, entries
from llmcli.models.resolve import find_entry

FOR_WEIGHTS = 0.6  # of the free memory; context, compute buffers and the system want the rest
FOR_LABELS = 1_600_000_000  # bytes of weights: what is read once per pass, so speed follows it
TRANSLATOR = "eurollm-9b"
TRANSLATOR_SOURCE = (
    "instruction-tuned for machine translation among 35 languages, as huggingface.co/utter-project/"
    "EuroLLM-9B-Instruct says"
)


class Recommendation(Struct, frozen=True):
    """One use, the model to begin with, why, and whether its file is here already."""

    use: str
    model: str
    reason: str
    here: bool


def recommend(free: int) -> list[Recommendation]:
    """What fits into so many bytes of free memory, for chat, labels and translation."""
    fitting = [entry for entry in by_size() if (entry.weights_bytes or 0) <= free * FOR_WEIGHTS]
    if not fitting:
        reason = f"of the known models only the built-in one fits into {_gb(free)} of free memory"
        return [Recommendation(use, STARTER, reason, True) for use in ("chat", "labels", "translation")]
    largest = fitting[-1]
    quick = [entry for entry in fitting if (entry.weights_bytes or 0) <= FOR_LABELS][-1:] or fitting[:1]
    translator = next((entry for entry in fitting if entry.name == TRANSLATOR), largest)
    why_largest = (
        f"the largest known model whose weights ({_about(largest)}) leave room for context in {_gb(free)} of "
        "free memory"
    )
    return [
        _recommendation("chat", largest, why_largest),
        _recommendation(
            "labels",
            quick[0],
            f"a label is one pass over the text, and a pass takes time with the weights "
            f"({_about(quick[0])}); try a larger one where it errs",
        ),
        _recommendation(
            "translation", translator, TRANSLATOR_SOURCE if translator.name == TRANSLATOR else why_largest
        ),
    ]


def by_size() -> list[ModelEntry]:
    """The known models whose size is known, the smallest first, without the built-in one."""
    known = [entry for entry in entries().values() if entry.name != STARTER and entry.weights_bytes]
    return sorted(known, key=lambda entry: entry.weights_bytes or 0)


def _recommendation(use: str, entry: ModelEntry, reason: str) -> Recommendation:
    return Recommendation(use, entry.name, reason, find_entry(entry) is not None)


def _about(entry: ModelEntry) -> str:
    return f"about {_gb(entry.weights_bytes or 0)}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
