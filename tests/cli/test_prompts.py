"""`llm prompts`: the templates of this folder, of the user, and the built-in ones."""

from __future__ import annotations

import json

import pytest

GOOD = "help: Write a haiku.\nprompt: 'Haiku about {{ text }}'\n"


@pytest.fixture
def project(work):
    """The project's folder of templates."""
    folder = work / "prompts"
    folder.mkdir()
    return folder


def test_the_list_says_where_each_template_is_from(call, project):
    (project / "haiku.yaml").write_text(GOOD)
    lines = call("prompts", "list").out.splitlines()

    assert "haiku\tproject\tWrite a haiku." in lines
    assert any(line.startswith("sentiment\tbuilt in\t") for line in lines)


def test_a_broken_template_is_a_line_of_the_list(call, project):
    (project / "bad.yaml").write_text("help: Bad.\nprompt: no text here\n")
    said = call("prompts", "list", "--json")
    records = {record["name"]: record for record in map(json.loads, said.out.splitlines())}

    assert said.code == 0
    assert "bad.yaml:2" in records["bad"]["error"]
    assert records["title"]["error"] is None


def test_a_schema_that_cannot_be_kept_is_a_line_of_the_list(call, project):
    (project / "bad.yaml").write_text('help: Bad.\nprompt: "{{ text }}"\nschema: {type: objekt}\n')

    assert "broken: schema: type 'objekt'" in call("prompts", "list").out


def test_a_grammar_that_is_none_is_told_by_check(call, project):
    (project / "bad.yaml").write_text('help: Bad.\nprompt: "{{ text }}"\ngrammar: root ::= other\n')

    said = call("prompts", "check", "bad")

    assert (said.code, "rule 'other' is not defined" in said.out) == (78, True), said.out


def test_a_file_with_another_ending_is_no_command(call, project):
    (project / "haiku.yml").write_text(GOOD)

    said = call("prompts", "check", "prompts/haiku.yml")
    assert (said.code, "ends in .yaml" in said.err) == (0, True)


def test_show_prints_the_file(call, project):
    (project / "haiku.yaml").write_text(GOOD)

    assert call("prompts", "show", "haiku").out == GOOD
    assert "did you mean 'haiku'" in call("prompts", "show", "haikku").err


def test_new_makes_a_command_that_works(call, home, script):
    made = call("prompts", "new", "haiku")

    assert made.out == f"{home}/config/prompts/haiku.yaml\n"
    assert call("prompts", "check", "haiku").out == "haiku: ok\n"
    assert call("haiku", "-m", script(default="Rain."), "--text", "x").out == "Rain.\n"


def test_new_here_writes_to_the_project(call, work):
    call("prompts", "new", "haiku", "--here")

    assert (work / "prompts" / "haiku.yaml").exists()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("haiku", 73, "haiku.yaml exists"),
        ("models", 2, "'models' is a command of llm's own"),
        ("completion", 2, "is a command of llm's own"),
        ("../x", 2, "is not a template name"),
    ],
)
def test_new_overwrites_nothing(call, name, code, words):
    call("prompts", "new", "haiku")
    said = call("prompts", "new", name)

    assert said.code == code
    assert words in said.err


def test_new_says_what_it_hides(call):
    assert "it hides" in call("prompts", "new", "title").err


def test_check_names_every_line_that_is_wrong(call, project):
    (project / "bad.yaml").write_text(
        "help: Bad.\nprompt: '{{ text }} {{ nothing }}'\nsampling: {temperature: hot}\n"
    )
    said = call("prompts", "check", "prompts/bad.yaml", "title")

    assert said.code == 78
    assert "prompts/bad.yaml:2: " in said.out
    assert "prompts/bad.yaml:3: " in said.out
    assert "title: ok\n" in said.out
    assert "1 of 2 templates cannot be used" in said.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("completion", "is a command of llm's own"),
        ("a b", "is no name for a command"),
        ("-x", "is no name for a command"),
        ("fine", "type 'nonsense' at $ is unknown"),
    ],
)
def test_check_tells_what_only_a_user_would_find(call, work, name, words):
    template = "help: Good.\nprompt: '{{ text }}'\nschema: {type: nonsense}\n"
    (work / f"{name}.yaml").write_text(template)

    said = call("prompts", "check", f"./{name}.yaml")

    assert (said.code, words in said.out) == (78, True)


def test_check_goes_on_after_a_file_that_is_missing_and_ends_with_the_worst(call, project):
    (project / "bad.yaml").write_text("help: Bad.\nprompt: no text here\n")

    missing = call("prompts", "check", "title", "nowhere.yaml", "nobody", "ask")
    worse = call("prompts", "check", "nowhere.yaml", "bad", "ask")

    assert (missing.code, missing.out) == (66, "title: ok\nask: ok\n")
    assert "no file 'nowhere.yaml'" in missing.err
    assert "no template is called 'nobody'" in missing.err
    assert "2 of 4 templates cannot be used" in missing.err
    assert worse.code == 78
    assert worse.out.endswith("ask: ok\n")


def test_a_missing_file_is_66(call):
    assert call("prompts", "check", "nowhere.yaml").code == 66


def test_path_prints_the_folders_in_their_order(call, work, home):
    lines = call("prompts", "path").out.splitlines()

    assert lines[0].endswith("prompts")
    assert lines[1] == f"{home}/config/prompts"


def test_what_looks_like_a_template_and_is_none_is_a_line_of_the_list(call, work):
    folder = work / "prompts"
    folder.mkdir()
    for name in ("漢字.yaml", "a b.yaml", "good.yml", "-dash.yaml"):
        (folder / name).write_text("help: x\nprompt: '{{ text }}'\n")
    (folder / "gone.yaml").symlink_to("nowhere")
    listed = call("prompts", "list").out

    assert "good.yml" in listed and "broken: name it good.yaml" in listed
    assert listed.count("broken: its name is none for a template") == 3
    assert "gone.yaml" in listed and "leads nowhere" in listed
    assert "gone.yaml" not in call("--help").out


def test_a_list_with_choices_passes_the_check(call, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "t.yaml").write_text(
        "help: x\nprompt: '{{ text }} {{ l }}'\nparams:\n  l: {type: list, choices: [a, b], help: Letters.}\n"
    )
    assert call("prompts", "check", "t").code == 0


def test_a_parameter_cannot_be_called_like_an_argument_of_the_python_door(call, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "t.yaml").write_text(
        "help: x\nprompt: '{{ text }} {{ texts }}'\nparams:\n  texts: {default: a, help: Words.}\n"
    )
    assert "the name is taken by llm itself" in call("prompts", "check", "t").out


def test_new_takes_a_name_with_its_ending(call, work):
    assert call("prompts", "new", "mine.yaml", "--here").out == f"{work}/prompts/mine.yaml\n"


@pytest.mark.parametrize(
    "help", ["---\nhelp: Fine.", '"help": Fine.', 'help: "\\u00fcber"', "help: One\n  and two."]
)
def test_check_tells_of_a_help_that_a_listing_would_not_show(call, work, help):
    (work / "prompts").mkdir()
    (work / "prompts" / "t.yaml").write_text(f"{help}\nprompt: '{{{{ text }}}}'\n")
    said = call("prompts", "check", "t")

    assert said.code == 78 and "t:1: " in said.out
    assert "`llm --help` would show" in said.out or "the first line is `help: …`" in said.out
