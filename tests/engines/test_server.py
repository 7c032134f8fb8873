"""engines/server: any OpenAI-compatible server answers, labels, streams, refuses and fails as it should."""

import importlib.util
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from typing import Any

import pytest
from fake_server import Asked, FakeServer, Handler, Reply, chat, chunks, error, serving, top
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engines import open_engine
from llmcli.engines.base import EngineOptions
from llmcli.engines.server.client import Patience
from llmcli.engines.server.counting import estimate
from llmcli.engines.server.engine import ASSUMED_CONTEXT, ServerEngine
from llmcli.engines.server.protocol import Writing
from llmcli.engines.server.reference import parse
from llmcli.errors import (
    BackendUnreachable,
    InputTooLong,
    LlmError,
    ModelError,
    PermissionRefused,
    UnusableAnswer,
    UsageError,
)
from llmcli.messages import Completion, Message, Piece, Prompt, Sampling
from llmcli.paths import PACKAGE

QUICK = Patience(tries=3, first_pause=0.01, longest_pause=3.0, connect=2.0, read=2.0)
OPTIONS, GREEDY = EngineOptions(), Sampling()
LABELS = ("positive", "neutral", "negative")


def ask(text: str, **more: Any) -> Prompt:
    return Prompt((Message("user", text),), **more)


def engine_at(server: FakeServer, options: EngineOptions = OPTIONS, key: str = "") -> ServerEngine:
    return ServerEngine(parse(f"{server.url}#tiny"), options, key, QUICK)


@contextmanager
def answering(answer: Handler, **more: Any) -> Iterator[tuple[FakeServer, ServerEngine]]:
    """A server that answers so, and an engine that asks it."""
    options, key = more.pop("options", EngineOptions()), more.pop("key", "")
    with serving(answer, **more) as server, closing(engine_at(server, options, key)) as engine:
        yield server, engine


def echo(asked: Asked) -> Reply:
    return chat("echo " + asked.body["messages"][-1]["content"])


def one(engine: ServerEngine, prompt: Prompt | None = None, sampling: Sampling = GREEDY) -> Any:
    """The only answer."""
    ((position, answer),) = engine.generate([prompt or ask("hi")], sampling)
    assert position == 0
    return answer


