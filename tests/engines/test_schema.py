"""A schema becomes a grammar that llama.cpp takes; what the grammar lets write, the check lets pass."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_grammars import RealGrammars

from llmcli.engines.llama.schema import check_answer, to_gbnf
from llmcli.errors import BadConfig, UnusableAnswer


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with RealGrammars(tmp_path_factory.mktemp("schemas")) as real:
        yield real


def an_object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
INVOICE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Invoice",
    "type": "object",
    "properties": {
        "number": {"type": "string", "minLength": 1, "maxLength": 12, "description": "as printed"},
        "paid": {"type": ["boolean", "null"]},
        "currency": {"enum": ["EUR", "EURO", "USD", "E"]},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["number", "lines"],
    "additionalProperties": False,
    "$defs": {
        "line": an_object(["what"], what=STRING, price={"anyOf": [{"type": "number"}, {"type": "null"}]})
    },
}

# A schema, texts that fit it, texts that do not (the check refuses them, and so does the grammar).
FITTING = [
    (STRING,
     ['""', '"é\\n\\u00e9\\ud83d\\ude00😀/\\/"'],
     ['"', "a", '"\n"', '"\\x"', '"\\ud83d"', '"a" ', "1"]),
    ({"type": "string", "maxLength": 2}, ['""', '"é😀"', '"\\n\\u0041"'], ['"abc"']),
    ({"type": "string", "minLength": 2}, ['"éé"', '"abc"'], ['"a"', '"\\n"']),
    (INTEGER, ["0", "-0", "12", "-1234567890"], ["01", "+1", "1.5", "1e2x", '"1"', "true"]),
    ({"type": "number"}, ["0", "-0.5", "1e10", "2.5E-3"], [".5", "1.", "1e", "NaN", "-", "Infinity", "null"]),
    ({"type": "boolean"}, ["true", "false"], ["True", "0", "null", "tru"]),
    ({"type": "null"}, ["null"], ["", "none", '"null"']),
    ({"type": ["integer", "null"]}, ["1", "null"], ['"1"', "nul"]),
    ({"type": ["number", "integer"]}, ["1", "1.5"], ['"1"']),
    ({"enum": ["a", "ab", 'a"b', "b", 1, 1.5, None, True, [1], {"x": "y"}]},
     ['"a"', '"ab"', '"a\\"b"', '"b"', "1", "1.5", "null", "true", "[1]", '{"x": "y"}'],
     ['"', '"c"', "2", "false", "[2]", '{"x": "z"}', "[]"]),
    ({"enum": ["é", "\u2028\x7f", "日本", "😀", "a\tb\\"]},
     ['"é"', '"\u2028\x7f"', '"日本"', '"😀"', '"a\\tb\\\\"'],
     ['"e"', '"日"', '"a\tb"']),
    ({"const": "no"}, ['"no"'], ['"n"', '"not"', "no"]),
    ({"const": None}, ["null"], ["0", "false"]),
    ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    (an_object(), ["{}", "{ }", "{\n}"], ["[]", "{", "{   }x"]),
    (an_object(a=STRING, b=INTEGER), ["{}", '{"a":"x"}', '{"b": 1}', '{"a": "x","b":1}', '{\n  "b": 1\n}'],
     ['{"a": 1}', '{"b": "x"}', '{"a" "x"}', '{"a": "x",}', '{,"b": 1}']),
    (an_object(["b"], a=STRING, b=INTEGER, c=INTEGER, d=INTEGER),
     ['{"b": 1}', '{"a": "", "b": 1, "d": 2}', '{"b": 1, "c": 2, "d": 3}'],
     ["{}", '{"a": "x"}', '{"c": 1}', '{"b": 1, "c": "x"}']),
    ({"type": "array", "items": INTEGER}, ["[]", "[ ]", "[1]", "[1,2, 3,\n4]"],
     ["[1,]", '["1"]', "[1 2]", "1", "{}"]),
    ({"type": "array", "items": INTEGER, "minItems": 2}, ["[1, 2]", "[1,2,3]"], ["[]", "[1]"]),
    ({"type": "array", "items": INTEGER, "maxItems": 2}, ["[]", "[1]", "[1,2]"], ["[1,2,3]"]),
    ({"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1,2]"]),
    ({"type": "array", "items": INTEGER, "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
    ({"anyOf": [STRING, an_object(["x"], x=INTEGER)]}, ['"a"', '{"x": 1}'], ["1", '{"x": "a"}', "{}"]),
    ({"oneOf": [INTEGER, {"type": "null"}]}, ["1", "null"], ['"a"']),
    (INVOICE, ['{"number": "A-1", "lines": [{"what": "tea", "price": 2.5}]}',
               '{"number": "A-1", "paid": null, "currency": "EURO",'
               ' "lines": [{"what": ""}, {"what": "x", "price": null}]}'],
     ['{"number": "", "lines": [{"what": "tea"}]}', '{"number": "1", "lines": []}', '{"number": "1"}',
      '{"number": "1", "currency": "EU", "lines": [{"what": "tea"}]}',
      '{"number": "1", "lines": [{"what": "tea"}], "more": 1}']),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), FITTING, ids=lambda given: json.dumps(given)[:50])
def test_grammar_and_check_agree(schema, good, bad, real):
    gbnf = to_gbnf(schema)

    for text in good:
        assert json.loads(text) == check_answer(schema, text)
        assert real.fits(gbnf, text) == {"fits": True, "at": len(text.encode())}, text
    for text in bad:
        assert real.fits(gbnf, text)["fits"] is False, text
        if text not in ('"a" ', '"\\ud83d"'):  # JSON to Python; the grammar is stricter
            with pytest.raises(UnusableAnswer):
                check_answer(schema, text)


@pytest.mark.parametrize(
    "schema", [schema for schema, _, _ in FITTING], ids=lambda given: json.dumps(given)[:50]
)
def test_what_the_grammar_writes_passes_the_check(schema, real):
    gbnf = to_gbnf(schema)

    written = [real.walk(gbnf, seed=seed, steps=400) for seed in range(4)]

    for answer in written:
        assert "stuck" not in answer, answer
        if answer["finished"]:
            check_answer(schema, answer["text"])
    assert any(answer["finished"] for answer in written)


def test_white_space_comes_to_an_end(real):
    gbnf = to_gbnf(an_object(["a"], a=STRING))

    assert real.fits(gbnf, "{\n" + " " * 16 + '"a": "x"}')["fits"]
    assert real.fits(gbnf, "{\n" + " " * 17 + '"a": "x"}')["at"] == 18
    assert real.fits(gbnf, '{\n\n"a": "x"}')["at"] == 2
    assert real.fits(gbnf, '{"a": "x"}\n')["at"] == 10


def test_numbers_come_to_an_end(real):
    assert real.fits(to_gbnf(INTEGER), "1" * 16)["fits"]
    assert real.fits(to_gbnf(INTEGER), "1" * 17)["at"] == 16
    assert real.fits(to_gbnf({"type": "number"}), "0." + "3" * 16)["at"] == 17
    assert real.fits(to_gbnf({"type": "number"}), "1e100")["at"] == 4


UNSUPPORTED = {
    **dict.fromkeys(
        ["pattern", "format", "contentEncoding", "$anchor", "$dynamicRef", "$comment", "Type", ""], "x"
    ),
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], 2),
    **dict.fromkeys(["minContains", "maxContains", "minProperties", "maxProperties"], 2),
    **dict.fromkeys(
        ["uniqueItems", "nullable", "readOnly", "unevaluatedItems", "unevaluatedProperties"], True
    ),
    **dict.fromkeys(
        ["contains", "patternProperties", "propertyNames", "dependentRequired", "$vocabulary"], ()
    ),
    **dict.fromkeys(
        ["dependentSchemas", "dependencies", "not", "if", "then", "else", "prefixItems", "allOf"], ()
    ),
}


@pytest.mark.parametrize("keyword", UNSUPPORTED)
@pytest.mark.parametrize("kind", ["string", "object", "enum"])
def test_an_unsupported_keyword_is_refused_by_name_and_place(keyword, kind):
    inner = {"string": {"type": "string"}, "object": an_object(), "enum": {"enum": [1]}}[kind]
    schema = an_object(a={**inner, keyword: UNSUPPORTED[keyword]})

    with pytest.raises(BadConfig) as refusal:
        to_gbnf(schema)

    assert f"schema: keyword {keyword!r} at $.properties.a is not supported" == str(refusal.value)


NODE = an_object(next={"$ref": "#/$defs/node"})
REFUSED = [
    ({}, "$ says no type"),
    ({"title": "x"}, "$ says no type"),
    (True, "$ must be an object, not true"),
    (an_object(a=True), "$.properties.a must be an object, not true"),
    ({"type": "text"}, "type 'text' at $ is unknown"),
    ({"type": []}, "'type' at $ is an empty list"),
    ({"type": 5}, "type 5 at $ is unknown"),
    ({"type": "object"}, "the object at $ does not say what it holds"),
    ({"type": "array"}, "the array at $ does not say what it holds"),
    ({"type": "string", "items": STRING}, "keyword 'items' at $ does not belong to type string"),
    ({"type": "object", "properties": {}, "additionalProperties": True}, "'additionalProperties' at $"),
    ({"type": "object", "properties": {}, "additionalProperties": STRING}, "'additionalProperties' at $"),
    (an_object(["b"], a=STRING), "'required' at $ names 'b', which is not in 'properties'"),
    ({**an_object(), "required": "a"}, "'required' at $ must be a list of names"),
    ({"type": "array", "items": [STRING]}, '$.items must be an object, not [{"type": "string"}]'),
    ({"type": "array", "items": STRING, "minItems": 10**9}, "'minItems' at $ is 1,000,000,000"),
    ({"type": "array", "items": STRING, "minItems": 3, "maxItems": 2}, "'minItems' at $ is more than"),
    ({"type": "string", "maxLength": 2001}, "'maxLength' at $ is 2,001, at most 2,000"),
    ({"type": "string", "maxLength": -1}, "'maxLength' at $ must be a whole number"),
    ({"type": "string", "maxLength": True}, "'maxLength' at $ must be a whole number"),
    ({"type": "string", "minLength": "3"}, "'minLength' at $ must be a whole number"),
    ({"enum": []}, "'enum' at $ must be a list of values"),
    ({"enum": "abc"}, "'enum' at $ must be a list of values"),
    ({"enum": [float("nan")]}, "a value at $.enum is no JSON: nan"),
    ({"enum": ["\ud800"]}, "a value at $.enum is no JSON"),
    ({"enum": ["a"], "type": "integer"}, "no value of 'enum' at $ is of type integer"),
    ({"enum": ["a"], "maxLength": 2}, "keyword 'maxLength' at $ is not supported beside 'enum'"),
    ({"enum": [f"value {n}" for n in range(1001)]}, "'enum' at $ is too large"),
    ({"anyOf": []}, "'anyOf' at $ must be a list of schemas"),
    ({"anyOf": STRING}, "'anyOf' at $ must be a list of schemas"),
    ({"anyOf": [STRING], "type": "string"}, "keyword 'type' at $ is not supported beside 'anyOf'"),
    ({"anyOf": [STRING], "oneOf": [STRING]}, "keyword 'oneOf' at $ is not supported beside 'anyOf'"),
    ({"anyOf": [STRING, {"type": "string", "pattern": "a"}]}, "'pattern' at $.anyOf[1] is not supported"),
    ({"$ref": "#/$defs/x"}, "$ref '#/$defs/x' at $ leads nowhere"),
    ({"$ref": "#"}, "$ref '#' at $ is not supported"),
    ({"$ref": "https://example.org/x"}, "$ref 'https://example.org/x' at $ is not supported"),
    ({"$ref": "#/properties/a"}, "$ref '#/properties/a' at $ is not supported"),
    ({"$ref": 5}, "$ref 5 at $ is not supported"),
    ({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, 'at $["$defs"].node.properties.next is recursive'),
    ({**an_object(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}}, "is recursive"),
    ({**an_object(a={"$ref": "#/$defs/x", "maxLength": 1}), "$defs": {"x": STRING}}, "beside '$ref'"),
    (an_object(a={**an_object(), "$defs": {}}), "keyword '$defs' at $.properties.a is not supported"),
    (an_object(**{"a b": {"type": "string", "format": "x"}}), '\'format\' at $.properties["a b"] is'),
    (an_object(**{f"p{n}": STRING for n in range(151)}), "more than 150 properties at $"),
    ({"type": "array", "items": an_object(**{f"p{n}": {"anyOf": [an_object(
        **{f"q{m}": STRING for m in range(100)})] * 3} for n in range(10)})}, "more than 2,000 parts"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=lambda given: json.dumps(given)[:60])
def test_what_no_grammar_can_promise_is_refused(schema, message):
    with pytest.raises(BadConfig) as refusal:
        to_gbnf(schema)

    assert message in str(refusal.value)
    assert str(refusal.value).startswith("schema: ")
    assert "\n" not in str(refusal.value)


def test_depth_is_limited():
    schema = STRING
    for _ in range(500):
        schema = {"type": "array", "items": schema}

    with pytest.raises(BadConfig, match="is nested more than 32 deep"):
        to_gbnf(schema)


def test_definitions_that_multiply_are_refused():
    definitions = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(10)}

    with pytest.raises(BadConfig, match="more than 512 alternatives"):
        to_gbnf({"$ref": "#/$defs/d0", "$defs": {**definitions, "d10": STRING}})


def test_a_definition_may_be_used_many_times_and_have_an_odd_name(real):
    schema = {
        **an_object(["a", "b"], a={"$ref": "#/definitions/x~1y%20z"}, b={"$ref": "#/definitions/x~1y%20z"}),
        "definitions": {"x/y z": {"enum": ["one", "two"]}, "unused": {"pattern": "never looked at"}},
    }

    assert real.fits(to_gbnf(schema), '{"a": "one", "b": "two"}')["fits"]


def test_every_limit_at_once_is_still_taken_by_llama_cpp(real):
    largest = [
        an_object(**{f"property {n}": STRING for n in range(150)}),
        {"enum": [f"value number {n}" for n in range(1000)]},
        {"enum": ["a" * n for n in range(1, 300)]},
        {
            "type": "array",
            "items": {"type": "string", "minLength": 2000, "maxLength": 2000},
            "minItems": 2000,
        },
        an_object(["a"], a={"type": "string", "maxLength": 2000}, b={"type": "string", "maxLength": 2000}),
    ]
    for schema in largest:
        assert "text" in real.walk(to_gbnf(schema), steps=20)


def test_too_much_in_all_is_refused_before_llama_cpp_sees_it():
    with pytest.raises(BadConfig, match="schema: too large"):
        to_gbnf(an_object(**{f"p{n}": {"type": "string", "maxLength": 2000} for n in range(20)}))


# The check of an answer.


@pytest.mark.parametrize(
    ("schema", "text", "message"),
    [
        (INTEGER, "", "the answer is empty and should be JSON"),
        (INTEGER, " \n", "the answer is empty and should be JSON"),
        (INTEGER, "It is 5.", "the answer is no JSON: Expecting value at line 1:1"),
        (INTEGER, "5 or so", "the answer is no JSON: Extra data at line 1:3"),
        (INTEGER, '"5"', "$ is a string, not an integer"),
        (INTEGER, "true", "$ is a boolean, not an integer"),
        (INTEGER, "1.5", "$ is a number, not an integer"),
        (INTEGER, "null", "$ is null, not an integer"),
        ({"type": "number"}, "NaN", "NaN is no number"),
        ({"type": "number"}, "1e999", "1e999 is too large a number"),
        ({"type": "number"}, "1" * 5000, "the answer is no usable JSON"),
        ({"type": "array", "items": INTEGER}, "[" * 100_000 + "]" * 100_000, "the answer is no usable JSON"),
        ({"type": "array", "items": INTEGER}, '[1, "x"]', "$[1] is a string, not an integer"),
        ({"type": "array", "items": INTEGER, "maxItems": 1}, "[1, 2]", "$ has 2 items, at most 1"),
        ({"type": "string", "minLength": 3}, '"ab"', "$ has 2 characters, at least 3 are asked"),
        ({"enum": ["a", "b"]}, '"c"', '$ is "c", not one of "a", "b"'),
        (an_object(["a"], a=INTEGER), "{}", "$ lacks 'a'"),
        (an_object(a=INTEGER), '{"a": 1, "a": 2}', "the name 'a' is there twice"),
        ({**an_object(a=INTEGER), "additionalProperties": False}, '{"b": 1}', "$ has a property 'b'"),
        (INVOICE, '{"number": "1", "lines": [{"what": 1}]}', "$.lines[0].what is an integer, not a string"),
        ({"oneOf": [INTEGER, {"type": "number"}]}, "1", "$ fits 2 alternatives of 'oneOf'"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_fit_is_refused_with_its_place(schema, text, message):
    with pytest.raises(UnusableAnswer) as refusal:
        check_answer(schema, text)

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_answer_cut_anywhere_is_said_to_be_cut():
    text = '{"no": "A\\u00e9\\n", "paid": false, "lines": [{"what": "\\"x\\"", "price": -1.5e-9}], "x": 1}'

    for end in range(1, len(text)):
        with pytest.raises(UnusableAnswer, match="was cut after") as refusal:
            check_answer(STRING, text[:end])
        assert refusal.value.hint == "raise --max-tokens"


def test_properties_that_no_one_forbids_are_let_pass():
    assert check_answer(an_object(a=INTEGER), '{"a": 1, "b": 2}') == {"a": 1, "b": 2}


def test_ones_with_and_without_a_point_are_equal_and_neither_is_true():
    assert check_answer(INTEGER, "1.0") == 1
    assert check_answer({"const": [1]}, "[1.0]") == [1]
    with pytest.raises(UnusableAnswer):
        check_answer({"const": [1]}, "[true]")


# Any text, any schema.

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_real_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(_real_settings, max_examples=50)
@given(name=_texts, values=st.lists(_texts, min_size=1, max_size=6, unique=True))
def test_any_name_and_any_value_is_written_exactly(name, values, real):
    schema = {"type": "object", "properties": {name: {"enum": values}}, "required": [name]}
    gbnf = to_gbnf(schema)

    for value in values:
        text = json.dumps({name: value}, ensure_ascii=False)
        assert real.fits(gbnf, text)["fits"], text
        assert {name: value} == check_answer(schema, text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def _objects(draw, inner):
    properties = draw(st.dictionaries(_texts, inner, max_size=5))
    required = [name for name in properties if draw(st.booleans())]
    closed = {"additionalProperties": False} if draw(st.booleans()) else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


@st.composite
def _arrays(draw, inner):
    least = draw(st.integers(0, 3))
    bounds = draw(st.sampled_from([{}, {"minItems": least}, {"minItems": least, "maxItems": least + 2}]))
    return {"type": "array", "items": draw(inner), **bounds}


_leaves = st.one_of(
    st.lists(st.sampled_from(["string", "number", "integer", "boolean", "null"]), min_size=1, max_size=3).map(
        lambda types: {"type": types if len(types) > 1 else types[0]}
    ),
    st.lists(_json, min_size=1, max_size=5).map(lambda values: {"enum": values}),
    st.integers(0, 3).map(lambda least: {"type": "string", "minLength": least, "maxLength": least + 3}),
)
_schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        _objects(inner), _arrays(inner), st.lists(inner, min_size=1, max_size=3).map(lambda n: {"anyOf": n})
    ),
    max_leaves=8,
)


def _writes_what_it_promises(schema, seed, real):
    answer = real.walk(to_gbnf(schema), seed=seed, steps=120)
    assert "text" in answer, answer
    assert "stuck" not in answer, answer
    if answer["finished"]:
        check_answer(schema, answer["text"])


@settings(_real_settings, max_examples=40)
@given(schema=_schemas, seed=st.integers(0, 99))
def test_any_schema_writes_what_it_promises(schema, seed, real):
    _writes_what_it_promises(schema, seed, real)


@pytest.mark.slow
@settings(_real_settings, max_examples=1000)
@given(schema=_schemas, seed=st.integers(0, 99))
def test_a_thousand_schemas_write_what_they_promise(schema, seed, real):
    _writes_what_it_promises(schema, seed, real)
