"""A template is read strictly, and renders what it says and nothing more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from llmcli.errors import BadConfig, MissingInput, UsageError
from llmcli.messages import Message
from llmcli.paths import shipped
from llmcli.registry import RESERVED, Found, help_line
from llmcli.templates import (
    check_template,
    check_values,
    label_set,
    load_template,
    render,
    render_extract,
    render_reduce,
    sampling_for,
    schema_for,
    starter,
    with_overrides,
)

BUILT_IN = sorted(path.stem for path in shipped("prompts").glob("*.yaml"))


def built_in(name):
    return load_template(Found(name, shipped("prompts") / f"{name}.yaml", "built in"))


def rendered(name, text="TEXT", **values):
    template = built_in(name)
    return render(template, text, check_values(template, values)).messages[-1].content


@pytest.fixture
def load(tmp_path):
    """Load a template from its YAML."""

    def read(yaml, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        return load_template(Found(name, path, "user"))

    return read


# ------------------------------------------------------------ the built-in prompts

# The built-in model is trained on exactly these messages: a change here is a new model.
TRAINED_ON = [
    ("sentiment", {}, "Is the sentiment of this text positive, neutral or negative?\n\nTEXT"),
    ("label", {"labels": "spam, ham"}, "Which of these labels fits this text: spam, ham?\n\nTEXT"),
    ("translate", {"to": "de"}, "Translate this text to German:\n\nTEXT"),
    ("translate", {"to": "Klingon", "from": "fr"}, "Translate this text to Klingon from French:\n\nTEXT"),
    ("title", {}, "TEXT\n\nWrite a short title for the text above."),
    ("summarize", {"length": "short"}, "TEXT\n\nSummarize the text above in one sentence."),
    ("ask", {"question": "Who?"}, "TEXT\n\nAnswer this question about the text above: Who?"),
    ("chat", {}, "TEXT"),
]


@pytest.mark.parametrize(("name", "values", "message"), TRAINED_ON)
def test_the_messages_that_the_built_in_model_is_trained_on(name, values, message):
    assert message == rendered(name, **values)


def test_the_question_about_a_sentence_stands_between_document_and_sentence():
    prompt = render_extract(built_in("summarize"), "The document.\n", "A sentence.", (3, 40), {})
    question = "Is this sentence a main point of the text above, yes or no? It is sentence 3 of 40."
    assert (Message("user", f"The document.\n\n{question}\n\nA sentence."),) == prompt.messages


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_template_passes_its_own_check(name):
    template, problems = check_template(Found(name, shipped("prompts") / f"{name}.yaml", "built in"))
    assert problems == []
    assert template is not None
    assert template.help
    assert all(param.help for param in template.params)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_listing_says_what_the_template_says(name):
    assert help_line(shipped("prompts") / f"{name}.yaml") == built_in(name).help


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"code"}))
def test_built_in_templates_send_no_system_message(name):
    template = built_in(name)
    needed = {param.name: "x,y" for param in template.params if param.required}
    assert [message.role for message in render(template, "t", check_values(template, needed)).messages] == [
        "user"
    ]


@pytest.mark.parametrize(
    ("to", "language"), [("DE", "German"), ("german", "German"), ("Plattdeutsch", "Plattdeutsch")]
)
def test_a_language_is_a_code_or_a_name_and_an_unknown_one_is_taken_as_typed(to, language):
    assert rendered("translate", to=to).startswith(f"Translate this text to {language}:")


def test_norway_is_a_language():
    assert rendered("translate", to="no").startswith("Translate this text to Norwegian:")


def test_every_length_and_style_of_a_summary_asks_for_something_else():
    asked = {
        rendered("summarize", length=length, style=style)
        for length in ("short", "medium", "long")
        for style in ("paragraph", "bullets")
    }
    assert len(asked) == 6


def test_facts_are_asked_for_as_an_object_with_these_fields():
    template = built_in("extract")
    values = check_values(template, {"fields": "name,date"})
    schema = schema_for(template, values)
    assert ["name", "date"] == schema["required"] == list(schema["properties"])
    assert schema == json.loads(sampling_for(template, values, {}).schema)


# ------------------------------------------------------------ rendering


@given(st.text())
def test_a_text_stands_in_its_prompt_word_for_word(text):
    assert text.strip() in rendered("sentiment", text)


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{# gone #}", "{{ to }}", "<|end|>", "\\n"])
def test_nothing_in_a_text_is_read_as_template_language(text):
    assert f"Translate this text to German:\n\n{text}" == rendered("translate", text, to="de")


def test_blank_lines_around_a_text_go_and_its_indentation_stays():
    assert (
        rendered("title", "\n \n  first\n\nlast\n\n\n")
        == "  first\n\nlast\n\nWrite a short title for the text above."
    )


def test_a_value_is_not_read_as_template_language_either():
    assert rendered("ask", question="{{ text }}?").endswith("about the text above: {{ text }}?")


def test_examples_become_earlier_turns(load):
    template = load(
        "help: h\nsystem: Be brief.\nprompt: 'Mood of: {{ text }}'\nlabels: [good, bad]\n"
        "examples:\n  - {text: It broke., reply: bad}\n"
    )
    assert (
        Message("system", "Be brief."),
        Message("user", "Mood of: It broke."),
        Message("assistant", "bad"),
        Message("user", "Mood of: Fine."),
    ) == render(template, "Fine.", {}).messages


def test_the_answers_to_parts_are_joined_by_the_reduce_prompt():
    prompt = render_reduce(built_in("ask"), ["One. ", "Two."], {"question": "Who?"})
    assert prompt.text == "One.\n\nTwo.\n\nAnswer this question about the text above: Who?"


# ------------------------------------------------------------ values


def test_a_missing_value_is_a_usage_error_that_names_the_option():
    with pytest.raises(UsageError, match="translate needs --to"):
        check_values(built_in("translate"), {"to": None})


def test_a_list_may_have_commas_within_quotes():
    given = check_values(built_in("label"), {"labels": 'spam, "ham,\nand eggs" ,"so ""fine""","A" side'})

    assert given["labels"] == ["spam", "ham,\nand eggs", 'so "fine"', '"A" side']