def in_turn(*replies: Reply) -> Handler:
    """Each reply once, the last one forever."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


# --------------------------------------------------------------- opening


def test_a_reference_opens_the_server_and_takes_its_first_model():
    with serving(echo) as server, closing(open_engine(f"server:{server.url}", EngineOptions())) as engine:
        assert (engine.info.engine, engine.info.model) == ("server", "tiny")
        assert engine.info.settings == (server.url,)
        assert engine.info.context == ASSUMED_CONTEXT
        assert dict(engine.generate([ask("hi")], Sampling()))[0].text == "echo hi"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere", "not the URL of a server"),
        ("ftp://host/v1", "not the URL of a server"),
        ("http://host:port/v1", "not the URL of a server"),
        ("http://user:secret@host/v1", "may hold no password"),
        ("http://host/v1?key=secret", "may hold no query"),
    ],
)
def test_a_reference_that_is_no_server_is_a_usage_error(reference, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse(reference)
    assert "user:secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8080/v1", None),
        ("http://localhost/v1", None),
        ("http://[::1]:8080/v1", None),
        ("https://api.example.org/v1", "api.example.org"),
        ("http://192.168.1.4:8080", "192.168.1.4"),
        ("http://127.0.0.1.example.org/v1", "127.0.0.1.example.org"),
    ],
)
def test_it_is_known_whether_texts_leave_the_machine(url, host):
    reference = parse(url)

    assert (None if reference.is_local else reference.host) == host


def test_the_context_is_what_the_server_tells_or_the_user_asks():
    vllm = {"data": [{"id": "tiny", "max_model_len": 4096}]}
    with answering(echo, models=vllm) as (_, engine):
        assert engine.info.context == 4096

    def props(asked: Asked) -> Reply:
        return Reply({"default_generation_settings": {"n_ctx": 2048}, "build_info": "b1"})

    with answering(echo, others=props) as (_, engine):
        assert (engine.info.context, engine.info.build) == (2048, "b1")
    with answering(echo, options=EngineOptions(context=512)) as (_, engine):
        assert engine.info.context == 512


def test_a_server_without_a_list_of_models_needs_a_name():
    with serving(lambda asked: echo(asked) if asked.body else error(404), models=[]) as server:
        listing = server.answer
        server.answer = lambda asked: error(404) if asked.path == "/v1/models" else listing(asked)
        with closing(engine_at(server)) as engine:
            assert one(engine).text == "echo hi"
        with pytest.raises(UsageError, match="does not say which model"):
            ServerEngine(parse(server.url), EngineOptions(), "", QUICK)


def test_a_server_that_is_not_there_is_named():
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(BackendUnreachable, match=f"cannot reach {url}.*is the server running") as caught:
        ServerEngine(parse(f"{url}#tiny"), EngineOptions(), "", QUICK)
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("models", [b"<html>Hello</html>", {"no": "data"}, [1], "text"])
def test_what_is_no_such_server_breaks_protocol(models):
    with serving(echo, models=models) as server, pytest.raises(UnusableAnswer) as caught:
        engine_at(server)
    assert caught.value.exit_code == 76
    assert "OpenAI-compatible" in str(caught.value)


def test_a_port_that_speaks_no_http_breaks_protocol():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(UnusableAnswer, match="does not speak HTTP"):
            ServerEngine(
                parse(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"), EngineOptions(), "", QUICK
            )


# --------------------------------------------------------------- answers


def test_an_answer_comes_with_its_reason_counts_and_thinking():
    message = {"content": "  Yes.\n", "reasoning_content": "Hm."}
    with answering(lambda asked: chat("", "length", message=message)) as (
        _, engine,
    ):  # fmt: skip
        answer = one(engine)

    assert (answer.text, answer.finish_reason, answer.thinking) == ("  Yes.\n", "length", "Hm.")
    assert (answer.usage.prompt, answer.usage.answer) == (7, 3)


def test_the_request_holds_what_was_asked_and_the_key():
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=30, max_tokens=20, seed=3, stop=("\n",))
    system = Prompt((Message("system", "Be brief."), Message("user", "hi")), thinking=True)
    with answering(echo, key="sesame") as (server, engine):
        one(engine, system, sampling)
        (body,) = server.posted()

    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert (body["model"], body["max_tokens"], body["stop"]) == ("tiny", 20, ["\n"])
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 30)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert {asked.headers.get("authorization") for asked in server.asked} == {"Bearer sesame"}


def test_without_a_key_none_is_sent():
    with answering(echo) as (server, engine):
        one(engine)
    assert all("authorization" not in asked.headers for asked in server.asked)


def test_the_seed_depends_on_text_and_sample_alone():
    with answering(echo) as (server, engine):
        for text, sample in [("a", 0), ("b", 0), ("a", 1), ("a", 0)]:
            one(engine, ask(text), Sampling(temperature=1, seed=5, sample=sample))
        seeds = [body["seed"] for body in server.posted()]

    assert seeds[0] == seeds[3]
    assert len(set(seeds)) == 3


def test_a_raw_prompt_is_completed_as_it_stands():
    def complete(asked: Asked) -> Reply:
        return Reply({"choices": [{"text": " a time", "finish_reason": "length"}]})

    with answering(complete) as (server, engine):
        answer = one(engine, Prompt(raw="Once upon"), Sampling(max_tokens=2))
        assert [body["prompt"] for body in server.posted("/v1/completions")] == ["Once upon"]

    assert (answer.text, answer.finish_reason) == (" a time", "length")


def test_a_message_is_continued_where_it_ends():
    with answering(echo) as (server, engine):
        one(engine, Prompt((Message("user", "a"), Message("assistant", "b")), continue_last=True))
        assert server.posted()[0]["continue_final_message"] is True


def test_an_empty_answer_is_degenerate_and_not_silent():
    with answering(lambda asked: chat("")) as (_, engine):
        assert one(engine).finish_reason == "degenerate"


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"choices": [{"index": 0, "message": {"content": "cut"}}]}),
        chat("", "content_filter"),
        Reply({"object": "thing"}),
        Reply({"choices": [3]}),
        Reply({"choices": [{"message": "said", "finish_reason": "stop"}]}),
        Reply([]),
        Reply(b"not json"),
        Reply(b"[" * 100_000),
    ],
)
def test_an_answer_that_breaks_protocol_is_that_prompts_error(reply):
    with answering(in_turn(reply, chat("fine"))) as (_, engine):
        assert isinstance(one(engine), UnusableAnswer)
        assert one(engine).text == "fine"


def test_what_a_server_does_not_know_is_left_out_from_then_on():
    def strict(asked: Asked) -> Reply:
        unknown = set(asked.body) - {
            "model",
            "messages",
            "temperature",
            "top_p",
            "seed",
            "max_tokens",
            "stop",
        }
        return error(400, f"Unrecognized request arguments: {unknown}") if unknown else echo(asked)

    with answering(strict) as (server, engine):
        sampling = Sampling(temperature=1)
        assert one(engine, sampling=sampling).text == "echo hi"
        assert one(engine, sampling=sampling).text == "echo hi"
        assert len(server.posted()) == 3


# ---------------------------------------------------------- many prompts


def test_prompts_are_drawn_as_they_are_worked_on():
    drawn = itertools.count()
    seen: list[int] = []

    def prompts() -> Iterator[Prompt]:
        for number in drawn:
            seen.append(number)
            yield ask(str(number))

    with answering(echo, options=EngineOptions(parallel=2)) as (_, engine):
        answers = engine.generate(prompts(), Sampling())
        assert seen == []
        first = [next(answers) for _ in range(5)]
        assert all(answer.text == f"echo {position}" for position, answer in first)
        time.sleep(0.1)
        assert len(seen) <= 5 + 4 + 2
        answers.close()


def test_answers_come_in_the_order_in_which_they_are_ready():
    first_waits = threading.Event()

    def slow(asked: Asked) -> Reply:
        if asked.body["messages"][-1]["content"] == "0":
            first_waits.wait(60)
        return echo(asked)

    with answering(slow) as (_, engine):
        answers = engine.generate([ask(str(number)) for number in range(4)], Sampling())
        early = [next(answers)[0] for _ in range(3)]
        first_waits.set()
        assert sorted(early) == [1, 2, 3]
        assert [position for position, _ in answers] == [0]


def test_a_source_that_waits_does_not_delay_finished_answers():
    more, waited = threading.Event(), []

    def prompts() -> Iterator[Prompt]:
        yield ask("first")
        waited.append(more.wait(60))
        yield ask("second")

    with answering(echo) as (_, engine):
        answers = engine.generate(prompts(), Sampling())
        assert next(answers)[1].text == "echo first"
        assert waited == []
        more.set()
        assert next(answers)[1].text == "echo second"


def test_at_most_as_many_as_asked_run_at_once():
    running, most, lock = 0, 0, threading.Lock()

    def count(asked: Asked) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return echo(asked)

    with answering(count, options=EngineOptions(parallel=3)) as (_, engine):
        assert len(list(engine.generate([ask("x")] * 20, Sampling()))) == 20
    assert most == 3
    most = 0
    with answering(count, options=EngineOptions(parallel=3, sequential=True)) as (_, engine):
        list(engine.generate([ask("x")] * 4, Sampling()))
    assert most == 1


def test_an_error_of_the_source_reaches_the_reader():
    def prompts() -> Iterator[Prompt]:
        yield ask("a")
        raise InputTooLong("the source says so")

    with answering(echo) as (_, engine), pytest.raises(InputTooLong, match="the source says so"):
        list(engine.generate(prompts(), Sampling()))


def test_one_prompts_failure_leaves_the_others():
    def picky(asked: Asked) -> Reply:
        bad = asked.body["messages"][-1]["content"] == "bad"
        return error(400, "I will not") if bad else echo(asked)

    with answering(picky) as (_, engine):
        answers = dict(engine.generate([ask("a"), ask("bad"), ask("b")], Sampling()))
    assert [type(answers[number]) for number in (0, 2)] == [Completion, Completion]
    assert isinstance(answers[1], LlmError)


def test_closing_breaks_off_what_is_under_way():
    asked_once, gone = threading.Event(), threading.Event()

    def hang(asked: Asked) -> Reply:
        asked_once.set()
        gone.wait(60)
        return chat("x" * 10_000_000)  # more than a socket takes when nobody reads

    with answering(hang, options=EngineOptions(parallel=1)) as (server, engine):
        answers = engine.generate([ask("a")] * 3, Sampling())
        reader = threading.Thread(target=lambda: list(answers), daemon=True)
        reader.start()
        assert asked_once.wait(60)
        engine.close()
        reader.join(30)
        assert not reader.is_alive()  # although the server still thinks
        gone.set()
        assert server.closed.wait(60)


# ------------------------------------------------------------- streaming


def test_a_stream_comes_piece_by_piece_and_ends_with_the_answer():
    with answering(lambda asked: chunks("Good", " ", "day", "\n")) as (server, engine):
        *pieces, last = engine.stream(ask("hi"), Sampling())
        assert server.posted()[0]["stream"] is True

    assert pieces == [Piece("Good"), Piece(" "), Piece("day"), Piece("\n")]
    assert isinstance(last, Completion)
    assert (last.text, last.finish_reason, last.usage.answer) == ("Good day\n", "stop", 4)


def test_a_stream_without_extras_is_asked_where_the_server_refuses_them():
    def strict(asked: Asked) -> Reply:
        return error(400, "unknown field") if "stream_options" in asked.body else chunks("yes")

    with answering(strict) as (_, engine):
        assert list(engine.stream(ask("hi"), Sampling()))[-1].text == "yes"


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (chunks("half", finish=None), UnusableAnswer, "without a reason"),
        (chunks("half", finish=None, done=False), UnusableAnswer, "without a reason"),
        (Reply(events=[]), UnusableAnswer, "sent no event"),
        (Reply(events=["data: {oops"]), UnusableAnswer, "did not answer in JSON"),
        (
            Reply(events=[{"error": {"message": "out of memory", "code": 500}}]),
            BackendUnreachable,
            "out of memory",
        ),
        (
            Reply(events=[{"error": {"message": "maximum context length is 10 tokens"}}]),
            InputTooLong,
            "context",
        ),
        (Reply(events=chunks("half").events, drop=30), BackendUnreachable, "broke off"),
        (error(401, "no"), PermissionRefused, "LLMCLI_API_KEY"),
    ],
)
def test_a_broken_stream_is_an_error(reply, kind, message):
    with answering(lambda asked: reply) as (_, engine), pytest.raises(kind, match=message):
        list(engine.stream(ask("hi"), Sampling()))


def test_events_of_other_kinds_and_keep_alives_are_passed_over():
    events: list[Any] = [": ping", "event: message", *(chunks("a", "b").events or [])]
    with answering(lambda asked: Reply(events=events)) as (_, engine):
        assert list(engine.stream(ask("hi"), Sampling()))[-1].text == "ab"


THINKING = [
    ("plain", "plain", ""),
    ("<think>hm</think>\n\nYes", "Yes", "hm"),
    ("\n<think>\n\n</think>\n\nYes <think>", "Yes <think>", "\n\n"),
    ("<think>never ends", "", "never ends"),
    ("<thin", "<thin", ""),
    ("  ", "  ", ""),
    ("<b>bold</b>", "<b>bold</b>", ""),
    ("<think>a</thin</think>b", "b", "a</thin"),
]


@pytest.mark.parametrize(("sent", "text", "thinking"), THINKING)
@given(data=st.data())
@settings(max_examples=30)
def test_thinking_is_told_apart_however_the_stream_is_cut(sent, text, thinking, data):
    writing = Writing("url")
    pieces: list[Piece] = []
    left = sent
    while left:
        size = data.draw(st.integers(1, len(left)))
        pieces += writing.pieces({"choices": [{"delta": {"content": left[:size]}}]})
        left = left[size:]
    pieces += writing.pieces({"choices": [{"delta": {}, "finish_reason": "length"}]})
    answer = writing.finish()

    assert (answer.text, answer.thinking) == (text, thinking)
    assert "".join(piece.text for piece in pieces if not piece.thinking) == text


def test_a_stream_and_an_answer_give_the_same_text():
    sent = "<think>hm</think>\n Good day"

    def both(asked: Asked) -> Reply:
        return chunks(*sent) if asked.body.get("stream") else chat(sent)

    with answering(both) as (_, engine):
        streamed = list(engine.stream(ask("hi"), Sampling()))[-1]
        assert streamed.text == one(engine).text == "Good day"


# ---------------------------------------------------------------- labels


def scored(engine: ServerEngine, labels: tuple[str, ...] = LABELS) -> Any:
    ((_, answer),) = engine.score([ask("Is it good?")], labels)
    return answer


def test_labels_are_scored_by_the_first_tokens_probabilities():
    reply = top(("pos", math.log(0.6)), ("ne", math.log(0.001)), (" Negative", math.log(0.2)), ("The", -3))
    with answering(lambda asked: reply) as (server, engine):
        answer = scored(engine)
        assert (
            server.posted()[0] | {"logprobs": True, "top_logprobs": 20, "max_tokens": 1} == server.posted()[0]
        )

    assert (answer.label, answer.method) == ("positive", "first-token")
    assert answer.probabilities == pytest.approx((0.75, 0.0, 0.25))
    assert sum(answer.probabilities) == pytest.approx(1)


def test_a_temperature_scale_flattens_the_probabilities():
    reply = top(("pos", math.log(0.8)), ("neg", math.log(0.2)))
    with answering(lambda asked: reply, options=EngineOptions(temperature_scale=2.0)) as (_, engine):
        assert scored(engine).p == pytest.approx(2 / 3)


def chooser(text: str, **tops: float) -> Handler:
    """Gives top log-probabilities where asked, and chooses `text` where a choice is asked for."""

    def answer(asked: Asked) -> Reply:
        if "top_logprobs" in asked.body:
            return top(*[(token, math.log(p)) for token, p in tops.items()]) if tops else chat("x")
        return chat(text)

    return answer


NOISE = {"<think>": 0.9999, " Neg": 3e-7, "pos": 6e-9}  # a model that thinks first


@pytest.mark.parametrize("tops", [{}, {"ne": 0.9, "pos": 0.1}, {"The": 1.0}, {"<think>": 1.0}, NOISE])
def test_where_first_tokens_do_not_tell_labels_apart_the_server_chooses(tops):
    with answering(chooser('{"label": "negative"}', **tops)) as (server, engine):
        answer = scored(engine)
        (schema,) = [
            body["response_format"]["json_schema"]["schema"]
            for body in server.posted()
            if "response_format" in body
        ]

    assert (answer.label, answer.method, answer.p) == ("negative", "choice", None)
    assert schema["properties"]["label"]["enum"] == list(LABELS)


@pytest.mark.parametrize(
    "said", ['{ "label" : "Neutral" }', "neutral", "Neutral.", '"neutral"', "**neutral**\n"]
)
def test_a_choice_is_understood_in_json_and_in_plain_words(said):
    with answering(chooser(said)) as (_, engine):
        assert scored(engine).label == "neutral"


@pytest.mark.parametrize("said", ["It is good", '{"label": "great"}', '{"mood": "neutral"}', "[]", "{"])
def test_a_choice_of_something_else_is_an_error_not_a_guess(said):
    with answering(chooser(said)) as (_, engine):
        assert isinstance(scored(engine), UnusableAnswer)


def test_a_server_that_refuses_log_probabilities_is_asked_for_them_once():
    def refusing(asked: Asked) -> Reply:
        return error(400, "logprobs are not available") if "logprobs" in asked.body else chat("neutral")

    with answering(refusing, options=EngineOptions(sequential=True)) as (server, engine):
        answers = list(engine.score([ask("a"), ask("b"), ask("c")], LABELS))
        assert [answer.label for _, answer in answers] == ["neutral"] * 3
        assert sum("logprobs" in body for body in server.posted()) == 2  # with and without the extras


def llama_cpp_python(asked: Asked) -> Reply:
    """Knows `json_object` with a schema only, and answers 500 to what it does not understand."""
    form = asked.body.get("response_format")
    if "logprobs" in asked.body:
        return error(500, "logprobs is not supported for models created with logits_all=False")
    if form and form["type"] == "json_schema":
        return error(500, "1 validation error: Input should be 'text' or 'json_object'")
    return chat('{"label": "neutral"}' if form else "?")


def test_the_way_of_asking_for_json_that_a_server_takes_is_remembered():
    with answering(llama_cpp_python, options=EngineOptions(sequential=True)) as (server, engine):
        assert [answer.label for _, answer in engine.score([ask("a")] * 3, LABELS)] == ["neutral"] * 3
        kinds = [body["response_format"]["type"] for body in server.posted() if "response_format" in body]
        assert kinds.count("json_schema") <= 2
        assert one(engine, sampling=Sampling(schema='{"type": "object"}')).text == '{"label": "neutral"}'
        assert server.posted()[-1]["response_format"] == {"type": "json_object", "schema": {"type": "object"}}


def test_a_server_that_takes_no_schema_refuses_one_and_still_labels():
    def plain(asked: Asked) -> Reply:
        return (
            error(400, "response_format is unknown") if "response_format" in asked.body else chat("neutral")
        )

    with answering(plain) as (_, engine):
        assert scored(engine).label == "neutral"
        assert isinstance(one(engine, sampling=Sampling(schema='{"type": "object"}')), UnusableAnswer)
        assert scored(engine).label == "neutral"


def test_a_grammar_goes_to_a_llama_server_alone():
    grammar = Sampling(grammar='root ::= "yes"')
    with answering(echo) as (_, engine):
        assert isinstance(one(engine, sampling=grammar), UsageError)
    with answering(echo, others=lambda asked: Reply({"default_generation_settings": {}})) as (server, engine):
        one(engine, sampling=grammar)
        assert server.posted()[0]["grammar"] == 'root ::= "yes"'


# -------------------------------------------------------------- counting


def words(asked: Asked) -> Reply:
    """A llama-server's tokenizer, for which a word is a token."""
    if asked.path == "/tokenize":
        return Reply({"tokens": list(range(len(asked.body["content"].split())))})
    if asked.path == "/apply-template":
        return Reply({"prompt": " ".join("<turn> " + one["content"] for one in asked.body["messages"])})
    return error(404)


