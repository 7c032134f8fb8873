"""One path from a text to its answer, for one text and for a stream without end."""

from __future__ import annotations

import itertools
import random
import re
import threading
from queue import Queue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmcli.engines import open_engine
from llmcli.engines.base import EngineOptions
from llmcli.engines.scripted import Script, ScriptedEngine
from llmcli.errors import BadConfig, EngineCrashed, InputTooLong, LlmError, UnusableAnswer
from llmcli.messages import Sampling
from llmcli.paths import shipped
from llmcli.registry import Found
from llmcli.tasks import run_tasks, stream_task
from llmcli.tasks.long import kept
from llmcli.templates import check_values, load_template, sampling_for

DOCUMENT = " ".join(f"Sentence number {number} tells of a thing." for number in range(200))


def built_in(name, mode=None):
    template = load_template(Found(name, shipped("prompts") / f"{name}.yaml", "built in"))
    return replace(template, mode=mode) if mode else template


class Task:
    """A built-in template on an engine, with its values."""

    def __init__(self, name, engine, mode=None, truncate=None, template=None, options=None, **values):
        self.template = template or built_in(name, mode)
        self.engine = ScriptedEngine(engine) if isinstance(engine, Script) else engine
        self.values = check_values(self.template, values)
        self.sampling = sampling_for(self.template, self.values, options or {})
        self.truncate = truncate
        self.news: list[str] = []

    def run(self, texts):
        return run_tasks(
            self.template,
            texts,
            self.engine,
            self.values,
            self.sampling,
            notify=self.news.append,
            truncate=self.truncate,
        )

    def one(self, text):
        [(position, result)] = self.run([text])
        assert position == 0
        return result

    def stream(self, text):
        return stream_task(
            self.template,
            text,
            self.engine,
            self.values,
            self.sampling,
            notify=self.news.append,
            truncate=self.truncate,
        )


class Threaded(ScriptedEngine):
    """Draws prompts in a thread, ahead of its answers, and answers out of order: as the local engine does."""

    def _shuffled(self, prompts, answer):
        drawn: Queue = Queue()

        def draw():
            for item in enumerate(prompts):
                drawn.put(item)
            drawn.put(None)

        threading.Thread(target=draw, daemon=True).start()
        held, more = [], True
        while more or held:
            if more and len(held) < 5:
                item = drawn.get()
                held, more = (held, False) if item is None else ([*held, item], True)
                continue
            position, prompt = held.pop(random.randrange(len(held)))
            yield position, next(iter(answer([prompt])))[1]

    def generate(self, prompts, sampling):
        return self._shuffled(prompts, lambda one: super(Threaded, self).generate(one, sampling))

    def score(self, prompts, labels):
        return self._shuffled(prompts, lambda one: super(Threaded, self).score(one, labels))


# ------------------------------------------------------------ many texts


def test_each_text_has_its_answer_at_its_place():
    results = dict(Task("title", Threaded(Script(default="{prompt}"))).run(f"text {n}" for n in range(100)))
    assert sorted(results) == list(range(100))
    assert all(results[n].text.startswith(f"text {n}\n") for n in range(100))


def test_a_stream_without_end_flows():
    texts = (f"row {number}" for number in itertools.count())
    results = Task("sentiment", Script(scores="hash")).run(texts)
    assert [position for position, _ in itertools.islice(results, 5)] == [0, 1, 2, 3, 4]


def test_closing_ends_the_reading_of_texts():
    closed = []

    def texts():
        try:
            yield from map(str, itertools.count(1))
        finally:
            closed.append(True)

    results = Task("title", Script(default="x")).run(texts())
    next(results)
    results.close()
    assert closed == [True]


def test_a_text_without_words_never_reaches_the_model(script, tmp_path, asked):
    for name in ("sentiment", "title", "translate", "summarize"):
        engine = open_engine(script(log="asked.jsonl", default="neutral"), EngineOptions())
        values = {"to": "de"} if name == "translate" else {}
        results = dict(Task(name, engine, **values).run(["", " \n\t", "text", "\u3000"]))
        assert [results[n].text for n in (0, 1, 3)] == ["", "", ""]
        assert results[2].text == "neutral"
    assert len(asked()) == 4


