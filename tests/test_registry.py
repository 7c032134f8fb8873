"""Templates are found by name: project, user, built in."""

from __future__ import annotations

import os

import pytest

from llmcli.errors import UsageError
from llmcli.paths import shipped
from llmcli.registry import find_template, help_line, list_templates, nearest

HAIKU = "help: Write a haiku.\nprompt: '{{ text }}'\n"


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCLI_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config" / "prompts").mkdir(parents=True)
    (tmp_path / "here" / "prompts").mkdir(parents=True)
    return tmp_path / "here"


@pytest.fixture
def project(cwd):
    return cwd / "prompts"


@pytest.fixture
def user(tmp_path):
    return tmp_path / "config" / "prompts"


def names(cwd):
    return [found.name for found in list_templates(cwd)]


def test_the_built_in_templates_are_there(cwd):
    assert {"summarize", "translate", "sentiment", "chat", "label", "title", "ask"} <= set(names(cwd))
    assert {"keypoints", "rewrite", "code", "extract", "reply"} <= set(names(cwd))
    assert all(found.source == "built in" and help_line(found.path) for found in list_templates(cwd))


def test_a_file_in_the_project_folder_wins_over_the_users_and_says_that_it_shadows(cwd, project, user):
    for folder in (project, user):
        (folder / "haiku.yaml").write_text(HAIKU)
    assert (find_template("haiku", cwd).source, find_template("haiku", cwd).shadows) == ("project", True)

    (project / "haiku.yaml").unlink()
    assert (find_template("haiku", cwd).source, find_template("haiku", cwd).shadows) == ("user", False)


def test_each_name_is_listed_once_and_in_order(cwd, project):
    (project / "title.yaml").write_text(HAIKU)
    listed = list_templates(cwd)
    assert sorted({found.name for found in listed}) == [found.name for found in listed]
    assert [found.source for found in listed if found.name == "title"] == ["project"]


def test_a_copy_of_a_built_in_template_is_the_built_in_one(cwd, project):
    copy = project / "title.yaml"
    copy.write_bytes((shipped("prompts") / "title.yaml").read_bytes())
    found = find_template("title", cwd)
    assert (found.source, found.shadows) == ("built in", False)

    copy.write_text(copy.read_text() + "# mine\n")
    found = find_template("title", cwd)
    assert (found.source, found.shadows) == ("project", True)


def test_an_unknown_name_suggests_the_nearest(cwd):
    with pytest.raises(UsageError, match="did you mean 'summarize'") as error:
        find_template("sumarize", cwd)
    assert error.value.exit_code == 2


def test_an_unknown_name_without_a_near_one_lists_what_there_is(cwd):
    with pytest.raises(UsageError, match=r"there are ask, chat, code"):
        find_template("qqqqqq", cwd)


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/b", "", "a\0b", "a b", "x" * 65, "ä"])
def test_a_name_cannot_lead_out_of_the_folder(cwd, name):
    with pytest.raises(UsageError, match="is not a template name"):
        find_template(name, cwd)


def test_a_link_in_a_project_that_leads_outside_is_not_followed(cwd, project, tmp_path):
    (tmp_path / "secret.yaml").write_text(HAIKU)
    (project / "stolen.yaml").symlink_to(tmp_path / "secret.yaml")
    (project / "haiku.yaml").write_text(HAIKU)
    (project / "alias.yaml").symlink_to(project / "haiku.yaml")
    assert "stolen" not in names(cwd)
    assert {"haiku", "alias"} <= set(names(cwd))


def test_links_in_the_users_own_folder_are_followed(cwd, user, tmp_path):
    (tmp_path / "dotfile.yaml").write_text(HAIKU)
    (user / "haiku.yaml").symlink_to(tmp_path / "dotfile.yaml")
    assert find_template("haiku", cwd).source == "user"


def test_what_is_no_file_is_no_template(cwd, project):
    (project / "folder.yaml").mkdir()
    os.mkfifo(project / "pipe.yaml")
    (project / "loop.yaml").symlink_to(project / "loop.yaml")
    (project / "notes.txt").write_text("x")
    assert not {"folder", "pipe", "loop", "notes"} & set(names(cwd))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("help: Write a haiku.\n", "Write a haiku."),
        ("\ufeff# a comment\n\nhelp:   Spaces.  \n", "Spaces."),
        ("help: 'It''s quoted: yes'\n", "It's quoted: yes"),
        ('help: "Say \\"hi\\""\n', 'Say "hi"'),
        ("help: Plain # a comment\r\nprompt: x\r\n", "Plain"),
        ("help: |\n  Several\n  lines\n", ""),
        ("prompt: x\nhelp: Late.\n", ""),
        ("", ""),
    ],
)
def test_the_help_is_read_from_the_first_line_without_a_yaml_parser(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode())
    assert expected == help_line(path)


def test_a_file_that_cannot_be_read_has_no_help(tmp_path):
    assert help_line(tmp_path / "missing.yaml") == ""


def test_nothing_near_is_none():
    assert nearest("xyz", ["summarize", "title"]) is None