def test_tokens_are_counted_by_a_llama_server():
    with answering(echo, others=words) as (_, engine):
        assert engine.count_tokens(["one two", "", "three", ask("four five")]) == [2, 0, 1, 4]


def test_tokens_are_counted_by_llama_cpp_python():
    def extras(asked: Asked) -> Reply:
        found = asked.path == "/extras/tokenize/count"
        return Reply({"count": len(asked.body["input"].split())}) if found else error(404, "Not Found")

    with answering(echo, others=extras) as (_, engine):
        assert engine.count_tokens(["one two", "three"]) == [2, 1]
        assert 2 < engine.count_tokens([ask("one two")])[0] < 40


def test_tokens_are_estimated_where_nobody_counts_them():
    text = "It rained all day, and nobody went out. " * 10
    with answering(echo) as (_, engine):
        assert engine.count_tokens([text]) == [estimate(text)]
        assert engine.count_tokens(["a"] * 1000) == [1] * 1000
    assert len(text.split()) < estimate(text) < len(text) / 2


@pytest.mark.parametrize("status", [404, 405, 500, 501, 503])
def test_a_door_that_fails_is_as_one_that_is_not_there(status):
    with answering(echo, others=lambda asked: error(status, "nope")) as (_, engine):
        assert engine.count_tokens(["one two"]) == [estimate("one two")]
        assert engine.count_tokens([ask("one two")])[0] > 2