def test_only_texts_without_words_ask_nothing():
    assert [result.text for _, result in Task("title", Script()).run(["", " "])] == ["", ""]


def test_one_texts_failure_is_its_own():
    script = Script(default="ok", fail={"bad": "UnusableAnswer: no idea"})
    results = dict(Task("title", Threaded(script)).run(["a", "bad", "b"]))
    assert (results[0].text, results[2].text) == ("ok", "ok")
    assert isinstance(results[1], UnusableAnswer)


def test_a_crash_ends_all():
    results = Task("title", Script(default="ok", crash=("bomb",))).run(["a", "bomb", "b"])
    assert next(results)[1].text == "ok"
    with pytest.raises(EngineCrashed):
        next(results)


@pytest.mark.parametrize("engine", [ScriptedEngine, Threaded])
def test_what_the_texts_raise_comes_after_the_answers_that_were_there(engine):
    def texts():
        yield "a"
        yield "b"
        raise BadConfig("the file ends in the middle of a row")

    results = Task("title", engine(Script(default="ok"))).run(texts())
    assert {next(results)[0], next(results)[0]} == {0, 1}
    with pytest.raises(BadConfig):
        next(results)


# ------------------------------------------------------------ one text, streamed


@pytest.mark.parametrize("text", ["Hi", "# Hi\n\n- one\n- two\n\n\n", DOCUMENT, "\n  x  \n"])
@pytest.mark.parametrize("reply", ["  Some words\n\nhere. ", "x", "", "{last}"])
@pytest.mark.parametrize(("name", "values"), [("summarize", {}), ("translate", {"to": "de"}), ("title", {})])
def test_the_joined_stream_is_the_text_that_is_not_streamed(name, values, text, reply):
    task = Task(name, Script(default=reply, context=300), **values)
    expected = task.one(text)
    if isinstance(expected, LlmError):
        with pytest.raises(type(expected)):
            list(task.stream(text))
        return
    *pieces, result = task.stream(text)
    assert all(isinstance(piece, str) for piece in pieces)
    assert "".join(pieces) == result.text == expected.text
    assert result == expected


@settings(max_examples=40)
@given(st.text(alphabet=" ab\n", max_size=20))
def test_white_space_around_an_answer_goes_streamed_or_not(reply):
    task = Task("title", Script(default=reply))
    *pieces, result = task.stream("text")
    assert "".join(pieces) == result.text == reply.strip()


def test_a_streamed_failure_is_raised():
    with pytest.raises(UnusableAnswer):
        list(Task("title", Script()).stream("text"))


@pytest.mark.parametrize(("name", "mode"), [("sentiment", None), ("summarize", "extract")])
def test_labels_and_quotes_come_in_one_piece(name, mode):
    task = Task(name, Script(default="neutral", replies={"main point": "yes"}), mode=mode)
    text, result = task.stream("A text of several words.")
    assert text == result.text


# ------------------------------------------------------------ labels


def test_a_label_comes_with_its_probabilities():
    result = Task("sentiment", Script(default={"positive": 0.7, "neutral": 0.2, "negative": 0.1})).one(
        "I love it."
    )
    assert (result.text, result.method) == ("positive", "sequence")
    assert result.p == pytest.approx(0.7)
    assert list(result.probabilities) == ["positive", "neutral", "negative"]


def test_the_users_own_labels_are_scored():
    assert Task("label", Script(default="ham"), labels="spam,ham").one("Hello").text == "ham"


def test_a_text_over_the_context_has_no_label_unless_it_may_be_cut():
    script = Script(default="neutral", context=60)
    error = Task("sentiment", script).one(DOCUMENT)
    assert isinstance(error, InputTooLong)
    assert (error.tokens > 1400, error.context) == (True, 60)

    task = Task("sentiment", script, truncate="tail")
    result = task.one(DOCUMENT)
    assert result.text == "neutral"
    assert 1340 < result.left_out < 1400
    assert "tokens are left out" in task.news[0]


