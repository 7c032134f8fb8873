"""What our GBNF check lets through, llama.cpp takes and survives; what it refuses is named by line:column."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_grammars import RealGrammars

from llmcli.engines.llama.gbnf import Characters, Group, Reference, Repeat, parse_gbnf
from llmcli.engines.llama.grammar import check_gbnf
from llmcli.errors import BadConfig


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with RealGrammars(tmp_path_factory.mktemp("grammars")) as real:
        yield real


JSON_OF_LLAMA_CPP = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""

GOOD = [
    'root ::= "yes" | "no"',
    'root ::= "a"\r\n',
    'root::="a"#comment',
    '# first\n\nroot ::= a-1 | B2\n\na-1 ::= "x"  # what x is\nB2 ::= [^x-z] .',
    'root ::= (\n  "a"\n  | "b" # or\n) "c"{2,\t3}',
    'root ::= "a" |\n "b"',
    "root ::= [a-zA-Z_] [-a] [a-] [--/] [\\]\\[\\-] [^\\x00-\\x1F] [é-ü😀]",
    'root ::= "\\x41\\u00e9\\U0001F600\\t\\n\\r\\\\\\"\\[\\]\\-é😀\n raw line"',
    'root ::= "a"? "b"* "c"+ "d"{3} "e"{2,} "f"{0,2000} "g"{0}',
    'root ::= "a"*?',
    'root ::= "a" root "b" | "c"',
    "root ::= " + "(" * 60 + '"a"' + ")" * 60,
    "root ::= " + " | ".join(f'"word{number}"' for number in range(1000)),
    "root ::= ",
    JSON_OF_LLAMA_CPP,
]


@pytest.mark.parametrize("gbnf", GOOD)
def test_a_good_grammar_passes_and_llama_cpp_takes_it(gbnf, real):
    check_gbnf(gbnf)

    answer = real.walk(gbnf, steps=40)

    assert "text" in answer and "stuck" not in answer


BAD = {
    'x ::= "a"': "no rule is called 'root'",
    "": "no rule is called 'root'",
    "root ::= x": "line 1:10: rule 'x' is not defined",
    'root ::= "a"\nroot ::= "b"': "line 2:1: rule 'root' is defined in line 1 already",
    'root ::= "a': "line 1:10: the literal that begins here does not end",
    'root ::= "a\\': "line 1:10: the literal that begins here does not end",
    "root ::= [a": "line 1:10: the character class that begins here does not end",
    'root ::= "\\q"': "line 1:11: unknown escape '\\\\q'",
    'root ::= "\\x4"': "line 1:11: unknown escape '\\\\x'",
    'root ::= "\\U00110000"': "is no character",
    'root ::= "\\x00"': "line 1:11: the character 0 can never be written",
    "root ::= []": "line 1:10: the character class is empty",
    "root ::= [^]": "line 1:10: the character class is empty",
    "root ::= [z-a]": "line 1:11: the range z-a is the wrong way round",
    'root ::= ("a"': "line 1:14: expected ')', found the end",
    'root ::= "a")': "line 1:13: expected a new line, or the end, found ')'",
    'root "a"': "line 1:6: expected '::=', found '\"a\"'",
    'root\n::= "a"': "line 1:5: expected '::=', found a new line",
    '"a" ::= root': "line 1:1: expected a rule's name",
    'root ::= "a"\n | "b"': "line 2:2: expected a rule's name, found '|'",
    'root ::= a_b\na ::= "x"': "line 1:11: unexpected '_' (names are of A-Z, a-z, 0-9 and -)",
    "root ::= <think>": "line 1:10: token literals are not supported",
    "root ::= !<[5]>": "line 1:10: token literals are not supported",
    'root ::= "a\0"': "is no character",
    'root ::= "a"\0 | "b"': "a grammar cannot hold the character 0",
    'root ::= "\ud800"': "line 1:11: half a surrogate pair is no character",
    "root ::= *": "line 1:10: nothing stands before '*'",
    'root ::= "" +': "line 1:13: nothing stands before '+'",
    'root ::= "a"{0}*': "line 1:16: nothing stands before '*'",
    'root ::= "a"{': "expected a number, found the end",
    'root ::= "a"{,3}': "line 1:14: expected a number, found ','",
    'root ::= "a"{1,x}': "line 1:16: expected a number, found 'x'",
    'root ::= "a"{-1}': "line 1:14: expected a number, found '-1'",
    'root ::= "a"{1\n}': "expected '}', found a new line",
    'root ::= "a"{5,2}': "line 1:14: at least 5 and at most 2 times is impossible",
    'root ::= "a"{1000000000}': "line 1:14: repeated 1000000000 times, at most 2000",
    'root ::= "a"{0,2001}': "line 1:16: repeated 2001 times, at most 2000",
    'root ::= "a"{' + "9" * 5000 + "}": "repeated 99999999999999999999 times",
    'root ::= "a"{50}{50}': "line 1:17: a repetition of 2,500 rules",
    'root ::= (("a" | "b") "c"*){1000}': "a repetition of 3,000 rules",
    'root ::= "a"?????': "line 1:17: more than 4 repetitions in a row",
    "root ::= " + "(" * 65 + '"a"' + ")" * 65: "line 1:74: parentheses nested more than 64 deep",
    "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000: "nested more than 64 deep",
    'root ::= root "a"': "line 1:1: left recursion: root → root",
    'root ::= a\na ::= b "x" | "y"\nb ::= a | "z"': "line 2:1: left recursion: a → b → a",
    'root ::= e root "x" | "b"\ne ::= f\nf ::= "" | "y"': "line 1:1: left recursion",
    'root ::= "a"* root | "b"': "left recursion",
    'root ::= ("" | "a") (root | "c")': "left recursion",
    'root ::= ("a" | "")*': "line 1:20: what is repeated here may be empty",
    'root ::= "x" (e)+\ne ::= f?\nf ::= "y"': "line 1:17: what is repeated here may be empty",
    'root ::= "x" ("a"? "b"?){3}': "what is repeated here may be empty",
    'root ::= "a" root': "line 1:1: rule 'root' never comes to an end",
    'root ::= "x" | a\na ::= "a" b\nb ::= "b" a': "never comes to an end",
    "\n".join(f'r{n} ::= r{n + 1} "a"' for n in range(5000)) + '\nr5000 ::= "b"\nroot ::= r0': "deep",
    'r0 ::= "a"\n' + "\n".join(f"r{n + 1} ::= r{n} | r{n}" for n in range(40)) + "\nroot ::= r40": "ways",
    'r0 ::= "a"\n' + "\n".join(f"r{n + 1} ::= r{n} | r{n}" for n in range(11)) + '\nroot ::= "x" ' + " ".join(
        f'(r11 | "y{n}")' for n in range(2000)
    ): "multiply beyond",
    'root ::= "' + "a" * 1000 + '"{2000}': "more than 1,000,000 elements",
    "root ::= " + " ".join('"a"{0,2000}' for _ in range(6)): "more than 10,000 rules",
    'root ::= "' + "a" * 300_000 + '"': "grammar: 300,011 bytes, at most 262,144",
}  # fmt: skip


@pytest.mark.parametrize("gbnf", BAD, ids=lambda gbnf: gbnf[:40])
def test_a_bad_grammar_is_refused_by_line_and_column(gbnf):
    started = time.process_time()

    with pytest.raises(BadConfig) as refusal:
        check_gbnf(gbnf)

    assert BAD[gbnf] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert time.process_time() - started < 5


def test_lines_are_counted_through_literals_and_every_kind_of_line_end():
    with pytest.raises(BadConfig, match=r"line 5:3: unexpected '\$'"):
        check_gbnf('a ::= "x\ny"\r\nb ::= "z"\rroot ::= a |\n  $')


def test_a_grammar_is_read_into_rules():
    rules = parse_gbnf('root ::= "ab" [x-z]{2} (more | "")\nmore ::= .')

    literal, repeated, group = rules["root"].choices[0]
    assert literal == Characters(2)
    assert isinstance(repeated, Repeat)
    assert (Characters(2), 2, 2) == (repeated.item, repeated.least, repeated.most)
    assert isinstance(group, Group)
    assert [Reference, Characters] == [type(choice[0]) for choice in group.choices]


# Random grammars: whatever passes must be taken by llama.cpp and lead somewhere.

_NAMES = ("root", "a", "b-1", "C", "d")
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_literals = st.text(st.sampled_from('ab \n"\\]é😀-'), min_size=1, max_size=3).map(
    lambda text: '"' + "".join(_ESCAPED.get(c, c) for c in text) + '"'
)
_classes = st.sampled_from(["[a-c]", "[^a]", "[é\\]]", ".", "[\\u0041-\\U0001F600-]", "[a-b0-9]"])
_at_least_one = st.sampled_from(["", "", "", "+", "{2}", "{1,}", "{3,40}"])
_any_number = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,3}", "{1,}", "{0,0}", "{3,40}"])


@st.composite
def _sound(draw, number=0, depth=0):
    """Alternatives of a rule that are right: each begins with a character, and recursion may be left out."""
    alternatives = []
    for _ in range(draw(st.integers(1, 3))):
        items = [draw(_literals | _classes) + draw(_at_least_one)]
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.integers(0, 3 if depth < 3 else 2))
            if kind == 3:
                items.append(f"( {draw(_sound(number, depth + 1))} ){draw(_any_number)}")
            elif kind == 2:
                other = draw(st.integers(0, len(_NAMES) - 1))
                items.append(_NAMES[other] + ("?" if other <= number else draw(_any_number)))
            else:
                items.append(draw(_literals | _classes) + draw(_any_number))
        alternatives.append(" ".join(items))
    return " | ".join(alternatives)


@st.composite
def _wild(draw):
    """Rules of anything: most are left recursive, or repeat what may be empty."""
    atoms = [*_NAMES, '""', '"x"', "( )", "( a | )", "[a-z]"]
    items = st.tuples(st.sampled_from(atoms), _any_number).map("".join)
    sequences = st.lists(items, max_size=3).map(" ".join)
    bodies = st.lists(sequences, min_size=1, max_size=3).map(" | ".join)
    return "\n".join(f"{name} ::= {draw(bodies)}" for name in _NAMES)


@st.composite
def _sound_grammars(draw):
    return "\n".join(f"{name} ::= {draw(_sound(number))}" for number, name in enumerate(_NAMES))


@st.composite
def _mutated(draw):
    """A good grammar with a few characters taken out, put in or doubled."""
    text = draw(st.sampled_from(GOOD[:-3] + GOOD[-1:]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = draw(
            st.sampled_from(
                [text[:at] + text[at + 1 :], text[:at] + text[max(0, at - 2) :]]
                + [text[:at] + mark + text[at:] for mark in '()|"[]{},*+?.-\\ \n\r\tx09#']
            )
        )
    return text


def _accepted(gbnf):
    try:
        check_gbnf(gbnf)
    except BadConfig:
        return False
    return True


def _survives(gbnf, real):
    answer = real.walk(gbnf, steps=12)
    assert "text" in answer, (gbnf, answer)
    assert "stuck" not in answer, (gbnf, answer)


_real_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(_real_settings, max_examples=60)
@given(gbnf=st.one_of(_sound_grammars(), _mutated(), _wild()))
def test_llama_cpp_survives_what_passes(gbnf, real):
    if _accepted(gbnf):
        _survives(gbnf, real)


@pytest.mark.slow
@settings(_real_settings, max_examples=2500)
@given(gbnf=st.one_of(_sound_grammars(), _mutated(), _wild()))
def test_llama_cpp_survives_everything_that_passes(gbnf, real):
    if _accepted(gbnf):
        _survives(gbnf, real)


@settings(max_examples=200)
@given(st.text(st.sampled_from('root:=ab"[]\\()|*+?{},.<!#\n\r 0x-^\0é'), max_size=60))
def test_any_text_is_judged_in_one_line(text):
    try:
        check_gbnf("root ::= " + text)
    except BadConfig as refusal:
        assert "\n" not in str(refusal)
