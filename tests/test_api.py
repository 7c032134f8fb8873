"""The Python door: the same path as the command, with iterators."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli import Llm
from llmcli.errors import MissingInput, UnusableAnswer, UsageError


def test_labels_come_in_order_with_their_probabilities(script):
    with Llm(script(replies={"love": {"good": 0.9, "bad": 0.1}, "broke": {"good": 0.2, "bad": 0.8}})) as llm:
        answers = list(llm.label(["I love it.", "It broke."], labels=["good", "bad"]))

    assert [(answer.text, pytest.approx(answer.p)) for answer in answers] == [("good", 0.9), ("bad", 0.8)]


def test_a_template_runs_with_its_parameters(script, asked):
    with Llm(script(default="Guten Tag", log="asked.jsonl")) as llm:
        (answer,) = llm.run("translate", "Good day", to="de")

    assert answer.text == "Guten Tag"
    assert "German" in asked()[0]["prompt"]


def test_texts_without_an_end_are_drawn_as_they_are_needed(script):
    def forever():
        number = 0
        while True:
            number += 1
            yield f"text {number}"

    with Llm(script(default="{last}")) as llm:
        answers = llm.run("title", forever())
        first = [next(answers).text for _ in range(3)]
        answers.close()

    assert len(first) == 3


def test_equal_texts_are_asked_once(script, asked):
    with Llm(script(default="A", log="asked.jsonl")) as llm:
        answers = [answer.text for answer in llm.run("title", ["same", "same", "other", "same"])]

    assert answers == ["A"] * 4
    assert len(asked()) == 2


def test_what_a_table_marks_as_missing_gives_an_empty_answer(script, asked):
    with Llm(script(default="A", log="asked.jsonl")) as llm:
        answers = [answer.text for answer in llm.run("title", [None, float("nan"), "", "text"])]

    assert answers == ["", "", "", "A"]
    assert len(asked()) == 1


def test_a_text_that_fails_raises_its_error(script):
    with Llm(script(default="A", fail={"poison": "UnusableAnswer: no idea"})) as llm:
        answers = llm.run("title", ["fine", "poison", "fine too"])

        assert next(answers).text == "A"
        with pytest.raises(UnusableAnswer, match="no idea"):
            next(answers)


def test_a_failure_can_stand_in_its_place(script):
    with Llm(script(default="A", fail={"poison": "UnusableAnswer: no idea"})) as llm:
        good, bad, other = llm.run("title", ["fine", "poison", "fine too"], errors="return")

    assert isinstance(bad, UnusableAnswer)
    assert [good.text, other.text] == ["A", "A"]


def test_mistakes_are_told_before_the_first_text_is_drawn(script):
    def never():
        raise AssertionError("a text was drawn")
        yield ""

    with Llm(script(default="A")) as llm:
        with pytest.raises(UsageError, match="nosuch"):
            llm.run("nosuch", never())
        with pytest.raises(UsageError, match="colour"):
            llm.run("title", never(), colour="red")
        with pytest.raises(UsageError, match="two labels"):
            llm.label(never(), labels=["one"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": {"temprature": 1}}, "no such sampling field: temprature"),
        ({"sampling": {"temperature": "hot"}}, "temperature is a number from 0"),
        ({"truncate": "all"}, "truncate is 'all'"),
        ({"errors": "ignore"}, "errors is 'ignore'"),
    ],
)
def test_a_setting_of_a_run_that_means_nothing_is_refused(script, settings, message):
    with Llm(script(default="A")) as llm, pytest.raises(UsageError, match=message):
        llm.run("title", ["a"], **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 11}, "no such option: speed"),
        ({"context": "5"}, "option context: expected int"),
        ({"parallel": 0}, "option parallel: 0 is below 1"),
        ({"lora": [("a.gguf", "much")]}, "option lora"),
    ],
)
def test_an_option_that_no_engine_can_have_is_refused(script, options, message):
    with pytest.raises(UsageError, match=message):
        Llm(script(default="A"), **options)


def test_a_model_and_an_adapter_may_be_paths(tmp_path):
    with pytest.raises(MissingInput, match="no model file"):
        Llm(tmp_path / "nowhere.gguf")
    with pytest.raises(MissingInput, match="no LoRA adapter"):
        Llm("starter", lora=[tmp_path / "nowhere.gguf"])


def test_labels_in_one_text_are_separated_by_commas(script):
    with Llm(script(scores="hash")) as llm:
        (answer,) = llm.label("Good.", labels="good, bad")

    assert set(answer.probabilities) == {"good", "bad"}


def test_a_number_is_not_a_text(script):
    with Llm(script(default="A")) as llm, pytest.raises(UsageError, match="int"):
        list(llm.run("title", [3]))


def test_importing_the_package_loads_next_to_nothing():
    code = (
        "import llmcli, sys; print([m for m in ('msgspec', 'yaml', 'jinja2', 'sqlite3') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_the_documented_lines_run_with_the_built_in_model(llm_env, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "rows.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", code], env=llm_env, cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["good", "bad"]