# ------------------------------------------------------------ longer than the context


def test_a_long_text_is_read_in_parts_and_the_answers_joined():
    script = Script(default="A part.", replies={"A part.\n\nA part.": "The whole."}, context=200)
    task = Task("summarize", script)
    result = task.one(DOCUMENT)
    assert result.text == "The whole."
    assert result.chunks > 5
    assert result.usage.prompt > 1400
    assert f"part {result.chunks} of {result.chunks}" in task.news


def test_every_sentence_of_a_long_text_is_read_once(script, asked):
    engine = open_engine(script(default="A part.", context=200, log="asked.jsonl"), EngineOptions())
    assert Task("summarize", engine).one(DOCUMENT).text == "A part."
    read = " ".join(
        line["prompt"].rsplit("\n\n", 1)[0] for line in asked()[1:] if "Sentence" in line["prompt"]
    )
    assert read == DOCUMENT


@settings(max_examples=40)
@given(
    context=st.integers(10, 300),
    reply=st.sampled_from(["x", "ten " * 10, "fifty " * 50, "many " * 1000, "{prompt}", "", " \n"]),
    room=st.sampled_from([None, 1, 20, 500]),
)
def test_joining_the_parts_ends_whatever_the_model_answers(context, reply, room):
    task = Task("ask", Script(default=reply, context=context), question="Who?", options={"max_tokens": room})
    result = task.one(DOCUMENT)
    assert isinstance(result, InputTooLong | UnusableAnswer) or result.chunks > 1


def test_a_text_that_leaves_its_answer_no_room_is_read_in_parts_too():
    text = " ".join(["word"] * 180)
    task = Task("summarize", Script(default="A summary of it.", context=200))
    assert task.one(text).chunks == 2
    assert task.one(" ".join(["word"] * 100)).chunks == 1


def test_without_a_way_to_join_the_parts_a_long_text_is_refused_with_both_numbers():
    error = Task("rewrite", Script(default="x", context=100)).one(DOCUMENT)
    assert isinstance(error, InputTooLong)
    assert "1,4" in error.message
    assert "100" in error.message


@pytest.mark.parametrize("side", ["head", "tail", "middle"])
def test_a_text_is_cut_where_the_user_said(script, asked, side):
    engine = open_engine(script(default="x", context=100, log="asked.jsonl"), EngineOptions())
    result = Task("rewrite", engine, truncate=side).one(DOCUMENT)
    read = asked()[-1]["prompt"].split("\n\n", 1)[1]
    assert result.left_out == 1400 - len(read.split())
    assert 50 < len(read.split()) < 75
    assert all(part in DOCUMENT for part in read.split("\n\n"))
    assert read.startswith("Sentence number 0 ") is (side != "head")
    assert read.endswith("number 199 tells of a thing.") is (side != "tail")


def test_what_fits_is_not_cut():
    result = Task("rewrite", Script(default="{last}"), truncate="tail").one(DOCUMENT)
    assert (result.left_out, result.text) == (0, DOCUMENT)


@given(
    st.text(alphabet="ab \n", max_size=60), st.integers(0, 70), st.sampled_from(["head", "tail", "middle"])
)
def test_a_cut_keeps_at_most_what_was_asked_and_only_what_was_there(text, characters, side):
    ranges = kept(text, characters, side)
    assert sum(end - start for start, end in ranges) <= max(characters, 0) or characters >= len(text)
    assert all(0 <= start <= end <= len(text) for start, end in ranges)
    assert [start for start, _ in ranges] == sorted(start for start, _ in ranges)


# ------------------------------------------------------------ sentences of the text itself

NEWS = """\
# Bridge open again

The bridge over the Mill is open again. It was closed
for seven weeks.  Who pays is not known!

- The repair cost 4.2 million.
"""


def quotes(text, script, **values):
    return Task("summarize", script, mode="extract", **values).one(text)