def test_an_unknown_value_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"no parameter 'langth' \(did you mean 'length'"):
        check_values(built_in("summarize"), {"langth": "short"})


def test_a_number_is_a_choice_however_it_is_written(load):
    template = load(GOOD + "params:\n  x: {type: float, choices: [1, 2.5], default: 1}\n")

    assert [check_values(template, {"x": said})["x"] for said in ("1", "1.0", "2.5", None)] == [1, 1, 2.5, 1]


def test_a_value_that_is_no_choice_is_refused_with_the_choices():
    with pytest.raises(
        UsageError, match=r"--length is one of short, medium, long, not 'shrt' \(did you mean 'short'"
    ):
        check_values(built_in("summarize"), {"length": "shrt"})


@pytest.mark.parametrize(
    ("kind", "given", "made"),
    [
        ("str", "7", "7"),
        ("int", "7", 7),
        ("float", "0.5", 0.5),
        ("bool", "yes", True),
        ("bool", False, False),
        ("list", " a, b,,c ", ["a", "b", "c"]),
        ("list", ["a,b"], ["a,b"]),
    ],
)
def test_what_comes_from_the_command_line_becomes_the_parameters_type(load, kind, given, made):
    template = load(f"help: h\nprompt: '{{{{ text }}}}{{{{ x }}}}'\nparams: {{x: {{type: {kind}}}}}\n")
    assert {"x": made} == check_values(template, {"x": given})


@pytest.mark.parametrize(
    ("kind", "given"), [("int", "seven"), ("float", "nan"), ("bool", "maybe"), ("int", "1.5")]
)
def test_a_value_of_another_type_is_refused(load, kind, given):
    template = load(f"help: h\nprompt: '{{{{ text }}}}{{{{ x }}}}'\nparams: {{x: {{type: {kind}}}}}\n")
    with pytest.raises(UsageError, match="--x is "):
        check_values(template, {"x": given})


