"""The same path on the built-in model: a real tokenizer, a real context, a real thread that draws prompts."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from llmcli.engines import open_engine
from llmcli.engines.base import EngineOptions
from llmcli.errors import InputTooLong
from llmcli.paths import shipped
from llmcli.registry import Found
from llmcli.tasks import run_tasks, stream_task
from llmcli.templates import check_values, load_template, sampling_for

SENTENCES = [
    "The bridge over the Mill was opened again on Monday.",
    "It had been closed for seven weeks because one of its pillars had moved.",
    "The repair cost 4.2 million, which the town and the county share.",
    "Some forty shops near the bridge say that they lost a third of their trade.",
    "The mayor, Ann Lee, called the work a success; the opposition did not.",
]
LONG = "\n\n".join(f"Report {number}. " + " ".join(SENTENCES) for number in range(1, 16))


@pytest.fixture(scope="module")
def engine():
    opened = open_engine("starter", EngineOptions())
    yield opened
    opened.close()


def run(engine, name, texts, *, mode=None, truncate=None, options=None, **values):
    template = load_template(Found(name, shipped("prompts") / f"{name}.yaml", "built in"))
    template = replace(template, mode=mode) if mode else template
    checked = check_values(template, values)
    sampling = sampling_for(template, checked, options or {})
    return run_tasks(template, texts, engine, checked, sampling, truncate=truncate)


def test_clear_sentences_have_their_sentiment(engine):
    results = dict(run(engine, "sentiment", ["I love this phone!", "", "It broke after two days. Terrible."]))
    assert [results[n].text for n in range(3)] == ["positive", "", "negative"]
    assert sum(results[0].probabilities.values()) == pytest.approx(1)


def test_a_stream_without_end_flows(engine):
    results = run(engine, "sentiment", (f"This is number {n}." for n in itertools.count()))
    first = dict(itertools.islice(results, 20))
    results.close()
    assert len(first) == 20


def test_a_text_over_the_context_is_joined_cut_or_refused(engine):
    context = engine.info.context
    assert engine.count_tokens([LONG])[0] > context

    [(_, joined)] = run(engine, "title", [LONG], options={"max_tokens": 5})
    assert joined.chunks > 1
    assert joined.text

    [(_, refused)] = run(engine, "sentiment", [LONG])
    assert isinstance(refused, InputTooLong)
    assert (refused.tokens > context, refused.context) == (True, context)

    [(_, cut)] = run(engine, "sentiment", [LONG], truncate="tail")
    assert cut.left_out > 0
    assert context - 40 < cut.usage.prompt <= context


def test_quotes_of_a_long_document_are_its_own_sentences(engine):
    [(_, result)] = run(engine, "summarize", [LONG], mode="extract", length="medium")
    assert len(result.spans) == 3
    assert all(LONG[span.start : span.end] == span.text for span in result.spans)
    assert all(0 < span.p < 1 for span in result.spans)


def test_a_translation_has_the_lines_of_its_text(engine):
    text = "# Good morning\n\n- Where is the train station?\n- I like cats.\n"
    [(_, result)] = run(engine, "translate", [text], to="de", options={"max_tokens": 20})
    lines = result.text.split("\n")
    assert [line[:2] for line in lines] == ["# ", "", "- ", "- "]


def test_the_joined_stream_is_the_answer(engine):
    template = load_template(Found("translate", shipped("prompts") / "translate.yaml", "built in"))
    template = replace(template, keep_layout=False)
    values = check_values(template, {"to": "de"})
    sampling = sampling_for(template, values, {"max_tokens": 20})
    *pieces, result = stream_task(template, "Where is the train station?", engine, values, sampling)
    assert "".join(pieces) == result.text
    assert result.text
