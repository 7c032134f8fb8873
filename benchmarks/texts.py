"""
What the contestants read: the same texts, asked in the same words.

Rows have about 66 tokens in common and 31 of their own (Qwen2's vocabulary, chat template included).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcli.messages import Message, Prompt
from llmcli.models import gguf

LABELS = ("positive", "neutral", "negative")
_READER = (
    "You read reviews that customers from all over the country have written for a shop that sells household "
    "goods by post. "
)
LABEL_QUESTION = (
    f"{_READER}Is the sentiment of the text below positive, neutral or negative? Answer with one word only, "
    "in lower case, and say nothing else at all."
)
WRITE_QUESTION = (  # a model of eight million parameters can do that, and writes some thirty tokens
    f"{_READER}What they say shall be read in other countries too, in words that are as friendly or as "
    "angry as theirs, and with nothing added. Translate this text to German:"
)
_THINGS = ("kettle", "lamp", "chair", "blanket", "clock", "carpet", "mirror", "toaster", "shelf", "pillow")
_TIMES = ("two days late", "on Monday morning", "within a week", "after ten days", "exactly on time")
_FACES = ("the box was open", "the colour is lovely", "one screw was missing", "it works as described")
_ENDS = (
    "I would buy it again",
    "I sent it straight back",
    "my neighbours ask about it",
    "it is fine for the price",
)
_TOPICS = ("the garden", "the old harbour", "a train journey", "winter cooking", "repairing bicycles", "bees",
           "the village school", "learning the piano", "a walk in the hills", "keeping accounts")  # fmt: skip


def reviews(count: int) -> list[str]:
    """Distinct short reviews of some 26 tokens."""
    texts = []
    for n in range(count):
        thing, time = _THINGS[n % 10], _TIMES[n // 10 % 5]
        face, end = _FACES[n // 50 % 4], _ENDS[(n + n // 10) % 4]
        texts.append(f"The {thing} came {time} and {face}, so {end}. Order number {1000 + n * 37}.")
    return texts


def rows(question: str, count: int) -> list[Prompt]:
    """Prompts that begin alike: the question, then a review."""
    return [Prompt((Message("user", f"{question}\n\n{text}"),)) for text in reviews(count)]


def documents(count: int, words: int = 1600) -> list[Prompt]:
    """Prompts that begin each with a different document, so that nothing is shared."""
    prompts = []
    for n in range(count):
        parts, length = [f"Document {n}, about {_TOPICS[n % 10]}."], 0
        while length < words:
            topic, review = _TOPICS[(length + n) % 10], reviews(200)[(7 * n + len(parts)) % 200]
            parts.append(f"Paragraph {len(parts)} tells of {topic}. {review}")
            length += len(parts[-1].split())
        text = "\n\n".join(parts)
        prompts.append(Prompt((Message("user", f"{text}\n\nWhat is this document about?"),)))
    return prompts


def turns(count: int) -> list[str]:
    """What the user says in a chat."""
    return [
        f"Tell me something about {_TOPICS[n % 10]}, as a friend would, and what I should know before I "
        f"begin with it next year. Please keep it short; this is question number {n + 1}."
        for n in range(count)
    ]


def rendered(model: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Prompts through the model's chat template, for contestants that are given text."""
    source = gguf.check(model).metadata["tokenizer.chat_template"]
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(str(source))
    return [
        template.render(
            messages=[{"role": message.role, "content": message.content} for message in prompt.messages],
            add_generation_prompt=True,
        )
        for prompt in prompts
    ]