@pytest.mark.parametrize("labels", ["spam", "", "a,a", ","])
def test_a_label_set_has_two_different_labels_at_least(labels):
    template = built_in("label")
    with pytest.raises(UsageError):
        label_set(template, check_values(template, {"labels": labels}))


def test_the_users_sampling_stands_over_the_templates():
    template = built_in("title")
    assert sampling_for(template, {}, {"max_tokens": None}).max_tokens == 64
    assert sampling_for(template, {}, {"max_tokens": 9}).max_tokens == 9


def test_an_answer_in_a_form_is_not_searched_with_a_models_beams():
    searched = structs.replace(built_in("title"), sampling={"beams": 4})

    assert sampling_for(searched, {}, {}).beams == 4
    assert sampling_for(searched, {}, {"grammar": "root ::= [a-z]+"}).beams == 1
    assert sampling_for(searched, {}, {"grammar": "root ::= [a-z]+", "beams": 2}).beams == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1), ("temperature", float("nan")), ("top_p", 0), ("top_k", 2**31),
        ("max_tokens", 0), ("max_tokens", 2**31), ("seed", 2**63),
    ],
)  # fmt: skip
def test_sampling_out_of_range_is_a_usage_error(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        sampling_for(built_in("title"), {}, {name: value})


# ------------------------------------------------------------ reading

GOOD = "help: h\nprompt: '{{ text }}'\n"

BAD = [
    ("", 1, "empty"),
    ("just a text\n", 1, "a template is a mapping"),
    ("- a\n- b\n", 1, "a template is a mapping"),
    ("help: h\n", 1, "'prompt' is missing"),
    ("prompt: '{{ text }}'\nhelp: h\n", 1, "the first line is `help:"),
    ("help:\nprompt: '{{ text }}'\n", 1, "help is empty"),
    ("help: |\n  a\n  b\nprompt: '{{ text }}'\n", 1, "help is one line"),
    (GOOD + "pormpt: x\n", 3, "'pormpt' is no key of a template; did you mean 'prompt'"),
    (GOOD + "help: again\n", 3, "'help' is given twice"),
    (GOOD + "schema:\n  type: object\n  type: array\n", 5, "'type' is given twice"),
    ("help: h\nprompt: no placeholder\n", 2, "prompt never says {{ text }}"),
    ("help: h\nprompt: |\n  a\n  {{ txet }} {{ text }}\n", 4, "'txet' is not defined"),
    ("help: h\nprompt: [a]\n", 2, "prompt is a text"),
    ("help: h\nprompt: |\n  {{ text }}\n  {% if %}\n", 4, "not a Jinja text"),
    ("help: h\nprompt: '{{ text }'\n", 2, "not a Jinja text"),
    (GOOD + "system: 'You read {{ text }}'\n", 3, "'text' is not defined"),
    (GOOD + "reduce: '{{ parts }}'\n", 3, "'parts' is not defined"),
    (GOOD + "labels: [one]\n", 3, "labels are two or more different texts"),
    (GOOD + "labels: [a, a]\n", 3, "labels are two or more different texts"),
    (GOOD + 'labels: "{{ nothing }}"\n', 3, "of a parameter with type: list"),
    (GOOD + "params: {text: {}}\n", 3, "the name is taken by llm itself"),
    (GOOD + "params:\n  ok: {}\n  json: {}\n", 5, "parameter 'json': the name is taken"),
    (GOOD + "params: {Bad-Name: {}}\n", 3, "small letters"),
    (GOOD + "params: {none: {}}\n", 3, "a word of the template language"),
    (GOOD + "params: {self: {}}\n", 3, "a word of the template language"),
    (GOOD + "params:\n  x:\n    tpye: int\n", 5, "did you mean 'type'"),
    (GOOD + "params:\n  x: {type: integer}\n", 4, "type is one of str, int"),
    (GOOD + "params:\n  x:\n    default: c\n    choices: [a, b]\n", 5, "its default is 'c'"),
    (GOOD + "params:\n  x: {type: int, default: many}\n", 4, "is a whole number"),
    (GOOD + "params:\n  x: {default: 0, min: 1}\n", 4, "is a whole number from 1, and its default is 0"),
    (GOOD + "params:\n  x:\n    default: a\n    min: 1\n", 6, "min is for a number, and its type is str"),
    (GOOD + "params:\n  x:\n    type: int\n    min: few\n", 6, "min is a whole number, not 'few'"),
    (GOOD + "params:\n  x:\n    type: int\n    min: 1.5\n", 6, "min is a whole number, not 1.5"),
    (GOOD + "params: {x: {type: float, min: 2.5}}\n", None, None),
    (GOOD + "params: [x]\n", 3, "params is a mapping"),
    (GOOD + "sampling: {temprature: 1}\n", 3, "did you mean 'temperature'"),
    (GOOD + "sampling:\n  top_k: 40\n  temperature: hot\n", 5, "temperature is a number from 0"),
    (GOOD + "sampling: {max_tokens: 0}\n", 3, "max_tokens is a whole number from 1"),
    (GOOD + "sampling: {schema: x}\n", 3, "'schema' is no key of sampling"),
    (GOOD + "examples:\n  - {text: a}\n", 4, "an example has a text and a reply"),
    (GOOD + "labels: [a, b]\nexamples:\n  - {text: t, reply: c}\n", 5, "is none of the labels"),
    (GOOD + "labels: [a, b]\nschema: {type: object}\n", 1, "labels, a schema or a grammar: one of them"),
    (GOOD + "labels: [a, b]\ngrammar: x\n", 1, "labels, a schema or a grammar: one of them"),
    (GOOD + "grammar: [a]\n", 3, "grammar is a text"),
    (GOOD + "schema: {maximum: .inf}\n", None, None),  # `.inf` is a text in the core of YAML 1.2 as read here
    (GOOD + "mode: extract\n", 1, "mode extract needs 'extract'"),
    (GOOD + "mode: chatty\n", 3, "mode is one of"),
    (GOOD + "keep_layout: perhaps\n", 3, "keep_layout is true or false"),
    (GOOD + "system: &x a\n", 3, "anchors and aliases"),
    (GOOD + "system: *x\n", 3, "anchors and aliases"),
    (
        GOOD + "system: !!python/object/apply:os.system [id]\n",
        3,
        "the tag tag:yaml.org,2002:python/object/apply:os.system is not read",
    ),
    (GOOD + "system: [" + "[" * 40 + "]" * 40 + "]\n", 3, "nested deeper than 20"),
    (GOOD + "system: [a\n", 4, "not YAML"),
    (GOOD + "system: 'a\n", 4, "not YAML"),
    (GOOD + "a: b: c\n", 3, "not YAML"),
    (GOOD + "system: a\x07b\n", 3, "a control character"),
    (GOOD.encode() + b"system: \xff\n", 3, "not UTF-8"),
    (GOOD + "---\nhelp: second\n", 3, "not YAML"),
    (GOOD + "x: '" + "a" * 70_000 + "'\n", None, "larger than 64 kB"),
]


@pytest.mark.parametrize(("yaml", "line", "message"), BAD)
def test_a_bad_template_names_file_line_and_reason(load, tmp_path, yaml, line, message):
    if message is None:
        load(yaml)
        return
    with pytest.raises(BadConfig) as error:
        load(yaml)
    where = f"{tmp_path / 'mine.yaml'}:" + (f"{line}:" if line else "")
    assert error.value.message.startswith(where), error.value.message
    assert message in error.value.message
    assert error.value.exit_code == 78


FORBIDDEN = [
    "{{ ''.__class__ }}",
    "{{ text.upper() }}",
    "{{ text|attr('x') }}",
    "{{ range(9) }}",
    "{{ 'a' * 1000000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% for x in text %}{% endfor %}",
    "{% set x = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% macro m() %}{% endmacro %}",
    "{% extends 'x' %}",
    "{{ self }}",
    "{{ cycler }}",
    "{% filter upper %}x{% endfilter %}",
    "{% raw %}x{% endraw %}{{ lipsum() }}",
    "{{ 'x' | format(1) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ {}|pprint }}",
]


@pytest.mark.parametrize("attack", FORBIDDEN)
def test_a_template_runs_no_code_and_names_no_file(load, attack):
    with pytest.raises(BadConfig, match=r"mine\.yaml:3: "):
        load(f"help: h\nprompt: |\n  {attack} {{{{ text }}}}\n")


def test_a_billion_laughs_are_refused_at_the_first_anchor(load):
    laughs = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 9))
    with pytest.raises(BadConfig, match="anchors and aliases"):
        load(f"help: h\nl0: &l0 ha\n{laughs}")