def yes_to(*parts, **keys):
    question = ".\n\n"  # the end of "It is sentence 1 of 4.": no sentence stands so in the documents
    return Script(
        replies={question + part: {"yes": 9 - n, "no": 1 + n} for n, part in enumerate(parts)},
        default="no",
        **keys,
    )


def test_the_likeliest_sentences_are_quoted_word_for_word_in_the_texts_order():
    result = quotes(NEWS, yes_to("Who pays", "The bridge"), length="medium")
    assert result.text.split("\n")[0] == "The bridge over the Mill is open again."
    assert len(result.spans) == 3
    for span in result.spans:
        assert NEWS[span.start : span.end] == span.text
        assert (
            NEWS.split("\n")[span.line - 1].strip()
            in NEWS[span.start - 60 if span.start > 60 else 0 : span.end + 60]
        )
    assert [span.start for span in result.spans] == sorted(span.start for span in result.spans)


def test_a_quote_has_its_line_and_probability():
    [span] = quotes(NEWS, yes_to("Who pays"), length="short").spans
    assert (span.text, span.line, span.p) == ("Who pays is not known!", 4, 0.9)


@pytest.mark.parametrize(("length", "number"), [("short", 1), ("medium", 3), ("long", 4)])
def test_the_length_says_how_many_sentences_and_a_short_text_has_fewer(length, number):
    assert len(quotes(NEWS, Script(default="yes"), length=length).spans) == number


def test_a_heading_is_not_quoted_where_there_are_sentences():
    assert "# Bridge" not in quotes(NEWS, Script(default="yes"), length="long").text
    assert quotes("# Only a heading", Script(default="yes")).text == "# Only a heading"


def test_quotes_as_a_list():
    text = quotes(NEWS, Script(default="yes"), length="long", style="bullets").text
    assert "- The bridge over the Mill is open again." in text.split("\n")
    assert "- - " not in text


@pytest.mark.parametrize("engine", [ScriptedEngine, Threaded])
def test_the_best_sentences_of_a_document_over_the_context(engine):
    script = yes_to("Sentence number 150 ", "Sentence number 7 ", "Sentence number 199 ", context=150)
    task = Task("summarize", engine(script), mode="extract", length="medium")
    result = task.one(DOCUMENT)
    assert [span.text.split()[2] for span in result.spans] == ["7", "150", "199"]
    assert all(DOCUMENT[span.start : span.end] == span.text for span in result.spans)
    assert result.chunks > 9


def test_the_best_of_all_parts_are_weighed_again_in_one_text(tmp_path):
    log = tmp_path / "asked.jsonl"
    script = yes_to("Sentence number 150 ", "Sentence number 7 ", context=150)
    engine = ScriptedEngine(script, log=log)
    Task("summarize", engine, mode="extract", length="short").one(DOCUMENT)
    last = log.read_text().splitlines()[-1]

    assert "Sentence number 7 tells of a thing.\\n" in last and "Sentence number 150 " in last
    [(number, count)] = set(re.findall(r"It is sentence (\d+) of (\d+)", last))
    assert number == count and 2 < int(count) < 30


@pytest.mark.parametrize("context", [75, 90, 120, 200])
def test_what_is_weighed_again_fits_into_the_context(context):
    result = quotes(DOCUMENT, Script(default="yes", context=context), length="medium")
    assert not isinstance(result, LlmError), result
    assert len(result.spans) == 3


@pytest.mark.parametrize(("side", "number"), [("tail", "0"), ("head", "199")])
def test_quotes_of_a_cut_document_keep_their_places_in_the_whole(side, number):
    script = yes_to(f"Sentence number {number} ", context=150)
    result = Task("summarize", script, mode="extract", truncate=side, length="short").one(DOCUMENT)
    [span] = result.spans
    assert span.text == f"Sentence number {number} tells of a thing." == DOCUMENT[span.start : span.end]
    assert result.left_out > 1000