def test_halves_of_characters_and_odd_counts_end_nothing():
    reply = Reply({
        "choices": [{"message": {"content": "hi \ud83d"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10**30, "completion_tokens": -4},
    })  # fmt: skip
    with answering(lambda asked: reply) as (_, engine):
        ((_, answer),) = engine.generate([ask("hello")], Sampling())

    assert answer.text == "hi \ufffd"
    assert answer.usage.prompt == 0
    answer.text.encode()


# ------------------------------------------------ what passes, and what not


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status):
    with answering(in_turn(error(status, "busy"), error(status, "busy"), chat("now"))) as (server, engine):
        assert one(engine).text == "now"
        assert len(server.posted()) == 3


def test_a_dropped_connection_is_asked_again():
    with answering(in_turn(Reply({}, drop=0), chat("now"))) as (_, engine):
        assert one(engine).text == "now"


def test_it_gives_up_after_so_many_tries():
    with answering(lambda asked: error(503, "loading model")) as (server, engine):
        answer = one(engine)
        assert len(server.posted()) == QUICK.tries

    assert isinstance(answer, BackendUnreachable)
    assert "503 loading model" in str(answer)


@pytest.mark.parametrize("status", [400, 402, 405, 409, 413, 418, 422])
def test_another_4xx_is_never_asked_again(status):
    with answering(lambda asked: error(status, "no")) as (server, engine):
        assert isinstance(one(engine, Prompt(raw="x")), LlmError)
        assert len(server.posted("/v1/completions")) == 1


def test_retry_after_is_honoured_in_seconds_and_as_a_date():
    for value in (lambda: "0.3", lambda: formatdate(time.time() + 1.3, usegmt=True)):
        busy = error(429, "slow down", {"retry-after": value()})
        with answering(in_turn(busy, chat("now"))) as (_, engine):
            began = time.monotonic()
            assert one(engine).text == "now"
            assert time.monotonic() - began > 0.15


def test_a_pause_that_is_too_long_is_not_waited_for():
    with answering(lambda asked: error(429, "quota", {"retry-after": "3600"})) as (server, engine):
        assert isinstance(one(engine), BackendUnreachable)
        assert len(server.posted()) == 1


def test_a_server_that_does_not_answer_in_time_is_unreachable():
    patience = Patience(tries=2, first_pause=0.01, read=0.2)
    with (
        serving(lambda asked: time.sleep(1) or chat("late")) as server,
        closing(ServerEngine(parse(f"{server.url}#tiny"), OPTIONS, "", patience)) as engine,
    ):
        answer = one(engine)
    assert isinstance(answer, BackendUnreachable)
    assert "in time" in str(answer)


@pytest.mark.parametrize(("key", "hint"), [("", "set LLMCLI_API_KEY"), ("wrong", "check LLMCLI_API_KEY")])
@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_or_wrong_key_is_named_and_never_shown(status, key, hint):
    with serving(echo) as server:
        server.answer = lambda asked: error(status, "invalid api key")
        with pytest.raises(PermissionRefused, match=hint) as caught:
            engine_at(server, key=key)
    assert caught.value.exit_code == 77
    assert "wrong" not in str(caught.value)


def test_an_unknown_model_is_a_model_error():
    with answering(lambda asked: error(404, "The model `tiny` does not exist", code="model_not_found")) as (
        _,
        engine,
    ):
        answer = one(engine)
    assert isinstance(answer, ModelError)
    assert "after the #" in str(answer)


OVERFLOWS = [
    error(400, "This model's maximum context length is 512 tokens. However, you requested 625 tokens "
          "(605 in the messages, 20 in the completion).", code="context_length_exceeded"),
    error(400, "the request exceeds the available context size, try increasing it",
          type="exceed_context_size_error", n_prompt_tokens=605, n_ctx=512),
    error(400, "'max_tokens' is too large: 20. This model's maximum context length is 512 tokens and "
          "your request has 605 input tokens"),
    Reply({"object": "error", "message": "This model's maximum context length is 512 tokens. However, your "
           "messages resulted in 605 tokens."}, 400),
]  # fmt: skip


@pytest.mark.parametrize("reply", OVERFLOWS)
def test_an_overflow_of_the_context_gives_both_numbers(reply):
    with answering(lambda asked: reply) as (_, engine):
        answer = one(engine)
    assert isinstance(answer, InputTooLong)
    assert (answer.tokens, answer.context) == (605, 512)
    assert str(answer).startswith("the text is 605 tokens and the server's context is 512")


def test_a_redirect_to_another_host_is_not_followed():
    reached: list[Asked] = []

    def elsewhere(asked: Asked) -> Reply:
        reached.append(asked)
        return chat("stolen")

    other = FakeServer(elsewhere)
    moved = Reply({}, 307, {"location": f"http://127.0.0.1:{other.port}/v1/chat/completions"})
    with closing(other), answering(lambda asked: moved, key="sesame") as (_, engine):
        answer = one(engine)
    assert isinstance(answer, UnusableAnswer)
    assert "redirects to" in str(answer)
    assert reached == []


def test_a_redirect_on_the_same_host_is_followed_and_a_circle_is_left():
    def moved(asked: Asked) -> Reply:
        return echo(asked) if asked.path.endswith("/new") else Reply({}, 308, {"location": "/v1/new"})

    with answering(moved) as (_, engine):
        assert one(engine).text == "echo hi"
    with answering(lambda asked: Reply({}, 302, {"location": asked.path})) as (_, engine):
        assert "in a circle" in str(one(engine))


def test_no_proxy_is_asked_for_this_machine():
    """Else a text for a model on this machine would go to whatever HTTP_PROXY names."""
    with serving(echo) as server:
        code = (
            "from llmcli.engines import open_engine; from llmcli.engines.base import EngineOptions\n"
            f"print(open_engine('server:{server.url}', EngineOptions()).info.model)"
        )
        environment = os.environ | {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    assert done.stdout == "tiny\n"


# ---------------------------------------------------------- the command


def test_the_command_labels_by_a_server_on_this_machine_without_a_word_of_privacy(llm):
    reply = top(("pos", math.log(0.9)), ("neg", math.log(0.1)))
    with serving(lambda asked: reply) as server:
        command = ("sentiment", "-m", f"server:{server.url}", "--json", "--text", "Fine!")
        done = llm(*command, env={"LLMCLI_API_KEY": "sesame"})
        keys = {asked.headers.get("authorization") for asked in server.asked}

    assert (done.code, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["sentiment"], answer["method"], answer["model"]) == ("positive", "first-token", "tiny")
    assert keys == {"Bearer sesame"}


def test_the_command_says_when_a_text_leaves_the_machine(llm):
    done = llm("sentiment", "-m", "server:http://example.invalid/v1#x", "--text", "hi")

    assert done.code == 69
    note, problem = done.stderr.splitlines()
    assert note == "llm: note: the text is sent to example.invalid"
    assert problem.startswith("llm: error: cannot reach http://example.invalid/v1/models")


@pytest.mark.parametrize(("status", "code"), [(401, 77), (500, 69), (418, 76)])
def test_the_command_ends_with_the_code_of_what_went_wrong(llm, status, code):
    refusal = error(status, "no", {"retry-after": "999"})
    with serving(lambda asked: refusal) as server:
        done = llm("title", "-m", f"server:{server.url}", "--text", "hi")

    assert (done.code, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llm: error: {server.url}/chat/completions")


# ---------------------------------------------------------- a real server

# As the local engine does: llama.cpp would crash in Intel's AMX units where some compilers built it.
REAL_SERVER = """
from llmcli.engines.llama import amx

amx.keep_off()
from llama_cpp.server.__main__ import main

main()
"""
NEEDED = ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")


def test_llama_cpp_pythons_own_server_answers_streams_and_labels(tmp_path):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"llama_cpp.server needs {', '.join(missing)} (the extra `test`)")
    model = PACKAGE / "models" / "starter" / "starter.gguf"
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    options = ["--model", str(model), "--port", str(port), "--n_ctx", "512", "--logits_all", "true"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", REAL_SERVER, *options, "--host", "127.0.0.1", "--verbose", "false"],
        stdout=log, stderr=log, cwd=tmp_path,
    )  # fmt: skip
    try:
        engine = _when_ready(port, process)
        with closing(engine):
            _check_real(engine)
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _when_ready(port: int, process: subprocess.Popen[bytes]) -> ServerEngine:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            return ServerEngine(
                parse(f"http://127.0.0.1:{port}"), EngineOptions(parallel=2), "", Patience(tries=1)
            )
        except BackendUnreachable:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def _check_real(engine: ServerEngine) -> None:
    question = "Is the sentiment of this text positive, neutral or negative?\n\n"
    texts = ["I love this phone!", "It broke after two days. Terrible.", "I love it, it is great!"]

    scores = dict(engine.score([ask(question + text) for text in texts], ("positive", "negative")))
    assert [scores[number].method for number in range(3)] == ["first-token"] * 3
    assert [scores[number].label for number in range(2)] == ["positive", "negative"]
    assert scores[0].p > 0.5

    # Its tokens for "unhappy" and "unfavourable" both begin with "un": there the server has to choose.
    ((_, choice),) = engine.score([ask(question + texts[1])], ("positive", "unhappy", "unfavourable"))
    assert (choice.method, choice.p) == ("choice", None)

    short = Sampling(max_tokens=8)
    *pieces, streamed = engine.stream(ask("Hello, how are you?"), short)
    assert "".join(piece.text for piece in pieces) == streamed.text != ""
    assert one(engine, ask("Hello, how are you?"), short).text == streamed.text
    assert one(engine, Prompt(raw="Once upon a time"), short).text

    schema = '{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}'
    assert json.loads(one(engine, ask("Give me n."), Sampling(schema=schema, max_tokens=40)).text)["n"] in (
        1,
        2,
    )

    with closing(open_engine("starter", EngineOptions())) as here:
        assert engine.count_tokens(["Hello there"]) == here.count_tokens(["Hello there"])
    too_long = one(engine, ask("word " * 600), short)
    assert isinstance(too_long, InputTooLong)
    assert too_long.context == 512 < too_long.tokens
