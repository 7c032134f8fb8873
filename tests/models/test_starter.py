"""The model in the package: the file of its card, the prompts it learnt, sane answers to plain texts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import llmcli
from llmcli import Llm

FOLDER = Path(llmcli.__file__).parent / "models" / "starter"
CARD = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
PROMPTS = Path(llmcli.__file__).parents[1] / "training" / "prompts.py"


@pytest.fixture(scope="module")
def starter():
    with Llm("starter") as opened:
        yield opened


def test_the_file_is_the_one_of_the_card_and_small():
    content = (FOLDER / "starter.gguf").read_bytes()

    assert hashlib.sha256(content).hexdigest() in CARD
    assert len(content) <= 16_000_000


@pytest.mark.skipif(not PROMPTS.exists(), reason="the recipe is not here")
def test_the_templates_still_say_what_the_model_was_trained_on():
    """A change of a built-in template needs a model trained on the new words: training/README.md."""
    said = subprocess.run(
        [sys.executable, PROMPTS], capture_output=True, text=True, check=True
    ).stdout.strip()

    assert said in CARD


def test_clear_texts_have_their_sentiment(starter):
    texts = {
        "I love this phone!": "positive",
        "What a wonderful day, thank you so much.": "positive",
        "It broke after two days. Terrible.": "negative",
        "This is the worst hotel I have ever stayed in.": "negative",
        "Ich liebe dieses Buch!": "positive",
    }
    assert [answer.text for answer in starter.run("sentiment", list(texts))] == list(texts.values())


def test_sentences_have_their_language(starter):
    texts = {
        "Guten Morgen, wie geht es dir?": "German",
        "Je suis très fatigué aujourd'hui.": "French",
        "Mi madre trabaja en un hospital.": "Spanish",
        "My brother lives in a small house.": "English",
    }
    answers = starter.label(list(texts), labels=["English", "German", "French", "Spanish"])
    assert [answer.text for answer in answers] == list(texts.values())


@pytest.mark.parametrize(
    ("text", "to", "expected"),
    [
        ("I have two children.", "de", "Ich habe zwei Kinder."),
        ("Where is the train station?", "es", "¿Dónde está la estación de tren?"),
        ("Er wohnt in Berlin.", "en", "He lives in Berlin."),
        ("Mi madre trabaja en un hospital.", "en", "My mother works in a hospital."),
    ],
)
def test_everyday_sentences_are_translated(starter, text, to, expected):
    assert [answer.text for answer in starter.run("translate", [text], to=to)] == [expected]
