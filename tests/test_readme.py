"""The README's lines do what it shows, with the built-in model; its first two lines are what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documented import NOT_CHECKED, commands, output_of, section, write_files

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

_NUMBER = re.compile(r"\d+\.\d+")
CLOSE = 0.02  # between two processors' probabilities


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README shows and reads."""
    made = tmp_path_factory.mktemp("readme")
    write_files(README, made)
    return made


@pytest.mark.parametrize(("command", "shown"), commands(README), ids=lambda value: value[:40])
def test_a_command_prints_what_is_shown(folder, llm_env, command, shown):
    printed = output_of(command, folder, llm_env)

    assert _NUMBER.sub("0.0", printed) == _NUMBER.sub("0.0", shown)
    differences = [abs(float(a) - float(b)) for a, b in zip(_NUMBER.findall(printed), _NUMBER.findall(shown))]
    assert max(differences, default=0) < CLOSE


def test_what_is_not_run_says_so():
    blocks = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]

    assert len(commands(README)) == sum(NOT_CHECKED not in line for line in lines) >= 8


def test_the_first_line_ends_with_the_summary_of_the_report(llm):
    install, command = _one_liners()[0].rsplit(" && ", 1)
    name, file = command.removeprefix(".venv/bin/llm ").split()
    summary = llm(name, str(ROOT / file)).stdout.splitlines()
    report = (ROOT / file).read_text(encoding="utf-8")

    assert install == "python3 -m venv .venv && .venv/bin/pip install ."
    assert len(summary) == 3
    assert all(sentence in report for sentence in summary)


def test_the_second_line_is_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert _one_liners()[1] in script.splitlines()


def test_every_link_to_a_file_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_and_option_that_is_named_exists():
    pages = README + (ROOT / "docs" / "uses.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`([^`\n]*\bllm [^`\n]*)`", pages) + re.findall(
        r"^\$ (.*?)(?: +#.*)?$", README, re.MULTILINE
    )
    parts = [part.strip() for line in quoted for part in re.split(r"\\?\||&&|;", line)]
    calls = [part.split()[1:] for part in parts if part.startswith("llm ") and " -" in part]
    ours = [call for call in calls if call[0] not in ("sumarize", "urgency", "NAME")]
    helps = {name: _help(name) for name in sorted({call[0] for call in ours})}

    assert len(ours) > 30
    for name, *words in ours:
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert re.search(rf"(?<![\w-]){re.escape(word)}\b", helps[name]), f"llm {name} {word}"


def _help(name):
    """What the command reference says of a command and its subcommands; it is compared with `--help`."""
    sections = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").split("\n## llm ")[1:]
    own = "".join(section for section in sections if section.split()[0] == name)
    shared = next(section for section in sections if section.split()[0] == "summarize")
    assert own, f"llm {name}"
    return own + (shared if "shared by all text commands" in own else "")


def _one_liners():
    blocks = re.findall(r"^```sh\n(.*?)^```$", section(README, "Install and run"), re.MULTILINE | re.DOTALL)
    assert [block.count("\n") for block in blocks] == [1, 1]
    return [block.strip() for block in blocks]
