"""What somebody at a terminal sees of a batch."""

from __future__ import annotations

import re

import pexpect
import pytest

from llmcli.rows.progress import summary_lines
from llmcli.rows.tally import Summary, Tally
from llmcli.tasks import Result


@pytest.fixture
def terminal(llm_env, work):
    """Run the command in a pseudo-terminal; gives what it showed, and its exit code."""
    from conftest import LLM

    def run(*args: str) -> tuple[str, int]:
        env = {**llm_env, "TERM": "xterm", "NO_COLOR": "1"}
        child = pexpect.spawn(str(LLM), list(args), cwd=work, env=env, encoding="utf-8", dimensions=(24, 100))
        child.expect(pexpect.EOF, timeout=60)
        child.close()
        return child.before, child.exitstatus

    return run


def test_a_batch_shows_its_plan_its_progress_and_its_result(terminal, work, script):
    model = script(
        replies={"good": {"positive": 0.9, "neutral": 0.05, "negative": 0.05}}, scores="hash", delay=0.03
    )
    (work / "rows.csv").write_text("id,text\n" + "".join(f"{n},good {n}\n" for n in range(42)))

    shown, code = terminal("sentiment", "rows.csv", "-m", model, "-o", "out.csv")

    assert code == 0
    assert "42 rows, the longest has" in shown
    assert re.search(r"\d+ of 42 texts, .* rows/s, [\d,]+ tokens/s, .* left", shown)
    assert "42 rows, 42 distinct texts, 42 asked in" in shown
    assert re.search(r"positive █{30} 42", shown)


def test_quiet_shows_nothing(terminal, work, script):
    (work / "rows.csv").write_text("id,text\n1,good\n")

    assert terminal("sentiment", "rows.csv", "-m", script(scores="hash"), "-o", "out.csv", "-q") == ("", 0)


def test_control_characters_of_a_row_are_made_visible(terminal, work, script):
    (work / "rows.csv").write_text("id,text\n1,\x1b[2Jgone\n")

    shown, _ = terminal("sentiment", "rows.csv", "-m", script(scores="hash"))

    assert "\x1b[2J" not in shown
    assert "␛[2Jgone" in shown


def test_the_bars_are_as_long_as_their_counts():
    summary = Summary()
    for label in ["good"] * 20 + ["bad"] * 10:
        summary.add(Result(label), labelled=True)

    *_, good, bad = summary_lines(summary, Tally(), bars=80)

    assert good == "good " + "█" * 30 + " 20"
    assert bad == "bad  " + "█" * 15 + " 10"