def test_deep_template_expressions_do_not_end_the_program(load):
    with pytest.raises(BadConfig):
        load("help: h\nprompt: '{{ text }}{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}'\n")


def test_yes_no_and_numbers_are_labels(load):
    assert load(GOOD + "labels: [yes, no]\n").labels == ("yes", "no")
    assert load(GOOD + "labels: [1, 2, 03]\n").labels == ("1", "2", "03")


def test_a_parameters_type_is_its_defaults(load):
    defaults = {"a": "5", "b": "0.5", "c": "false", "d": "[x]", "e": "no"}
    params = "".join(f"  {name}: {{default: {default}}}\n" for name, default in defaults.items())
    types = {param.name: param.type for param in load(f"{GOOD}params:\n{params}").params}
    assert types == {"a": "int", "b": "float", "c": "bool", "d": "list", "e": "str"}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_refused(load, name):
    with pytest.raises(BadConfig, match="is a command of llm's own"):
        load(GOOD, name)


def test_a_template_knows_its_file(load, tmp_path):
    template = load(GOOD)
    assert str(tmp_path / "mine.yaml") == template.path
    assert hashlib.sha256(GOOD.encode()).hexdigest() == template.sha256


def test_a_byte_order_mark_and_crlf_are_read(load):
    template = load("\ufeffhelp: h\r\nprompt: |\r\n  a\r\n  {{ text }}\r\n")
    assert render(template, "x", {}).text == "a\nx"