def test_several_documents_are_quoted_together():
    task = Task("summarize", Threaded(yes_to("A b c", "D e f", "J k l")), mode="extract", length="short")
    results = dict(task.run(["A b c. X y z.", "", "D e f. G h i.", "Q r s. J k l."]))
    assert [results[n].text for n in range(4)] == ["A b c.", "", "D e f.", "J k l."]


def test_one_sentence_longer_than_the_context_is_refused():
    assert isinstance(quotes("word " * 500, Script(default="yes", context=100)), InputTooLong)


# ------------------------------------------------------------ layout


def test_a_translation_keeps_blank_lines_indentation_marks_and_line_count():
    text = "# Title\n\n  - one\n  - two\n\n\n1995\n> three\n"
    result = Task("translate", Threaded(Script(default="<{last}>")), to="de").one(text)
    assert result.text == "# <Title>\n\n  - <one>\n  - <two>\n\n\n1995\n> <three>"
    assert result.chunks == 4


def test_each_paragraph_is_a_prompt_of_its_own(script, asked):
    engine = open_engine(script(default="x", log="asked.jsonl"), EngineOptions())
    Task("translate", engine, to="de").one("Good day.\n\nBye.")
    assert [line["prompt"] for line in asked()] == [
        "Translate this text to German:\n\nGood day.",
        "Translate this text to German:\n\nBye.",
    ]


def test_a_long_paragraph_is_translated_in_pieces():
    result = Task("translate", Script(default="{last}", context=120), to="de").one("# T\n\n" + DOCUMENT)
    assert result.text == "# T\n\n" + DOCUMENT
    assert result.chunks > 10


@pytest.mark.parametrize("engine", [Script, lambda **script: Threaded(Script(**script))])
def test_paragraphs_behind_a_long_one_are_translated_too(engine):
    long = " ".join(f"w{number}" for number in range(150))
    text = "\n\n".join(["one", long, *map(str.upper, "abcdefghij"), long, "end"])
    results = dict(Task("translate", engine(default="{last}", context=120), to="de").run([text, "next"]))
    assert [results[0].text, results[1].text] == [text, "next"]


def test_a_failed_paragraph_fails_its_text_only():
    script = Script(default="{last}", fail={"bad": "UnusableAnswer: no"})
    results = dict(Task("translate", Threaded(script), to="de").run(["a\n\nbad\n\nc", "d"]))
    assert isinstance(results[0], UnusableAnswer)
    assert results[1].text == "d"


def test_a_cut_paragraph_marks_the_whole_text_as_cut():
    result = Task("translate", Script(default="a b c"), to="de", options={"max_tokens": 2}).one("x\n\ny")
    assert (result.text, result.finish_reason) == ("a b\n\na b", "length")


# ------------------------------------------------------------ JSON


def test_facts_come_as_the_json_that_was_asked_for():
    result = Task("extract", Script(default='{"name": "Ann", "date": null}'), fields="name,date").one(
        "Ann came."
    )
    assert result.text == '{"name": "Ann", "date": null}'


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ('{"name": ', "not JSON"),
        ("Sure!", "not JSON"),
        ("[" * 20_000, "not JSON"),
        ('{"name": NaN, "date": 1}', "not JSON"),
        ('{"name": "x"}', "lacks 'date'"),
        ("[1]", "lacks 'name'"),
    ],
)
def test_an_answer_that_is_not_the_json_asked_for_is_unusable(reply, message):
    error = Task("extract", Script(default=reply), fields="name,date").one("Ann came.")
    assert isinstance(error, UnusableAnswer)
    assert message in error.message


def test_json_that_was_cut_is_unusable_and_says_how_to_get_more():
    error = Task("extract", Script(default='{"name": 1}'), fields="name", options={"max_tokens": 1}).one("x")
    assert str(error) == "the JSON was cut after 1 tokens (a larger --max-tokens)"


def test_a_templates_schema_holds_when_the_caller_forgot_it():
    task = Task("extract", Script(default="no json"), fields="name")
    task.sampling = Sampling()
    assert isinstance(task.one("x"), UnusableAnswer)
