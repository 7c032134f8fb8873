"""The local engine, through its door: what is asked comes back right, whatever shares the batch."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from engines.conftest import LONG, PERIOD, ask, ask_unchecked
from ggufs import QWEN_LIKE, STRING, tiny, without_numbers, without_numbers_for
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.engines.llama.prefixes import Prefixes
from llmcli.errors import (
    BadConfig,
    EngineCrashed,
    InputTooLong,
    ModelError,
    UnreadableInput,
    UnusableAnswer,
    UsageError,
)
from llmcli.messages import Completion, LabelScores, Message, Piece, Prompt, Sampling
from llmcli.models.resolve import resolve

SENTIMENT = "Is the sentiment of this text positive, neutral or negative?\n\n"
LABELS = ("positive", "neutral", "negative")
NAMES = ("train", "book", "cat", "new house", "old friend", "first snow")
KINDS = ["llama", "qwen2", "gemma3", "mamba", "lfm2"]


def collect(stream):
    pieces, completion = [], None
    for item in stream:
        if isinstance(item, Piece):
            pieces.append(item.text)
        else:
            completion = item
    return "".join(pieces), completion


def test_a_clear_text_gets_the_right_label(starter):
    texts = ["I love this phone!", "It broke after two days. Terrible."]

    answers = dict(starter.score((ask(SENTIMENT + text) for text in texts), LABELS))

    assert ["positive", "negative"] == [answers[i].label for i in range(2)]
    assert all(sum(a.probabilities) == pytest.approx(1) for a in answers.values())


def test_a_stream_joined_is_the_answer(starter):
    prompt = ask("Translate this text to German:\n\nWhere is the train station?")

    streamed, completion = collect(starter.stream(prompt, Sampling()))
    [(_, whole)] = starter.generate([prompt], Sampling())

    assert streamed == completion.text == whole.text
    assert "stop" == completion.finish_reason


def check_stream(engine, text, seed):
    """At so high a temperature bytes come that are no character, or only half of one."""
    streamed, completion = collect(
        engine.stream(ask(text), Sampling(temperature=8.0, top_p=1.0, seed=seed, max_tokens=24))
    )
    assert streamed == completion.text
    streamed.encode("utf-8")


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=20), seed=st.integers(0, 2**32))
def test_any_stream_joined_is_the_answer(starter, text, seed):
    check_stream(starter, text, seed)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(text=st.text(min_size=1, max_size=20), seed=st.integers(0, 2**32))
def test_ten_thousand_streams_joined_are_the_answers(starter, text, seed):
    check_stream(starter, text, seed)


def test_every_row_is_answered_once_in_any_order(starter):
    prompts = (ask(f"Translate this text to German:\n\n{n} cats.") for n in range(70))

    positions = [position for position, _ in starter.generate(prompts, Sampling(max_tokens=8))]

    assert list(range(70)) == sorted(positions)


def test_rows_written_together_are_those_written_alone(starter):
    """Sentences of which the built-in model is not sure: a last digit would decide its words."""
    prompts = [
        ask(f"Translate this text to German:\n\n{'Really, ' * (n % 5)}the shelf {n} came late.")
        for n in range(40)
    ]
    sampling = Sampling(temperature=0.0, max_tokens=24)

    together = dict(starter.generate(prompts, sampling))
    alone = LlamaEngine(resolve("starter"), EngineOptions(sequential=True))
    one_by_one = dict(alone.generate(prompts, sampling))
    alone.close()

    assert len({answer.text for answer in together.values()}) > 20
    assert {n: answer.text for n, answer in together.items()} == {n: a.text for n, a in one_by_one.items()}


def test_rows_that_end_at_once_are_answered_in_their_turn(starter):
    prompts = [ask(f"Say something about the number {n}.") for n in range(80)]

    answered = [n for n, _ in starter.generate(iter(prompts), Sampling(temperature=0.0, max_tokens=1))]

    assert answered == list(range(80))


def test_the_same_seed_draws_the_same_text_and_another_sample_another(starter):
    def write(**sampling):
        settings = Sampling(temperature=0.9, max_tokens=16, **sampling)
        return collect(starter.stream(Prompt(raw="Once upon a time"), settings))[0]

    assert write(seed=1) == write(seed=1)
    assert write(seed=1) != write(seed=2)
    assert write(seed=1) != write(seed=1, sample=1)


def test_a_text_over_the_context_is_that_rows_error_with_both_numbers(starter):
    answers = dict(starter.score([ask("word " * 4000), ask(SENTIMENT + "Good.")], LABELS))

    assert isinstance(answers[0], InputTooLong)
    assert (answers[0].tokens > 3900, answers[0].context) == (True, starter.info.context)
    assert isinstance(answers[1], LabelScores)


def test_half_a_surrogate_pair_is_that_rows_error(starter):
    answers = dict(starter.generate([ask("\ud83d"), ask("Hello")], Sampling(max_tokens=4)))

    assert isinstance(answers[0], UnreadableInput)
    assert isinstance(answers[1], Completion)


def test_fifty_thousand_unbroken_characters_do_not_kill_the_tokenizer(starter):
    assert all(count > 1000 for count in starter.count_tokens(["a" * 50_000, "。" * 50_000, "." * 50_000]))


def test_an_answer_stops_at_a_text_only_when_asked(starter):
    prompt = ask("Translate this text to German:\n\nWhere is the train station?")
    whole = collect(starter.stream(prompt, Sampling()))[0]
    stop = whole[4:6]

    streamed, completion = collect(starter.stream(prompt, Sampling(stop=(stop,))))

    assert whole[: whole.index(stop)] == streamed == completion.text


def test_labels_of_several_tokens_and_labels_that_begin_each_other_are_told_apart(starter):
    labels = ("very", "very good", "very bad indeed", "banana split")

    [(_, scores)] = starter.score([ask(SENTIMENT + "Good.")], labels)

    assert sum(scores.probabilities) == pytest.approx(1)
    assert len(set(scores.probabilities)) == 4


def test_a_label_weighs_the_same_whatever_others_it_shares_tokens_with(starter):
    """To this model: ne-utral, ne-g-ative, ne-g-lect, pos-itive."""
    labels = ("neutral", "negative", "neglect", "positive", "statement", "spam")
    prompt = ask(SENTIMENT + "The train was late again.")

    [(_, together)] = starter.score([prompt], labels)
    for one, p in zip(labels[:-1], together.probabilities):
        [(_, pair)] = starter.score([prompt], (one, "spam"))
        weight = math.log(p / together.probabilities[-1])
        assert math.log(pair.probabilities[0] / pair.probabilities[1]) == pytest.approx(weight, abs=0.02)


def test_a_reply_cut_at_a_stop_text_is_quoted_as_it_was_given(starter):
    prompt = ask("Translate this text to German:\n\nWhere is the train station?")
    whole = collect(starter.stream(prompt, Sampling()))[0]
    stop = whole[-6:]
    reply = whole[: whole.index(stop)].strip()
    quoting = Prompt((*prompt.messages, Message("assistant", reply), Message("user", "Go on.")))
    before = starter.count_tokens([quoting])

    collect(starter.stream(prompt, Sampling(stop=(stop,))))

    assert before == starter.count_tokens([quoting])


def test_an_answer_cut_at_max_tokens_says_so(starter):
    prompt = ask("Translate this text to German:\n\nWhere is the train station?")
    _, completion = collect(starter.stream(prompt, Sampling(max_tokens=3)))

    assert ("length", 3) == (completion.finish_reason, completion.usage.answer)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_answers_are_those_of_one_at_a_time(kind, shared_tiny):
    texts = [f"Is the sentiment of this text positive? {n} " + "the and is " * (n % 7) for n in range(24)]
    labels = ("positive", "negative", "very good thing")

    batched, alone = shared_tiny(kind, context=512), shared_tiny(kind, context=512, sequential=True)
    first = dict(batched.score(map(ask, texts), labels))
    second = dict(alone.score(map(ask, texts), labels))

    assert sum(scores.usage.cached for scores in first.values()) > 300  # the prefix was shared
    for position, scores in first.items():
        assert scores.probabilities == pytest.approx(second[position].probabilities, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_answers_take_turns_in_one_engine(kind, open_tiny):
    """They want different caches: on a processor, labels with flash attention, answers without."""
    engine = open_tiny(kind, context=512, sequential=True)
    question, labels = (
        ask("Is this text positive? The sun is out."),
        ("positive", "negative", "very good thing"),
    )
    said = []
    for _ in range(3):
        [(_, scores)] = engine.score([question], labels)
        _, completion = collect(engine.stream(ask("Say something."), Sampling(temperature=0.0, max_tokens=8)))
        said.append((scores.probabilities, completion.text, completion.usage.answer))

    assert said[0] == said[1] == said[2]
    assert 0 < said[0][2] <= 8


def test_with_sequential_a_row_is_answered_alike_behind_a_much_longer_one():
    texts = [f"Translate the text to German.\n\nThe {name} is here, and we are glad." for name in NAMES]
    long = "Translate the text to German.\n\n" + "The report is about water. " * 110

    def answers(engine, texts):
        said = dict(engine.generate(iter(map(ask, texts)), Sampling(max_tokens=16)))
        engine.close()
        return [said[position].text for position in range(len(texts))]

    options = EngineOptions(sequential=True)
    first = answers(LlamaEngine(resolve("starter"), options), texts)
    behind = answers(LlamaEngine(resolve("starter"), options), [long, *texts])

    assert behind[1:] == first


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_longer_than_expected_is_whole(kind, shared_tiny):
    """Room is made as it grows: for 512 tokens, for 1,024, for 2,048."""
    texts = [f"Tell me about number {n}." for n in range(2)]
    sampling = Sampling(temperature=5.0, seed=4, grammar=f"root ::= ({PERIOD}){{24}}")
    alone = shared_tiny(kind, trained=2400, sequential=True)
    expected = [answer for _, answer in sorted(alone.generate(map(ask, texts), sampling))]
    assert max(answer.usage.answer for answer in expected) > 1024

    engine = shared_tiny(kind, trained=2400)
    together = [answer for _, answer in sorted(engine.generate(iter(map(ask, texts)), sampling))]
    joined, streamed = collect(engine.stream(ask(texts[0]), sampling))

    for answer in (*together, streamed):
        assert (answer.finish_reason, len(answer.text)) == ("stop", 1200)
    assert [answer.usage.prompt for answer in together] == [answer.usage.prompt for answer in expected]
    assert joined == streamed.text
    if kind == "llama":  # of the others a last digit may differ, which is enough to draw another token
        assert [answer.text for answer in together] == [answer.text for answer in expected]
        assert streamed.text == expected[0].text


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits are Linux's")
def test_an_answer_that_gets_no_more_memory_is_that_answers_error(open_tiny):
    engine = open_tiny(made=tiny("llama", context=65536, width=512, heads=8, kv_heads=8, layers=8))
    sampling = Sampling(temperature=5.0, seed=4, grammar=f"root ::= ({PERIOD}){{99}}")
    items = engine.stream(ask("Tell me about it."), sampling)
    text = next(items).text
    [size] = re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{engine.pid}/status").read_text())
    resource.prlimit(engine.pid, resource.RLIMIT_AS, (int(size) * 1024,) * 2)

    with pytest.raises(EngineCrashed, match=r"cannot make a context of \d,\d+ tokens"):
        for item in items:
            text += item.text
    assert len(text) > 500
    [(_, again)] = engine.generate([ask("Hi")], Sampling(max_tokens=3))
    assert isinstance(again, Completion)


def test_many_rows_run_together_whatever_their_answers_may_be(open_tiny):
    """Of a context of 65,536 tokens each would else take the memory of all."""
    engine = open_tiny(made=tiny("llama", context=65536, width=512, heads=8, kv_heads=8, layers=8))
    prompts = [ask(f"Say {n}") for n in range(8)]
    rows = engine.generate(iter(prompts), Sampling(temperature=1.0, seed=1, stop=(" the", "e")))

    assert len(dict(rows)) == 8
    assert resident_mib(engine.pid) < 600


def resident_mib(pid):
    """Memory of a process."""
    [size] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size) / 1024


def evaluated(engine, least):
    """Wait until the child has evaluated so many tokens in all; how many it has then."""
    for _ in range(200):
        count = engine.measure().tokens
        if count >= least:
            return count
        time.sleep(0.02)
    raise AssertionError(f"{count} tokens are read of {least}")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_next_turn_begins_with_is_read_while_nobody_asks(kind, open_tiny):
    engine = open_tiny(kind, context=512)
    said = [Message("user", "the and is " * 20)]
    few = Sampling(temperature=0.0, max_tokens=6)
    _, reply = collect(engine.stream(Prompt(tuple(said)), few))
    said += [Message("assistant", f" {reply.text} rewritten"), Message("user", "")]
    before = engine.measure().tokens

    engine.read_ahead(Prompt(tuple(said)), few)
    evaluated(engine, before + 4)
    time.sleep(0.1)
    ahead = engine.measure().tokens - before
    said[-1] = Message("user", "very good thing?")
    _, second = collect(engine.stream(Prompt(tuple(said)), few))

    assert second.usage.cached >= ahead
    assert second.usage.prompt - second.usage.cached < 20
    fresh = open_tiny(kind, context=512)
    assert collect(fresh.stream(Prompt(tuple(said)), few))[1].text == second.text


def test_a_conversation_that_outgrows_its_cache_is_not_read_again(open_tiny):
    engine = open_tiny("llama", made=tiny("llama", context=4096))
    few, said = Sampling(temperature=0.0, max_tokens=4), []
    for words in (20, 400, 900):
        before = sum(len(message.content.split()) for message in said)
        said.append(Message("user", "the and is " * (words // 3)))
        _, reply = collect(engine.stream(Prompt(tuple(said)), few))
        said.append(Message("assistant", reply.text))
        assert reply.usage.cached >= before
    fresh = open_tiny("llama", made=tiny("llama", context=4096))

    assert collect(fresh.stream(Prompt(tuple(said[:-1])), few))[1].text == reply.text


def test_reading_ahead_makes_nobody_wait(open_tiny):
    engine = open_tiny("llama", made=tiny("llama", context=8192))
    few = Sampling(temperature=0.0, max_tokens=4)
    long = Prompt((Message("user", "the and is " * 2000), Message("assistant", "good"), Message("user", "")))
    expected = collect(engine.stream(ask("Say something."), few))[1].text
    engine.read_ahead(long, few)
    evaluated(engine, 200)

    began = time.monotonic()
    other = collect(engine.stream(ask("Say something."), few))[1]
    engine.read_ahead(long, few)
    [(_, scores)] = engine.score([ask("Is this text positive?")], LABELS)

    assert time.monotonic() - began < 2
    assert other.text == expected
    assert sum(scores.probabilities) == pytest.approx(1)
    assert engine.measure().tokens < 4000


def test_where_nothing_is_known_of_the_next_turn_nothing_is_done(open_tiny):
    bare = "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}"
    engine = open_tiny("llama", chat_template=bare)
    engine.read_ahead(ask(""), Sampling())
    engine.count_tokens(["to have it tokenised"])
    before = engine.measure()
    time.sleep(0.2)

    assert engine.measure().busy_seconds - before.busy_seconds < 0.05


def test_reading_ahead_says_nothing_of_what_goes_wrong(open_tiny):
    engine = open_tiny("llama", context=64)
    too_long = Prompt((Message("user", "the and is " * 200), Message("user", "")))
    engine.read_ahead(too_long, Sampling())
    os.kill(engine.pid, signal.SIGKILL)
    engine.read_ahead(too_long, Sampling())
    engine.close()
    engine.read_ahead(too_long, Sampling())


def test_sequential_answers_do_not_depend_on_their_neighbours(shared_tiny):
    engine = shared_tiny("llama", context=512, sequential=True)
    texts = [f"Text number {n}. " + "the and " * (n % 11) for n in range(20)]

    together = dict(engine.score(map(ask, texts), LABELS))

    for position, text in reversed(list(enumerate(texts))):
        [(_, scores)] = engine.score([ask(text)], LABELS)
        assert scores.probabilities == together[position].probabilities


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_evaluates_at_most_the_last_reply_and_the_new_message(kind, shared_tiny):
    engine = shared_tiny(kind, context=512)
    messages = [Message("user", "Hello. " * 20)]
    previous = 0
    for _ in range(4):
        _, completion = collect(engine.stream(Prompt(tuple(messages)), Sampling(max_tokens=8)))
        assert completion.usage.cached >= previous - 8  # all of the turn before, but for its header
        previous = completion.usage.prompt
        messages += [Message("assistant", "A plain reply."), Message("user", "And the next question?")]


def test_a_growing_conversation_is_seldom_read_from_its_beginning(shared_tiny):
    engine = shared_tiny("llama", trained=4096)
    messages, again = [Message("user", "Hello. " * 20)], 0
    for _ in range(12):
        _, completion = collect(engine.stream(Prompt(tuple(messages)), Sampling(max_tokens=100)))
        again += not completion.usage.cached
        messages += [
            Message("assistant", "A plain reply. " * 8),
            Message("user", "And the next question?" * 4),
        ]

    assert again <= 4  # the first turn, and where the context was doubled


def test_a_prefix_that_running_rows_stand_on_is_not_given_up():
    class Cells:
        def fork(self, source, target, length): ...
        def clear(self, sequence): ...

    prefixes = Prefixes(Cells(), whole_only=False, window=0, most=1)
    prefixes.keep(0, [1, 2, 3])
    resident, shared = prefixes.best([1, 2, 3, 4])
    prefixes.lend(resident, 1, shared)

    assert prefixes.full
    assert ([], []) == (prefixes.evict(), prefixes.keep(2, [1, 2, 3, 4, 5]))
    assert 8 == prefixes.cells  # its cells are taken, so they are counted
    prefixes.take_back(resident)
    assert not prefixes.full
    assert [0] == prefixes.evict()


def test_an_endless_input_gives_each_answer_at_once(starter):
    asked = itertools.count()
    prompts = (ask(f"{SENTIMENT}Review number {next(asked)} is good.") for _ in itertools.repeat(None))
    answers = starter.score(prompts, LABELS)

    seen = [next(answers) for _ in range(150)]
    answers.close()

    assert 150 == len({position for position, _ in seen})
    assert next(asked) < 150 + 200  # only so many are drawn ahead


def test_a_slow_source_does_not_delay_a_finished_answer(starter):
    more = threading.Event()

    def slow():
        yield ask(SENTIMENT + "Good.")
        more.wait(60)
        yield ask(SENTIMENT + "Bad.")

    answers = starter.score(slow(), LABELS)
    assert 0 == next(answers)[0]
    more.set()
    assert 1 == next(answers)[0]


def test_what_the_source_raises_reaches_the_caller(starter):
    def broken():
        yield ask("Hello")
        raise UnreadableInput("line 2 is not text")

    with pytest.raises(UnreadableInput, match="line 2"):
        list(starter.generate(broken(), Sampling(max_tokens=4)))


def test_a_closed_stream_makes_way_for_the_next_question(shared_tiny):
    engine = shared_tiny("llama", trained=4096)
    stream = engine.stream(ask("Go on."), LONG)
    next(stream)
    stream.close()

    before = engine.measure().tokens

    collect(engine.stream(ask("Hi."), Sampling(max_tokens=1)))

    assert engine.measure().tokens - before < 1500  # and not the 3,000 that were asked for first


def test_a_question_cancelled_while_it_is_tokenised_is_not_answered(open_tiny):
    slow = "{% for i in range(40) %}{% for j in range(50000) %}{% endfor %}{% endfor %}"
    engine = open_tiny("qwen2", made=tiny("qwen2", template=slow + QWEN_LIKE, context=4096))
    engine.count_tokens(["a"])
    stream = engine.stream(ask("Go on."), LONG)
    asking = threading.Thread(target=lambda: list(stream))
    asking.start()
    time.sleep(0.05)  # its chat template is being rendered
    stream.close()
    asking.join()

    engine.count_tokens(["a"])  # the tokenizer is through
    time.sleep(0.2)
    assert 0 == engine.measure().tokens


def test_an_answer_in_a_grammar_that_llama_cpp_refuses_is_that_rows_error(shared_tiny):
    engine = shared_tiny("llama", context=512)
    refused = Sampling(grammar="root ::= (", max_tokens=4)

    errors = [answer for _, answer in ask_unchecked(engine, [ask(f"Text {n}") for n in range(40)], refused)]

    assert all(isinstance(error, BadConfig) for error in errors)
    [(_, completion)] = engine.generate([ask("Hi")], Sampling(max_tokens=4))  # no sequence was lost
    assert isinstance(completion, Completion)


def test_an_answer_to_a_schema_is_json_that_fits_it(starter):
    schema = {"type": "object", "properties": {"stars": {"enum": [1, 2, 3]}}, "required": ["stars"]}
    sampling = Sampling(schema=json.dumps(schema), max_tokens=60)

    [(_, completion)] = starter.generate([ask("How many stars? I love it.")], sampling)

    assert json.loads(completion.text)["stars"] in (1, 2, 3)


def test_no_control_token_passes_for_text_inside_json(shared_tiny):
    engine = shared_tiny("llama", context=512)
    schema = {"type": "object", "properties": {"a": {"enum": ["<|user|>x", "<|user|>y"]}}, "required": ["a"]}
    sampling = Sampling(schema=json.dumps(schema), max_tokens=100)

    [(_, completion)] = engine.generate([ask("Which?")], sampling)

    assert json.loads(completion.text)["a"] in ("<|user|>x", "<|user|>y")


def test_json_cut_by_length_is_an_error(starter):
    schema = {"type": "object", "properties": {"name": {"enum": ["x" * 200]}}, "required": ["name"]}
    sampling = Sampling(schema=json.dumps(schema), max_tokens=10)

    [(_, error)] = starter.generate([ask("Who?")], sampling)

    assert isinstance(error, UnusableAnswer)


def test_a_bad_grammar_never_reaches_the_model(starter):
    with pytest.raises(BadConfig):
        list(starter.generate([ask("Hi")], Sampling(grammar='root ::= root "a"')))

    assert starter.count_tokens(["alive"])


@pytest.mark.parametrize("beams", [1, 2])
def test_a_model_that_gives_no_numbers_for_any_text_is_a_broken_file(open_tiny, beams):
    engine = open_tiny("llama", made=without_numbers(tiny("llama")))

    [(_, answer)] = engine.generate([ask("Hi")], Sampling(max_tokens=8, beams=beams))
    [(_, scores)] = engine.score([ask("Hi")], LABELS)

    for error in (answer, scores):
        assert isinstance(error, ModelError)
        assert "(NaN) for any text" in str(error)


def test_no_other_prompt_suffers_from_one_that_gives_no_numbers(open_tiny):
    made = without_numbers_for("@", tiny("llama", context=1024))
    engine, few = open_tiny("llama", made=made), Sampling(temperature=0.0, max_tokens=6)
    texts = [f"the and is {'of ' * (n % 5)}" for n in range(40)]
    poisoned = [f"{text} @ this" if n % 9 == 4 else text for n, text in enumerate(texts)]

    expected = {text: collect(engine.stream(ask(text), few))[1] for text in {*texts}}
    rows = dict(engine.generate(iter(map(ask, poisoned)), few))
    for position, text in enumerate(poisoned):
        if "@" in text:
            assert collect(engine.stream(ask(text), few))[1].finish_reason == "degenerate"
        again = collect(engine.stream(ask(texts[position]), few))[1]
        assert again.text == expected[texts[position]].text
        if "@" not in text:
            assert rows[position].text == expected[text].text
            assert rows[position].finish_reason == expected[text].finish_reason != "degenerate"
        else:
            assert rows[position].finish_reason == "degenerate"


def test_labels_of_an_empty_prompt_are_an_error_and_not_a_hang(shared_tiny):
    engine = shared_tiny("qwen2", context=512)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.extend(engine.score([Prompt(raw="")], LABELS)), daemon=True
    )
    asking.start()
    asking.join(60)

    [(_, error)] = answers
    assert isinstance(error, UsageError)


def test_thinking_is_switched_off_by_the_templates_own_switch(open_tiny):
    engine = open_tiny("qwen2", made=tiny("qwen2", template=QWEN_LIKE))
    off, on = engine.count_tokens([ask("Hi"), Prompt((Message("user", "Hi"),), thinking=True)])

    assert off > on  # the header holds an empty <think></think>


@pytest.mark.parametrize("said", ["</think>", "<|channel|>analysis<|message|>", "<|channel>thought\\n"])
def test_a_model_that_always_thinks_is_refused_for_labels(open_tiny, said):
    template = QWEN_LIKE.replace("enable_thinking", "something_else").replace(
        "<think>\\n\\n</think>\\n\\n", said
    )
    assert said in template
    engine = open_tiny("qwen2", made=tiny("qwen2", template=template))

    [(_, error)] = engine.score([ask("Hi")], LABELS)

    assert isinstance(error, UsageError)
    assert "thinks" in error.message


def test_a_model_without_a_chat_template_completes_but_is_not_asked(open_tiny):
    engine = open_tiny("llama", made=tiny("llama", template=None))

    [(_, error)] = engine.generate([ask("Hi")], Sampling(max_tokens=4))
    [(_, completion)] = engine.generate([Prompt(raw="Hi")], Sampling(max_tokens=4))

    assert isinstance(error, ModelError)
    assert isinstance(completion, Completion)


HOSTILE = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'A' * 3000000000 }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{% for m in messages %}hello{% endfor %}",
    "{% broken",
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_chat_template_is_one_error(template):
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(template, bos="", eos="", started=datetime.datetime(2026, 1, 1), seconds=0.3)


def test_a_model_with_a_hostile_chat_template_is_not_loaded(open_tiny):
    twice = "{{ messages[0]['content'] }}{{ messages[0]['content'] }}"
    engine = open_tiny("llama", made=tiny("llama", template=twice))

    with pytest.raises(ModelError, match="chat template"):
        engine.info  # noqa: B018


def test_a_kv_type_that_llama_cpp_does_not_know_is_refused(open_tiny):
    with pytest.raises(UsageError, match="q9_9"):
        open_tiny("llama", kv_type="q9_9").info  # noqa: B018


def test_a_head_size_that_is_no_number_is_llama_cpps_to_refuse(open_tiny):
    made = tiny("llama").set("llama.attention.key_length", STRING, "wide")

    with pytest.raises(ModelError, match="key_length"):
        open_tiny("llama", made=made).info  # noqa: B018


def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(open_tiny):
    engine = open_tiny("llama", gpu_layers="all")

    with pytest.raises(UsageError, match="GPU"):
        engine.info  # noqa: B018