def test_a_missing_file_is_missing_input():
    with pytest.raises(MissingInput):
        load_template(Found("x", Path("/nonexistent/x.yaml"), "user"))


def test_check_lists_every_problem_in_the_order_of_the_lines(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("help: h\nprompt: '{{ a }}{{ text }}'\nsampling: {temperature: -1}\nlabel: [x]\n")
    template, problems = check_template(Found("x", path, "user"))
    assert template is None
    assert [problem.line for problem in problems] == [2, 3, 4]


def test_check_renders_every_choice(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "help: h\nprompt: \"{{ text }}{{ {'a': 'A'}[x] }}\"\nparams: {x: {choices: [a, b], default: a}}\n"
    )
    _, problems = check_template(Found("x", path, "user"))
    assert len(problems) == 1
    assert "has no attribute" in problems[0].message or "undefined" in problems[0].message


def test_a_new_template_is_eight_lines_that_work(load):
    text = starter("haiku")
    assert len(text.splitlines()) == 8
    template = load(text)
    values = check_values(template, {})
    assert render(template, "x", values).text == "x\n\nRewrite the text above in a friendly tone."


# ------------------------------------------------------------ models.yaml


def test_a_model_may_change_how_a_template_asks():
    template = built_in("summarize")
    changed = with_overrides(
        template, {"mode": "extract", "sampling": {"max_tokens": 9}, "prompt": "{{ text }} {{ style }}"}
    )
    assert (changed.mode, changed.sampling) == ("extract", {"max_tokens": 9})
    assert render(changed, "x", check_values(changed, {})).text == "x paragraph"
    assert template.sha256 == changed.sha256


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"labels": ["a", "b"]}, "'labels' is no key"),
        ({"prompt": "{{ txt }}"}, "'txt' is not defined"),
        ({"mode": "label"}, "mode label needs 'labels'"),
        ({"sampling": {"temperature": "hot"}}, "temperature is a number"),
    ],
)
def test_a_wrong_override_names_models_yaml_and_the_template(overrides, message):
    with pytest.raises(BadConfig, match=r"models\.yaml, template summarize: ") as error:
        with_overrides(built_in("summarize"), overrides)
    assert message in error.value.message
